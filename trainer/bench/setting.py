"""What a measurement of training trains: a model, and data of a known shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from modules.model_config import Preset
from trainer.arguments import parse_config
from trainer.config import TrainConfig
from trainer.optim import SparseOptimizer

CATEGORIES = 9_407


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long something is measured.

    Raises:
        ValueError: not at all.
    """

    seconds: float = 3.0
    """Of a repeat, about."""
    repeats: int = 5
    """Of all that is measured in turn; the median counts."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"--seconds is {self.seconds}; it must be above 0, and finite")
        check_least("repeats", self.repeats)


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """Uniform ids, one request a user, full histories: the hardest case for tables and caches."""

    items: int = 4_068_790
    """Rows of the item table, but one."""
    history_length: int = 200
    """Behaviours of every history."""
    targets: int = 3
    """Targets a request."""


@dataclass(frozen=True, kw_only=True)
class TrainSetting:
    """A training that is measured; left as it is, the paper's.

    Raises:
        ValueError: nothing to train, or numbers that do not fit each other.
    """

    preset: Preset = "dare"
    """The model."""
    data: DataShape = DataShape()
    """What it learns from."""
    top_k: int = 20
    """Behaviours kept."""
    width: int = 16
    """Of each feature's embedding."""
    batch_size: int = 2048
    """Targets a step and rank."""
    auxiliary: bool = True
    """With the auxiliary loss."""
    sparse_optimizer: SparseOptimizer = "adam"
    """Of the tables."""
    representation_lookup: Literal["pooled", "unpooled"] = "pooled"
    """How the representation is read."""
    seed: int = 1
    """Of ids and starting values."""

    def __post_init__(self) -> None:
        numbers = {**asdict(self.data), "top_k": self.top_k, "batch_size": self.batch_size}
        for name, value in numbers.items():
            check_least(name, value)
        if self.data.targets > self.batch_size:
            raise ValueError(
                f"--targets is {self.data.targets}, --batch_size {self.batch_size}; a batch holds "
                "whole requests"
            )
        if self.top_k > self.data.history_length:
            raise ValueError(
                f"--top_k is {self.top_k}, --history_length {self.data.history_length}; a search "
                "keeps at most what there is"
            )

    @property
    def requests(self) -> int:
        """Requests a step and rank."""
        return self.batch_size // self.data.targets

    @property
    def behaviours(self) -> int:
        """Behaviours a step and rank."""
        return self.requests * self.data.history_length

    def config(self, folder: Path, options: Sequence[str] = ()) -> TrainConfig:
        """The run, built as the command line would.

        Args:
            folder: of its data.
            options: of the command line, which count more.
        """
        widths = f"{{item: {self.width}, category: {self.width}, position: {self.width}}}"
        return parse_config(
            [
                *(f"--data.{split}={folder / split}" for split in ("train", "val", "test")),
                f"--data.schema={folder / 'schema.json'}",
                f"--data.history_length={self.data.history_length}",
                f"--data.batch_size={self.batch_size}",
                f"--data.shuffle_requests={max(1, 8192 * 200 // self.data.history_length)}",
                f"--model.preset={self.preset}",
                f"--model.embeddings.attention={widths}",
                f"--model.embeddings.representation={widths}",
                f"--model.embeddings.representation_lookup={self.representation_lookup}",
                f"--model.search.top_k={self.top_k}",
                f"--model.head.auxiliary_weight={float(self.auxiliary)}",
                f"--optim.sparse.name={self.sparse_optimizer}",
                f"--seed={self.seed}",
                *options,
            ]
        )[0]


def check_least(name: str, value: int) -> None:
    """Refuse an option below 1.

    Raises:
        ValueError: it is.
    """
    if value < 1:
        raise ValueError(f"--{name} is {value}; it must be at least 1")
