"""What a prepared dataset looks like on disk: two parquet layouts and `schema.json`.

Both layouts hold the same thing, requests with a history and one or more targets. `user` keeps one
row a user, whose life is stored once and shared by all requests; `request` keeps one row a request.
Beside items and categories both may hold further id features, such as the type of a behaviour.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipelines import storage

Layout = Literal["user", "request"]
FORMAT = 1

_ids = pa.list_(pa.int64())
USER_LAYOUT = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item", _ids),
        ("category", _ids),
        ("timestamp", _ids),
        (
            "requests",
            pa.list_(
                pa.struct(
                    [
                        ("history_end", pa.int32()),
                        ("timestamp", pa.int64()),
                        ("item", _ids),
                        ("category", _ids),
                        ("label", pa.list_(pa.float32())),
                    ]
                )
            ),
        ),
    ]
)
REQUEST_LAYOUT = pa.schema(
    [
        ("user_id", pa.int64()),
        ("history_item", _ids),
        ("history_category", _ids),
        ("history_timestamp", _ids),
        ("timestamp", pa.int64()),
        ("item", _ids),
        ("category", _ids),
        ("label", pa.list_(pa.float32())),
    ]
)
LAYOUTS: dict[Layout, pa.Schema] = {"user": USER_LAYOUT, "request": REQUEST_LAYOUT}
FEATURES = ("item", "category")
"""Features that every dataset has."""
INTERVAL = "interval"
"""A feature that is on no disk: it is derived from timestamps."""
_TAKEN = {*FEATURES, INTERVAL, "position", "user_id", "timestamp"} | {
    *("requests", "history_end", "label")
}


_SIDES = ("history_", "target_")
NAME_RULE = f"letters, digits and _, not a column's name, not beginning with {' or '.join(_SIDES)}"
"""How a further feature may be called."""


def is_feature_name(name: str) -> bool:
    """Whether a further feature may be called so, by `NAME_RULE`."""
    # A batch has a feature as history_<name> and target_<name>, a file as <name> and
    # history_<name>: begun alike, one could be another's.
    return name.isidentifier() and name not in _TAKEN and not name.startswith(_SIDES)


def history_column(layout: Layout, feature: str) -> str:
    """Name of the column with the behaviours' ids of a feature."""
    return feature if layout == "user" else f"history_{feature}"


def layout_schema(
    layout: Layout, features: Sequence[str] = (), target_features: Sequence[str] = ()
) -> pa.Schema:
    """The columns of a layout.

    Args:
        layout: one of the two.
        features: further features of behaviours.
        target_features: those that targets have too.
    """
    schema = LAYOUTS[layout]
    for name in features:
        schema = schema.append(pa.field(history_column(layout, name), _ids))
    if layout == "request":
        return pa.schema([*schema, *((name, _ids) for name in target_features)])
    entries = [*schema.field("requests").type.value_type, *((n, _ids) for n in target_features)]
    requests = pa.field("requests", pa.list_(pa.struct(entries)))
    return schema.set(schema.get_field_index("requests"), requests)


def features_of(found: pa.Schema, layout: Layout) -> list[str]:
    """Further features of a file's behaviours: lists of integers beside the layout's columns."""
    names = [
        field.name if layout == "user" else field.name.removeprefix("history_")
        for field in found
        if layout == "user" or field.name.startswith("history_")
    ]
    return [
        name
        for name in names
        if is_feature_name(name)
        and _same_type(found.field(history_column(layout, name)).type, _ids)
    ]


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """One id feature: what its embedding table must hold."""

    rows: int
    """Rows of the table: the largest id + 1, or twice the different ids and one where they must be
    hashed. Id 0 is never used by a behaviour."""
    distinct: int
    """Different ids that occur."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One parquet file of a split."""

    path: str
    """Relative to the folder of `schema.json`."""
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What a split holds; `history_length` are quantiles of the behaviours before a request."""

    rows: int
    requests: int
    targets: int
    positives: int
    history_length: dict[str, float]
    files: list[FileInfo]


@dataclass(frozen=True, kw_only=True)
class DatasetSchema:
    """The content of `schema.json`."""

    source: str
    """Which `dare prepare` made it."""
    layout: Layout
    seed: int
    protocol: dict[str, Any]
    """Every option that shaped the data, by its command line name."""
    tables: dict[str, TableInfo]
    """`item` and `category`, and the data's further features by name."""
    splits: dict[str, SplitInfo]
    """`train`, `val`, and `test` if there is one."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What was read, kept and dropped, by reason."""
    oracle: dict[str, float] = field(default_factory=dict)
    """Best possible AUC by split, where the data's author knows it."""
    format: int = FORMAT

    def save(self, path: str) -> None:
        """Write the schema; the last file of a dataset, so that one without it is incomplete."""
        with storage.open_file(path, "w") as stream:
            json.dump(dataclasses.asdict(self), stream, indent=1)
            stream.write("\n")


def load_schema(path: str) -> DatasetSchema:
    """Read `schema.json`.

    Raises:
        ValueError: the file is missing, not JSON, of another format or lacks a field.
    """
    if not storage.exists(path):
        raise ValueError(
            f"data.schema is {path}, which is not there; `dare prepare` writes it, "
            "`dare prepare parquet` for parquet of your own"
        )
    with storage.open_file(path, "r") as stream:
        try:
            raw = json.load(stream)
        except json.JSONDecodeError as error:
            raise ValueError(f"data.schema: {path} is not JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(
            f"data.schema: {path} has format {found}; this version reads format {FORMAT}"
        )
    try:
        raw["tables"] = {name: TableInfo(**table) for name, table in raw["tables"].items()}
        raw["splits"] = {name: _split_info(split) for name, split in raw["splits"].items()}
        schema = DatasetSchema(**raw)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"data.schema: {path} is damaged: {what}") from error
    missing = [f"tables.{name}" for name in ("item", "category") if name not in schema.tables]
    missing += ["splits.train"] if "train" not in schema.splits else []
    missing += [
        f"splits.{name}.history_length.mean"
        for name, split in schema.splits.items()
        if "mean" not in split.history_length
    ]
    if missing:
        raise ValueError(
            f"data.schema: {path} lacks {', '.join(missing)}; `dare prepare` writes them, "
            "`dare prepare parquet` for parquet of your own"
        )
    return schema


def _split_info(raw: dict[str, Any]) -> SplitInfo:
    return SplitInfo(**{**raw, "files": [FileInfo(**file) for file in raw["files"]]})


def check_columns(
    found: pa.Schema, layout: Layout, path: str, features: Sequence[str] = ()
) -> None:
    """Compare a parquet file's columns with the layout's.

    Args:
        found: the file's.
        layout: to compare with.
        path: of the file.
        features: further features that are read; targets need not have them.

    Raises:
        ValueError: a column is missing or has another type. Names of list elements and integer
            widths of list values do not matter; extra columns are ignored.
    """
    base = LAYOUTS[layout].names
    whole = layout_schema(layout, features, [f for f in features if _of_targets(found, layout, f)])
    missing = [name for name in whole.names if name not in found.names]
    if missing:
        fitting = [other for other in LAYOUTS if set(LAYOUTS[other].names) <= set(found.names)]
        needs = f"data.layout {layout}" if missing[0] in base else "the feature of that name"
        raise ValueError(
            f"{path} has no column {missing[0]}, which {needs} needs; "
            f"it has {', '.join(found.names)}"
            + "".join(f"; that is data.layout {other}" for other in fitting if other != layout)
        )
    for wanted in whole:
        if not _same_type(found.field(wanted.name).type, wanted.type):
            raise ValueError(
                f"{path}: column {wanted.name} is {found.field(wanted.name).type}, "
                f"data.layout {layout} needs {wanted.type}"
            )


def _of_targets(found: pa.Schema, layout: Layout, feature: str) -> bool:
    """Whether a file has a feature for targets."""
    if layout == "request":
        return feature in found.names
    entries = found.field("requests").type if "requests" in found.names else pa.null()
    in_a_list = pa.types.is_list(entries) or pa.types.is_large_list(entries)
    return (
        in_a_list
        and pa.types.is_struct(entries.value_type)
        and entries.value_type.get_field_index(feature) >= 0
    )


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        return listed and _same_type(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return pa.types.is_struct(found) and all(
            found.get_field_index(f.name) >= 0 and _same_type(found.field(f.name).type, f.type)
            for f in wanted
        )
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
