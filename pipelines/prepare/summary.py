"""What a preparation did, as a table for people."""

from __future__ import annotations

from pipelines import storage
from pipelines.schema import DatasetSchema

_RECIPES = {"taobao": "taobao_dare", "tmall": "tmall_dare"}


def format_summary(schema: DatasetSchema) -> str:
    """What was read, kept and dropped, what the splits hold, where they are, and what to type next.

    Args:
        schema: what a `prepare_*` function returned.
    """
    out = str(schema.protocol.get("out", "."))
    blocks = [_rows(schema), _splits(schema), _tables(schema)]
    data = " ".join(
        f"--data.{split} {storage.join(out, split)}" for split in ("train", "val", "test")
    )
    recipe = _RECIPES.get(schema.source, "taobao_dare")
    blocks.append(
        f"data        {out} ({schema.layout} layout, seed {schema.seed})\n"
        f"next        dare train --config launch/recipes/{recipe}.yaml {data} "
        f"--data.schema {storage.join(out, 'schema.json')} --data.layout {schema.layout}"
    )
    return "\n\n".join(blocks)


def _rows(schema: DatasetSchema) -> str:
    counts = schema.counts
    read = counts["read"]
    lines = [f"{'rows read':<36}{read:>15,}"]
    lines += [
        f"{'  dropped: ' + reason:<36}{rows:>15,}{rows / max(read, 1):>9.2%}"
        for reason, rows in counts["dropped"].items()
        if rows
    ]
    lines.append(f"{'rows kept':<36}{counts['kept']:>15,}{counts['kept'] / max(read, 1):>9.2%}")
    for label, name in {
        "users": "users",
        "users kept": "users_kept",
        "rows that repeat an earlier one": "repeated",
        "items with two categories": "items_with_two_categories",
        "requests the life is too short for": "requests_without_history",
    }.items():
        lines.append(f"{label:<36}{counts[name]:>15,}")
    if counts["dropped"].get("damaged"):
        path = storage.join(str(schema.protocol.get("out", ".")), "quarantine.csv")
        lines.append(f"damaged rows are in {path}")
    return "\n".join(lines)


def _splits(schema: DatasetSchema) -> str:
    heads = ("rows", "requests", "targets", "positive", "history p50", "max")
    lines = [f"{'split':<8}" + "".join(f"{head:>14}" for head in heads)]
    for name, split in schema.splits.items():
        rate = f"{split.positives / max(split.targets, 1):.4f}"
        lengths = [f"{split.history_length[q]:,.0f}" for q in ("p50", "max")]
        values = [f"{n:,}" for n in (split.rows, split.requests, split.targets)]
        lines.append(f"{name:<8}" + "".join(f"{value:>14}" for value in [*values, rate, *lengths]))
    return "\n".join(lines)


def _tables(schema: DatasetSchema) -> str:
    return "\n".join(
        f"{name + ' table':<16}{table.rows:>14,} rows, {table.distinct:,} ids and padding"
        for name, table in schema.tables.items()
    )
