"""What a preparation did, as a table for people."""

from __future__ import annotations

from pipelines import storage
from pipelines.schema import FEATURES, DatasetSchema

# The recipe of sources without one of their own: the paper's setting for Taobao.
_RECIPES = {"csv": "taobao_dare", "parquet": "taobao_dare"}


def format_summary(schema: DatasetSchema, out: str) -> str:
    """What was read, kept and dropped, what the splits hold, where they are, and what to type next.

    Args:
        schema: what a `prepare_*` function returned.
        out: the folder it wrote to.
    """
    blocks = [_rows(schema, out)] if "read" in schema.counts else []
    blocks += [_splits(schema), _tables(schema)]
    if schema.counts.get("unsorted"):
        blocks.append(
            f"{schema.counts['unsorted']:,} requests have a history that is not in order of its "
            "timestamps; a history is read in the order of its list, oldest first"
        )
    # A split whose labels are all alike has no AUC.
    known = [f"{name} {schema.oracle[name]:.5f}" for name in schema.splits if name in schema.oracle]
    if known:
        blocks.append("best possible AUC  " + "  ".join(known))
        for name, best in schema.oracle.items():
            split, newest, length = name.rpartition("_newest_")
            if newest:
                blocks[-1] += f"\n{f'{split}, newest {int(length):,}':<27}{best:.5f}"
    recipe = _RECIPES.get(schema.source, f"{schema.source}_dare")
    command = f"dare train --config launch/recipes/{recipe}.yaml"
    if (out, schema.layout) != (f"data/{recipe.removesuffix('_dare')}", "user"):
        command += (
            f" --data.layout {schema.layout} --data.schema {storage.join(out, 'schema.json')}"
        )
        command += "".join(f" --data.{split} {storage.join(out, split)}" for split in schema.splits)
        command += "" if "test" in schema.splits else " --data.test ''"
    if schema.counts.get("hash"):
        command += " --data.ids hash"
    further = ", ".join(f"{name}: 4" for name in schema.tables if name not in FEATURES)
    if further:
        spaces = ("attention", "representation")
        options = (f"--model.embeddings.{name}.features '{{{further}}}'" for name in spaces)
        blocks.append(f"features    read with {' '.join(options)}")
    blocks.append(
        f"data        {out} ({schema.layout} layout, seed {schema.seed})\nnext        {command}"
    )
    return "\n\n".join(blocks)


def _rows(schema: DatasetSchema, out: str) -> str:
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
        lines.append(f"damaged rows are in {storage.join(out, 'quarantine.csv')}")
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
    width = max(16, *(len(f"{name} table ") for name in schema.tables))
    lines = [
        f"{name + ' table':<{width}}{table.rows:>14,} rows, {table.distinct:,} ids and padding"
        for name, table in schema.tables.items()
    ]
    lines += [
        f"{name + ' ids':<{width}}are no rows of a table ({why}): train with --data.ids hash"
        for name, why in schema.counts.get("hash", {}).items()
    ]
    return "\n".join(lines)
