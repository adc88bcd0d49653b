"""Where the data is and how it becomes batches: the config, a rank's share, hash collisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.parquet import IdMode, IdRules, hash_ids, list_row_groups, read_requests
from pipelines.schema import DatasetSchema, Layout
from pipelines.stream import EpochOrder, RequestDataset, StreamConfig, Targets

Split = Literal["train", "val", "test"]
_COLLISION_SAMPLE = 4_000_000


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
    rank has `data.workers` of them, at least one). One row group is always read whole."""
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
    """`check`: an id outside its table is an error. `hash`: ids are hashed into the table."""
    item_rows: int = 0
    """Rows of the item table; 0 takes the schema's."""
    category_rows: int = 0
    """Rows of the category table; 0 takes the schema's."""
    workers: int = 0
    """Processes a rank that read ahead; 0 reads in the training process."""

    def __post_init__(self) -> None:
        for name, least in (
            ("history_length", 1),
            ("batch_size", 1),
            ("behaviours_per_batch", 0),
            ("shuffle_requests", 0),
            ("shuffle_behaviours", 1),
            ("item_rows", 0),
            ("category_rows", 0),
            ("workers", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is {getattr(self, name)}; at least {least}")

    def rows(self, schema: DatasetSchema) -> dict[str, int]:
        """Rows of the tables.

        Raises:
            ValueError: a table is smaller than the data, or than hashing, needs.
        """
        rows = {}
        for name, asked in (("item", self.item_rows), ("category", self.category_rows)):
            needed = schema.tables[name].rows
            rows[name] = asked or needed
            if self.ids == "check" and rows[name] < needed:
                raise ValueError(
                    f"data.{name}_rows is {asked}, the data has ids up to {needed - 1}; "
                    f"give at least {needed}, or 0 for just that, or data.ids hash"
                )
            if self.ids == "hash" and rows[name] < 2:
                raise ValueError(
                    f"data.{name}_rows is {rows[name]}; data.ids hash leaves row 0 free and needs "
                    "at least 2"
                )
        return rows


def make_dataset(
    config: DataConfig, split: Split, schema: DatasetSchema, *, seed: int, rank: int, world: int
) -> RequestDataset:
    """One rank's share of a split; only training is shuffled.

    Raises:
        ValueError: no file, or columns that do not fit the layout.
    """
    pattern: str = getattr(config, split)
    try:
        groups = list_row_groups(pattern, config.layout)
    except ValueError as error:
        raise ValueError(f"data.{split}: {error}") from error
    stream = StreamConfig(
        layout=config.layout,
        history_length=config.history_length,
        batch_size=config.batch_size,
        shuffle_requests=config.shuffle_requests if split == "train" else 0,
        shuffle_behaviours=config.shuffle_behaviours,
        seed=seed,
        ids=IdRules(config.rows(schema), config.ids),
        behaviours_per_batch=config.behaviours_per_batch,
        targets=config.targets,
        epoch_order=config.epoch_order,
        last_batch="drop" if config.drop_last_evaluation and split != "train" else "keep",
    )
    return RequestDataset(groups, stream, rank=rank, world=world)


def count_collisions(dataset: RequestDataset) -> dict[str, tuple[int, int]]:
    """How many ids share a row after hashing, over the first few million behaviours of a share.

    Returns:
        By table: different ids, and how many of them share their row with another.
    """
    config = dataset.config
    seen: dict[str, list[np.ndarray]] = {"item": [], "category": []}
    read = 0
    for rows in dataset.groups:
        if read >= _COLLISION_SAMPLE:
            break
        requests = read_requests(
            rows,
            layout=config.layout,
            history_length=config.history_length,
            ids=IdRules({}, "as_is"),
        )
        read += len(requests.history_item)
        seen["item"] += [np.unique(requests.history_item), np.unique(requests.target_item)]
        seen["category"] += [
            np.unique(requests.history_category),
            np.unique(requests.target_category),
        ]
    return {name: _collisions(parts, config.ids.rows[name]) for name, parts in seen.items()}


def _collisions(parts: list[np.ndarray], rows: int) -> tuple[int, int]:
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))
    _, count = np.unique(hash_ids(ids, rows), return_counts=True)
    return len(ids), int(count[count > 1].sum())
