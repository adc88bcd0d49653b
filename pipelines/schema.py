"""What a prepared dataset looks like on disk: two parquet layouts and `schema.json`.

Both layouts hold the same thing, requests with a history and one or more targets. `user` keeps one
row a user, whose life is stored once and shared by all requests; `request` keeps one row a request.
Beside items and categories both may hold further id features, such as the type of a behaviour.
"""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipelines import from_json, storage

Layout = Literal["user", "request"]
FORMAT = 1
MOST_ROWS = 1 << 40
"""Of a table. The bytes of a table so long, 65,536 wide, still fit 64 bits, with Adam's moments."""

ID_LIST = pa.list_(pa.int64())
USER_LAYOUT = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item", ID_LIST),
        ("category", ID_LIST),
        ("timestamp", ID_LIST),
        (
            "requests",
            pa.list_(
                pa.struct(
                    [
                        ("history_end", pa.int32()),
                        ("timestamp", pa.int64()),
                        ("item", ID_LIST),
                        ("category", ID_LIST),
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
        ("history_item", ID_LIST),
        ("history_category", ID_LIST),
        ("history_timestamp", ID_LIST),
        ("timestamp", pa.int64()),
        ("item", ID_LIST),
        ("category", ID_LIST),
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


def is_file_name(path: str) -> bool:
    """Whether a file may be called so: in any script, without control characters."""
    try:
        os.fsencode(path)  # Takes bytes that are no text as the file system's names have them.
    except UnicodeEncodeError:
        return False
    return all(unicodedata.category(character) != "Cc" for character in path)


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
        schema = schema.append(pa.field(history_column(layout, name), ID_LIST))
    if layout == "request":
        return pa.schema([*schema, *((name, ID_LIST) for name in target_features)])
    entries = [*schema.field("requests").type.value_type, *((n, ID_LIST) for n in target_features)]
    requests = pa.field("requests", pa.list_(pa.struct(entries)))
    return schema.set(schema.get_field_index("requests"), requests)


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """One id feature: what its embedding table must hold."""

    rows: int = field(metadata={"least": 1, "most": MOST_ROWS})
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
    """What a split holds.

    `history_length` are mean and quantiles of the behaviours before a request, in the files.
    """

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
    """Best possible AUC by split, where the data's author knows it; `test_newest_200` is what the
    newest 200 behaviours allow."""
    format: int = FORMAT

    def best_auc(self, split: str, history_length: int) -> float | None:
        """The best possible AUC on a split, where it is known.

        Args:
            split: by name.
            history_length: behaviours that are seen, the newest; where it is not known what so
                many allow, it is what whole lives do.
        """
        return self.oracle.get(f"{split}_newest_{history_length}", self.oracle.get(split))

    def save(self, path: str) -> None:
        """Write the schema; the last file of a dataset, so that one without it is incomplete."""
        with storage.open_file(path, "w") as stream:
            json.dump(dataclasses.asdict(self), stream, indent=1)
            stream.write("\n")


def load_schema(path: str) -> DatasetSchema:
    """Read `schema.json`.

    Raises:
        ValueError: the file is missing, not JSON, of another format, lacks a field, or has one of
            another type or range.
    """
    if not storage.exists(path):
        raise ValueError(
            f"data.schema is {path}, which is not there; `dare prepare` writes it, "
            "`dare prepare parquet` for parquet of your own"
        )
    with storage.open_file(path, "r") as stream:
        try:
            raw = json.load(stream)
        except (ValueError, RecursionError) as error:  # Also what is no text, or nested too deep.
            raise ValueError(f"data.schema: {path} is not JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(
            f"data.schema: {path} has format {found!s:.100}; this version reads format {FORMAT}"
        )
    try:
        schema: DatasetSchema = from_json.read(DatasetSchema, raw)
        _check_names(schema)
    except ValueError as error:
        raise ValueError(f"data.schema: {path} is damaged: {error}") from error
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


def _check_names(schema: DatasetSchema) -> None:
    """Refuse what no feature and no file may be called."""
    for name in schema.tables:
        if name not in FEATURES and not is_feature_name(name):
            raise ValueError(f"tables names the feature {name!r:.100}; give {NAME_RULE}")
    for split, info in schema.splits.items():
        for file in info.files:
            if not is_file_name(file.path):
                raise ValueError(f"splits.{split}.files names {file.path!r:.100}, which is no file")
