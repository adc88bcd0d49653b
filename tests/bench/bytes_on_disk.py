"""Bytes a sample on disk: `python -m tests.bench.bytes_on_disk [DATASET ...]`.

The training rows of each dataset that `dare prepare` made are written once more as the paper's
preprocessing leaves them, the history padded with zeros in each row, 102,400 rows a file. Without a
dataset one is made, with the paper's 19 requests a user, 3 targets each and 200 behaviours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.batch import Batch
from pipelines.loader import DataConfig, make_dataset
from pipelines.schema import load_schema
from pipelines.synthetic import prepare_synthetic

ROWS_A_FILE = 102_400


def rows_of(batch: Batch, history_length: int) -> Iterator[list[Any]]:
    """A batch as rows of the paper's code; a history's list is made anew for each row, as there."""
    features = batch.features
    counts = features["target_item"].lengths().tolist()
    histories = [features[f"history_{name}"].to_dense() for name in ("item", "category")]
    shown = [features[f"target_{name}"].values().tolist() for name in ("item", "category")]
    users, labels, target = batch.user.tolist(), batch.label.tolist(), 0
    for request, count in enumerate(counts):
        for _ in range(count):
            padded = []
            for history in histories:
                oldest_first = history[request].tolist()[::-1]
                padded.append([0] * (history_length - len(oldest_first)) + oldest_first)
            label = int(labels[target])
            row = [users[target], shown[0][target], shown[1][target], [label, 1 - label]]
            yield [*row, *padded]
            target += 1


def paper_bytes(batches: Iterator[Batch], history_length: int) -> tuple[int, int]:
    """Bytes of the paper's files, and rows in them; a file is counted and deleted."""
    waiting: list[list[Any]] = []
    total = rows = 0

    def write() -> int:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "train.npy"
            np.save(file, np.asarray(waiting, dtype=object))
            return file.stat().st_size

    for batch in batches:
        for row in rows_of(batch, history_length):
            waiting.append(row)
            rows += 1
            if len(waiting) == ROWS_A_FILE:
                total += write()
                waiting.clear()
    return (total + write() if waiting else total), rows


def compare(folder: Path, history_length: int) -> dict[str, Any]:
    """Both sizes of a dataset's training rows.

    Args:
        folder: of the dataset.
        history_length: behaviours of a row of the paper's.
    """
    config = DataConfig(
        train=str(folder / "train"),
        schema=str(folder / "schema.json"),
        history_length=history_length,
    )
    schema = load_schema(config.schema)
    dataset = make_dataset(config, "train", schema, seed=1, rank=0, world=1)
    paper, rows = paper_bytes((read.batch for read in dataset), history_length)
    ours = sum(file.stat().st_size for file in (folder / "train").rglob("*.parquet"))
    return {
        "source": schema.source,
        "samples": rows,
        "history_length": history_length,
        "paper_bytes_a_sample": round(paper / rows, 1),
        "ours_bytes_a_sample": round(ours / rows, 1),
        "ratio": round(paper / ours, 1),
    }


def main() -> None:
    """Tell of each dataset in a JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bytes_on_disk", description=__doc__
    )
    parser.add_argument("datasets", nargs="*", help="folders that `dare prepare` made")
    parser.add_argument("--history_length", type=int, default=200)
    parser.add_argument("--users", type=int, default=2_000, help="of the dataset that is made")
    parser.add_argument("--items", type=int, default=100_000, help="of the dataset that is made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(folder) for folder in given.datasets]
        if not folders:
            folders = [Path(work) / "synthetic"]
            prepare_synthetic(
                out=str(folders[0]),
                users=given.users,
                items=given.items,
                categories=1_000,
                history_length=given.history_length,
                requests=19,
                targets=3,
                short_histories=0.0,
            )
        for folder in folders:
            if not (folder / "schema.json").is_file():
                sys.exit(f"{folder} holds no schema.json; give folders that `dare prepare` made")
            print(json.dumps(compare(folder, given.history_length)))


if __name__ == "__main__":
    main()
