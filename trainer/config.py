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
from trainer.checkpoint import CheckpointConfig
from trainer.optim import OptimConfig
from trainer.sharding import ShardingConfig
from trainer.telemetry import TelemetryConfig


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
    check_loss_every: int = 20
    """Steps between looks at the losses since the last look, which end the run where one is not
    finite; there is a look before each evaluation and checkpoint too."""

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

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name is {self.name!r}; it names a folder: no slash, no leading dot")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")

    def check(self, schema: DatasetSchema) -> None:
        """Check what needs two sections or the data, all of it before anything starts.

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
