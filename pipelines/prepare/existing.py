"""`dare prepare parquet`: `schema.json` for parquet that is already in one of the two layouts."""

from __future__ import annotations

import logging

import numpy as np

from pipelines import storage
from pipelines.parquet import IdRules, RowRange, list_row_groups, read_requests
from pipelines.prepare.writer import SPLITS, SplitStatistics, file_info
from pipelines.schema import DatasetSchema, FileInfo, Layout, SplitInfo, TableInfo

_log = logging.getLogger(__name__)

_WHOLE_LIFE = 1 << 62
_MOST_ROWS = 1 << 31
_SMALL_TABLE = 1 << 20
_MOST_ROWS_AN_ID = 20


class _Ids:
    """The ids of a table: how many, from which to which. Memory grows with the different ones."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.int64)
        self._new: list[np.ndarray] = []
        self._num_new = 0

    def add(self, ids: np.ndarray) -> None:
        self._new.append(np.unique(ids))
        self._num_new += len(self._new[-1])
        # Merged when they have doubled, so that an id is sorted a few times in all.
        if self._num_new > max(len(self._known), _SMALL_TABLE):
            self.known()

    def known(self) -> np.ndarray:
        self._known = np.unique(np.concatenate([self._known, *self._new]))
        self._new, self._num_new = [], 0
        return self._known

    def unfit(self) -> str:
        """What is wrong with them as rows of a table; empty if they fit."""
        ids = self.known()
        least, largest = int(ids[0]), int(ids[-1])
        most = min(_MOST_ROWS, max(_SMALL_TABLE, _MOST_ROWS_AN_ID * len(ids)))
        if least >= 0 and largest < most:
            return ""
        return f"{len(ids):,} different ids from {least:,} to {largest:,}"

    def table(self, *, hashed: bool) -> TableInfo:
        """The table they need, as rows or with two rows an id to be hashed into."""
        ids = self.known()
        rows = 2 * len(ids) + 1 if hashed else int(ids[-1]) + 1
        return TableInfo(rows=rows, distinct=len(ids))


def describe_parquet(*, out: str, layout: Layout = "user") -> DatasetSchema:
    """Check parquet that is already in a layout of this project, and write its `schema.json`.

    The README describes the two layouts. Nothing but `schema.json` is written.

    Args:
        out: Folder with `train/ val/`, and `test/` if there is one; `schema.json` goes there too.
        layout: `user`: one row a user. `request`: one row a request.

    Returns:
        What `schema.json` says: rows of the tables from the largest ids, counts, lengths of the
        histories, checksums. Requests without targets are not counted. Ids that cannot be rows, as
        they are negative, 2^31 or more, or far apart, are told under `counts`; then both tables
        have two rows an id to be hashed into.

    Raises:
        ValueError: a split is missing or its rows are not what the layout says, with file and row;
            or the folder has a `schema.json`.
    """
    target = storage.join(out, "schema.json")
    if storage.exists(target):
        raise ValueError(f"--out is {out}, which has a schema.json; remove it to describe it anew")
    ids = {"item": _Ids(), "category": _Ids()}
    splits = {
        split: _describe_split(out, split, layout, ids)
        for split in SPLITS
        if split != "test" or storage.exists(storage.join(out, split))
    }
    if not splits["train"].targets:
        raise ValueError(f"--out is {out}: train/ has no targets; nothing can be learned from it")
    unfit = {name: why for name, seen in ids.items() if (why := seen.unfit())}
    schema = DatasetSchema(
        source="parquet",
        layout=layout,
        seed=0,
        protocol={},
        # data.ids is for both tables.
        tables={name: seen.table(hashed=bool(unfit)) for name, seen in ids.items()},
        splits=splits,
        counts={"hash": unfit} if unfit else {},
    )
    schema.save(target)
    return schema


def _describe_split(out: str, split: str, layout: Layout, ids: dict[str, _Ids]) -> SplitInfo:
    """Read a split one row group at a time."""
    folder = storage.join(out, split)
    # A file without rows has no row group.
    statistics, rows = SplitStatistics(), dict.fromkeys(storage.find(folder), 0)
    for group in list_row_groups(folder, layout):
        rows[group.path] += group.stop
        _add(statistics, group, layout, ids)
        _log.info("%s: %s rows of %s", split, f"{rows[group.path]:,}", group.path)
    return statistics.info([_file(out, path, count) for path, count in rows.items()])


def _add(
    statistics: SplitStatistics, group: RowRange, layout: Layout, ids: dict[str, _Ids]
) -> None:
    rules = IdRules({}, "as_is")
    found = read_requests(group, layout=layout, history_length=_WHOLE_LIFE, ids=rules)
    statistics.add(found.end - found.start, found.label)
    ids["item"].add(found.history_item)
    ids["item"].add(found.target_item)
    ids["category"].add(found.history_category)
    ids["category"].add(found.target_category)


def _file(out: str, path: str, rows: int) -> FileInfo:
    return file_info(out, path.removeprefix(out.rstrip("/") + "/"), rows)
