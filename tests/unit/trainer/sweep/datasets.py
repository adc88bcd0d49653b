"""Datasets of which only the names of the files are there."""

from pathlib import Path

from pipelines.schema import DatasetSchema, FileInfo, SplitInfo, TableInfo


def leave_schema(folder: Path, **files: list[str]) -> None:
    """Write the `schema.json` of a dataset, and three bytes for each of its files, by split."""
    splits = {}
    for split, names in files.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        infos = [
            FileInfo(path=f"{split}/{name}", rows=1, sha256=f"digest of {split}/{name}")
            for name in names
        ]
        for info in infos:
            (folder / info.path).write_bytes(b"abc")
        splits[split] = SplitInfo(
            rows=1, requests=1, targets=1, positives=1, history_length={"mean": 1.0}, files=infos
        )
    table = TableInfo(rows=10, distinct=9)
    DatasetSchema(
        source="a test",
        layout="user",
        seed=1,
        protocol={},
        tables={"item": table, "category": table},
        splits=splits,
    ).save(str(folder / "schema.json"))
