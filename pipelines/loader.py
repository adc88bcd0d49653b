"""Where the data is and how it becomes batches: the config, a rank's share, hash collisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipelines import storage
from pipelines.from_json import MOST
from pipelines.ids import IdMode, IdRules, hash_ids, rows_option
from pipelines.interval import MOST_BUCKETS
from pipelines.parquet import read_requests
from pipelines.row_groups import RowRange, list_row_groups
from pipelines.schema import (
    FEATURES,
    INTERVAL,
    MOST_ROWS,
    NAME_RULE,
    DatasetSchema,
    FileInfo,
    Layout,
    is_feature_name,
)
from pipelines.stream import EpochOrder, RequestDataset, StreamConfig, Targets

Split = Literal["train", "val", "test"]
_COLLISION_SAMPLE = 4_000_000
_MOST_OF_A_BATCH = (1 << 31) - 1
"""Places in a history, and in a batch, are int32 on disk and in kernels."""
_MOST_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how it becomes batches."""

    layout: Layout = "user"
    """`user`: one row a user, whose life is stored once. `request`: one row a request."""
    train: str = "data/synthetic/train"
    """Training requests: a file, a folder, or a glob."""
    val: str = "data/synthetic/val"
    """Validation requests."""
    test: str = "data/synthetic/test"
    """Test requests."""
    schema: str = "data/synthetic/schema.json"
    """What `dare prepare` wrote about the data."""
    history_length: int = 200
    """Behaviours a history has at most, the newest."""
    batch_size: int = 2048
    """Targets a step and rank at most; a request's targets stay together."""
    behaviours_per_batch: int = 0
    """Behaviours a step and rank at most, so that ranks with long and with short histories work
    equally long; a batch ends at this or at `batch_size`. 0 for any number."""
    shuffle_requests: int = 131072
    """Requests that are shuffled together, drawn from several row groups; memory grows with it."""
    shuffle_behaviours: int = 1 << 27
    """Behaviours of stored histories at which these end too: 16 bytes each, so 2 GiB a reader (each
    rank has `data.workers` of them, at least one); 8 bytes more for each feature beyond item and
    category. One row group is always read whole."""
    targets: Targets = "together"
    """`together`: a request's targets are in one batch and share its history there. `apart`: each
    is a request of its own, shuffled alone, as in the paper's released code; its history is then
    read and looked up once for each."""
    epoch_order: EpochOrder = "new"
    """`new`: each epoch is shuffled anew. `same`: all go through the order of the first, as in the
    paper's released code."""
    drop_last_evaluation: bool = False
    """Leave out the last batch of val and of test where it is not full, as the paper's released
    code does; each reader leaves out its own."""
    ids: IdMode = "check"
    """`check`: an id outside its table is an error. `hash`: ids are hashed into the table, those of
    further features as well; only their 0, which is what a target without them has, stays 0."""
    item_rows: int = 0
    """Rows of the item table; 0 takes the schema's."""
    category_rows: int = 0
    """Rows of the category table; 0 takes the schema's."""
    feature_rows: dict[str, int] = field(default_factory=dict)
    """Rows of the tables of further features by name; the schema's for those not named."""
    interval_buckets: int = 32
    """Buckets of the time between a behaviour and its request, where the model reads it: 1 for less
    than `interval_unit`, 2 for one, 3 for two and three, and so on by doubling; the last holds all
    that is longer, with 32 from 34 years of seconds on. Bucket 0 is the target's own."""
    interval_unit: int = 1
    """Units of the data's timestamps that count as one: 86400 where they are seconds of whole
    days, 1000 where they are milliseconds."""
    workers: int = 0
    """Processes a rank that read ahead; 0 reads in the training process."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("history_length", 1, _MOST_OF_A_BATCH),
            ("batch_size", 1, _MOST_OF_A_BATCH),
            ("behaviours_per_batch", 0, MOST),
            ("shuffle_requests", 0, MOST),
            ("shuffle_behaviours", 1, MOST),
            ("item_rows", 0, MOST_ROWS),
            ("category_rows", 0, MOST_ROWS),
            ("interval_buckets", 1, MOST_BUCKETS),
            ("interval_unit", 1, MOST),
            ("workers", 0, _MOST_WORKERS),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                limit = f"at least {least}" if value < least else f"at most {most}"
                raise ValueError(f"data.{name} is {value}; {limit}")
        for name, rows in self.feature_rows.items():
            if not is_feature_name(name) or not 0 <= rows <= MOST_ROWS:
                raise ValueError(
                    f"data.feature_rows has {name}: {rows}; give rows from 0 to {MOST_ROWS} by the "
                    f"name of a feature other than item and category ({NAME_RULE})"
                )

    def rows(self, schema: DatasetSchema, features: Sequence[str] = FEATURES) -> dict[str, int]:
        """Rows of the tables by feature.

        Args:
            schema: of the data.
            features: that the model looks up.

        Raises:
            ValueError: the data lacks a feature, or a table is smaller than the data, or than
                hashing, needs.
        """
        for section, names in (
            ("model.embeddings", features),
            ("data.feature_rows", self.feature_rows),
        ):
            strange = [name for name in names if name not in (*schema.tables, INTERVAL)]
            if strange:
                further = [name for name in schema.tables if name not in FEATURES]
                raise ValueError(
                    f"{section} names the feature {strange[0]}; beside item and category "
                    f"{self.schema} has {', '.join(further) or 'none'}"
                )
        asked = {"item": self.item_rows, "category": self.category_rows, **self.feature_rows}
        return {
            name: self.interval_buckets + 1
            if name == INTERVAL
            else self._rows(name, asked.get(name, 0), schema.tables[name].rows)
            for name in features
        }

    def _rows(self, name: str, asked: int, needed: int) -> int:
        rows, option = asked or needed, f"data.{rows_option(name)}"
        if self.ids == "check" and rows < needed:
            raise ValueError(
                f"{option} is {asked}, the data has ids up to {needed - 1}; "
                f"give at least {needed}, or 0 for just that, or data.ids hash"
            )
        if self.ids == "hash" and rows < 2:
            raise ValueError(
                f"{option} is {rows}; data.ids hash leaves row 0 free and needs at least 2"
            )
        return rows


def make_dataset(
    config: DataConfig,
    split: Split,
    schema: DatasetSchema,
    *,
    seed: int,
    rank: int,
    world: int,
    features: Sequence[str] = FEATURES,
) -> RequestDataset:
    """One rank's share of a split; only training is shuffled.

    Args:
        config: where the data is.
        split: which.
        schema: of the data.
        seed: of the order.
        rank: of this process.
        world: ranks in all.
        features: that the model looks up; no others are read.

    Raises:
        ValueError: no file, columns that do not fit the layout, or a file that the schema lists is
            missing or has another number of rows.
    """
    pattern: str = getattr(config, split)
    ids = IdRules(config.rows(schema, features), config.ids, config.interval_unit)
    further = [name for name in ids.on_disk if name not in FEATURES]
    try:
        groups = list_row_groups(pattern, config.layout, further)
        if split in schema.splits:
            _check_listed(pattern, groups, config.schema, schema.splits[split].files)
    except ValueError as error:
        raise ValueError(f"data.{split}: {error}") from error
    stream = StreamConfig(
        layout=config.layout,
        history_length=config.history_length,
        batch_size=config.batch_size,
        shuffle_requests=config.shuffle_requests if split == "train" else 0,
        shuffle_behaviours=config.shuffle_behaviours,
        seed=seed,
        ids=ids,
        behaviours_per_batch=config.behaviours_per_batch,
        targets=config.targets,
        epoch_order=config.epoch_order,
        last_batch="drop" if config.drop_last_evaluation and split != "train" else "keep",
    )
    return RequestDataset(groups, stream, rank=rank, world=world)


def _check_listed(
    pattern: str, groups: Sequence[RowRange], schema: str, listed: Sequence[FileInfo]
) -> None:
    """Compare the files of a split with those that its schema lists and its pattern means.

    Files that the schema does not know are taken: ids are checked as they are read.
    """
    rows = dict.fromkeys(map(storage.place, storage.find(pattern)), 0)
    for group in groups:
        rows[storage.place(group.path)] += group.stop
    home = schema.rpartition("/")[0] or "."
    for file in listed:
        path = storage.join(home, file.path)
        held = rows.get(storage.place(path))
        if held != file.rows and storage.is_meant(path, pattern):
            has = "is missing" if held is None else f"has {held:,} rows"
            raise ValueError(
                f"{path} {has}; {schema} lists it with {file.rows:,} rows: put that file there, or "
                "remove the schema and describe the data anew with `dare prepare parquet`"
            )


def count_collisions(dataset: RequestDataset) -> dict[str, tuple[int, int]]:
    """How many ids share a row after hashing, over the first few million behaviours of a share.

    Returns:
        By table: different ids, and how many of them share their row with another.
    """
    config = dataset.config
    features = config.ids.on_disk
    seen: dict[str, list[np.ndarray]] = {name: [] for name in features}
    read = 0
    for rows in dataset.groups:
        if read >= _COLLISION_SAMPLE:
            break
        requests = read_requests(
            rows,
            layout=config.layout,
            history_length=config.history_length,
            ids=IdRules(dict.fromkeys(features, 0), "as_is"),
        )
        read += len(requests.history["item"])
        for name, parts in seen.items():
            parts += [np.unique(requests.history[name]), np.unique(requests.target[name])]
    return {name: _collisions(name, parts, config.ids.rows[name]) for name, parts in seen.items()}


def _collisions(feature: str, parts: list[np.ndarray], rows: int) -> tuple[int, int]:
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))
    ids = ids if feature in FEATURES else ids[ids != 0]
    _, count = np.unique(hash_ids(ids, rows), return_counts=True)
    return len(ids), int(count[count > 1].sum())
