"""`dare prepare parquet`: `schema.json` for parquet that is already in one of the two layouts."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.columns import features_of
from pipelines.ids import IdRules
from pipelines.parquet import read_requests
from pipelines.prepare.writer import SPLITS, SplitStatistics, file_info
from pipelines.requests import Requests
from pipelines.row_groups import RowRange, list_row_groups
from pipelines.schema import (
    FEATURES,
    INTERVAL,
    NAME_RULE,
    DatasetSchema,
    FileInfo,
    Layout,
    SplitInfo,
    TableInfo,
    is_feature_name,
    is_file_name,
)

_log = logging.getLogger(__name__)

_WHOLE_LIFE = 1 << 62
_MOST_ROWS = 1 << 31
_SMALL_TABLE = 1 << 20
_MOST_ROWS_AN_ID = 20
_ROWS_A_HASHED_ID = 64
"""Of further features: they have few ids, and two behaviour types in one row would be one."""


class _Ids:
    """The ids of a table: how many, from which to which. Memory grows with the different ones."""

    def __init__(self, feature: str) -> None:
        self._feature = feature
        self._known = np.zeros(0, np.int64)
        self._new: list[np.ndarray] = []
        self._num_new = 0

    def add(self, ids: np.ndarray) -> None:
        """Take ids; of further features without 0, which is what targets without them have."""
        self._new.append(np.unique(ids if self._feature in FEATURES else ids[ids != 0]))
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
        if not len(ids):
            return ""
        least, largest = int(ids[0]), int(ids[-1])
        most = min(_MOST_ROWS, max(_SMALL_TABLE, _MOST_ROWS_AN_ID * len(ids)))
        if least >= 0 and largest < most:
            return ""
        return f"{len(ids):,} different ids from {least:,} to {largest:,}"

    def table(self, *, hashed: bool) -> TableInfo:
        """The table they need, as rows or with two rows an id or more to be hashed into."""
        ids = self.known()
        rows = int(ids[-1]) + 1 if len(ids) else 1
        if hashed:
            rows = 2 * len(ids) + 1
            if self._feature not in FEATURES:
                rows = max(rows, min(_ROWS_A_HASHED_ID * (len(ids) + 16), _SMALL_TABLE))
        return TableInfo(rows=rows, distinct=len(ids))


class _Order:
    """Whether histories are oldest first by their timestamps."""

    def __init__(self) -> None:
        self.rising = self.falling = self.unsorted = 0

    def add(self, found: Requests) -> None:
        """Count requests by the times of their histories."""
        assert found.clock is not None
        steps = np.sign(np.diff(found.clock.behaviour, prepend=0))
        held = np.flatnonzero(found.end - found.start > 1)
        # Steps between the behaviours of a history; the one into its first is another's.
        rises, falls = (
            total[found.end[held] - 1] - total[found.start[held]]
            for total in (np.cumsum(steps > 0), np.cumsum(steps < 0))
        )
        self.rising += int((rises > 0).sum())
        self.falling += int(((falls > 0) & (rises == 0)).sum())
        self.unsorted += int((falls > 0).sum())


def describe_parquet(
    *, out: str, layout: Layout = "user", features: tuple[str, ...] | None = None
) -> DatasetSchema:
    """Check parquet that is already in a layout of this project, and write its `schema.json`.

    The README describes the two layouts. Nothing but `schema.json` is written.

    Args:
        out: Folder with `train/ val/`, and `test/` if there is one; `schema.json` goes there too.
        layout: `user`: one row a user. `request`: one row a request.
        features: Id features beside item and category, such as `[behaviour_type]`: lists of
            integers beside the behaviours' items, `<name>` with the user layout, `history_<name>`
            with the request layout; targets may have them too, as `<name>` beside their items.
            Without this option all that every file has.

    Returns:
        What `schema.json` says: rows of the tables from the largest ids, counts, lengths of the
        histories, checksums. Requests without targets are not counted. How many have a history
        that is not in order of its timestamps is told as `unsorted` under `counts`. Ids that cannot
        be rows, as they are negative, 2^31 or more, or far apart, are told under `counts`; then
        both tables have two rows an id to be hashed into.

    Raises:
        ValueError: a split is missing or its rows are not what the layout says, with file and row;
            a file's name has a control character; all histories are newest first; or the folder has
            a `schema.json`.
    """
    for name in features or ():
        if not is_feature_name(name):
            raise ValueError(f"--features has {name!r}; a feature's name is of {NAME_RULE}")
    target = storage.join(out, "schema.json")
    if storage.exists(target):
        raise ValueError(f"--out is {out}, which has a schema.json; remove it to describe it anew")
    names = [
        split for split in SPLITS if split != "test" or storage.exists(storage.join(out, split))
    ]
    _check_file_names(out, names)
    if features is None:
        features = _common_features(out, names, layout)
    ids = {name: _Ids(name) for name in (*FEATURES, *features)}
    order = _Order()
    splits = {split: _describe_split(out, split, layout, ids, order) for split in names}
    if not splits["train"].targets:
        raise ValueError(f"--out is {out}: train/ has no targets; nothing can be learned from it")
    if order.falling and not order.rising:
        raise ValueError(
            f"--out is {out}: histories are newest first, the timestamps of all {order.falling:,} "
            "fall; a history is oldest first: turn the lists around"
        )
    unfit = {name: why for name, seen in ids.items() if (why := seen.unfit())}
    schema = DatasetSchema(
        source="parquet",
        layout=layout,
        seed=0,
        protocol={},
        # data.ids is for all tables.
        tables={name: seen.table(hashed=bool(unfit)) for name, seen in ids.items()},
        splits=splits,
        counts=({"hash": unfit} if unfit else {})
        | ({"unsorted": order.unsorted} if order.unsorted else {}),
    )
    schema.save(target)
    return schema


def _check_file_names(out: str, splits: list[str]) -> None:
    """Refuse a file that `load_schema` would say is none."""
    for split in splits:
        for path in storage.find(storage.join(out, split)):
            if not is_file_name(path.removeprefix(out)):
                raise ValueError(f"{path!r} has a control character in its name; rename the file")


def _common_features(out: str, splits: list[str], layout: Layout) -> tuple[str, ...]:
    """Further features that every file of all splits has."""
    found: list[list[str]] = []
    for split in splits:
        # Reads every footer, and names a file that is not what the layout says.
        list_row_groups(storage.join(out, split), layout)
        for path in storage.find(storage.join(out, split)):
            with storage.open_file(path, "rb") as stream:
                found.append(features_of(pq.read_schema(stream), layout))
    return tuple(name for name in found[0] if all(name in names for names in found))


def _describe_split(
    out: str, split: str, layout: Layout, ids: dict[str, _Ids], order: _Order
) -> SplitInfo:
    """Read a split one row group at a time."""
    folder = storage.join(out, split)
    # A file without rows has no row group.
    statistics, rows = SplitStatistics(), dict.fromkeys(storage.find(folder), 0)
    further = [name for name in ids if name not in FEATURES]
    for group in list_row_groups(folder, layout, further):
        rows[group.path] += group.stop
        order.add(_add(statistics, group, layout, ids))
        _log.info("%s: %s rows of %s", split, f"{rows[group.path]:,}", group.path)
    return statistics.info([_file(out, path, count) for path, count in rows.items()])


def _add(
    statistics: SplitStatistics, group: RowRange, layout: Layout, ids: dict[str, _Ids]
) -> Requests:
    # With intervals the timestamps are read and checked too.
    rules = IdRules({**dict.fromkeys(ids, 0), INTERVAL: 2}, "as_is")
    found = read_requests(group, layout=layout, history_length=_WHOLE_LIFE, ids=rules)
    statistics.add(found.end - found.start, found.label)
    for name, seen in ids.items():
        seen.add(found.history[name])
        seen.add(found.target[name])
    return found


def _file(out: str, path: str, rows: int) -> FileInfo:
    return file_info(out, path.removeprefix(out.rstrip("/") + "/"), rows)
