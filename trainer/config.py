"""The config of a run: all sections, and the rules that need two of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from modules.model_config import RankerConfig
from modules.presets import check_preset
from pipelines.loader import DataConfig
from pipelines.overlap import Overlap
from pipelines.schema import DatasetSchema
from trainer.checkpoints.config import CheckpointConfig
from trainer.limits import number_problems
from trainer.optim import OptimConfig
from trainer.reliability.watchdog import WatchdogConfig
from trainer.sharding import ShardingConfig
from trainer.telemetry.telemetry import TelemetryConfig

_LONGEST_NAME = 200
"""Bytes of a run's name; file systems take 255, and names of a run's files begin with it."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and what happens on the way."""

    epochs: int = 1
    """Passes over the training data."""
    steps: int = 0
    """Steps at most; 0 for as many as the epochs have."""
    evaluate_every: int = 0
    """Steps between evaluations on `data.val`; 0 evaluates at the end only."""
    l2: float = 1e-6
    """Factor of the penalty on dense weights, biases and embeddings excepted: l2 * sum theta^2."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of all that follows the lookups; tables and optimizers stay float32."""
    overlap: Overlap = "sparse_dist"
    """What of the next batch is done while one computes: `plain` nothing, `sparse_dist` the
    exchange of its ids, `prefetch` (CUDA) also the filling of caches of tables in host memory."""
    released_metrics: bool = False
    """Tell in each evaluation what the paper's released code would, beside the exact metrics: an
    AUC that does not know ties (auc_released), the mean AUC of the target categories
    (category_auc_released), a log loss with the auxiliary loss in it (logloss_released). They
    depend on the order of the rows: one process, and `data.workers` at most 1."""
    check_loss_every: int = 20
    """Steps between looks at the losses since the last look, which end the run where one is not
    finite; there is a look before each evaluation and checkpoint too. A look comes before the
    update of its step, so with 1 the tables are still whole, and the batch is kept for
    `dare replay`; each look waits for the device."""

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("steps", 0),
            ("evaluate_every", 0),
            ("l2", 0),
            ("check_loss_every", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"loop.{name} is {getattr(self, name)}; at least {least}")

    @property
    def autocast(self) -> torch.dtype | None:
        """The compute type where it is not float32."""
        return torch.bfloat16 if self.precision == "bfloat16" else None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    name: str = "run"
    """Name of the run; its files go to `<out_dir>/<name>/`."""
    out_dir: str = "runs"
    """Folder of all runs."""
    seed: int = 1
    """Of initial values and of the order of the data."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the data is and how it becomes batches."""
    model: RankerConfig = field(default_factory=RankerConfig)
    """The model."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """Where the tables live."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizers and schedule."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How long to train."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    """What to log."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """When a run that hangs is ended."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name is {self.name!r}; it names a folder: no slash, no leading dot")
        if not self.name.isprintable() or len(self.name.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"name is {self.name[:50]!r}; it names a folder: printable characters, at most "
                f"{_LONGEST_NAME} bytes"
            )
        if "\0" in self.out_dir:
            raise ValueError(f"out_dir is {self.out_dir!r}; no folder has a NUL in its name")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        problems = list(number_problems(self))
        if problems:
            raise ValueError("\n".join(problems))

    def check(self, schema: DatasetSchema, world: int) -> None:
        """Check what needs two sections, the data or the job, all of it before anything starts.

        Args:
            schema: of the data.
            world: ranks of the job.

        Raises:
            ValueError: with every problem, one a line.
        """
        problems = [
            f"data.{split} is empty; give a file, a folder or a glob"
            for split in ("train", "val")
            if not getattr(self.data, split)
        ]
        if self.data.layout != schema.layout:
            problems.append(
                f"data.layout is {self.data.layout}, {self.data.schema} says {schema.layout}"
            )
        if self.model.search.top_k > self.data.history_length:
            problems.append(
                f"model.search.top_k is {self.model.search.top_k} but data.history_length is "
                f"{self.data.history_length}; a search keeps at most what there is"
            )
        narrow = self._unpooled_widths()
        if self.sharding.communication.forward == "int8" and narrow:
            problems.append(
                f"sharding.communication.forward is int8, unpooled tables are {narrow} wide; it "
                "needs multiples of 32: choose such widths, or bf16"
            )
        problems += [*self._order_problems(world), *self._dropped_problems(schema, world)]
        for check in (
            lambda: self.data.rows(schema, self.model.embeddings.features),
            lambda: check_preset(self.model),
        ):
            try:
                check()
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))

    def _order_problems(self, world: int) -> list[str]:
        """Why the rows of a split would not be scored in their order."""
        told = "loop.released_metrics depend on the order of the rows, and"
        found = ((world, "there are {} ranks"), (self.data.workers, "data.workers is {}"))
        return [
            f"{told} {what.format(count)}; at most 1"
            for count, what in found
            if self.loop.released_metrics and count > 1
        ]

    def _dropped_problems(self, schema: DatasetSchema, world: int) -> list[str]:
        """Splits of which no full batch would be left."""
        readers = world * max(1, self.data.workers)
        targets = {name: split.targets for name, split in schema.splits.items() if name != "train"}
        return [
            f"data.drop_last_evaluation leaves nothing of data.{name}: it has {count} targets, a "
            f"batch of each of {readers} readers has data.batch_size {self.data.batch_size}"
            for name, count in targets.items()
            if self.data.drop_last_evaluation and count < readers * self.data.batch_size
        ]

    def _unpooled_widths(self) -> list[int]:
        """Widths of unpooled tables that are no multiples of 32."""
        embeddings = self.model.embeddings
        on_shards = (embeddings.pooled_space, embeddings.scored_space)
        return sorted(
            {
                width
                for space, widths in embeddings.spaces().items()
                for width in widths.tables.values()
                if space not in on_shards and width % 32
            }
        )
