"""Optimizers: fused into the backward of the tables, ordinary for everything dense; schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

SparseOptimizer = Literal["rowwise_adagrad", "adam", "dense_adam", "partial_rowwise_adam", "sgd"]

_SPARSE = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "dense_adam": EmbOptimType.ADAM,
    "partial_rowwise_adam": EmbOptimType.PARTIAL_ROWWISE_ADAM,
    "sgd": EmbOptimType.EXACT_SGD,
}
_ADAMS = ("adam", "dense_adam", "partial_rowwise_adam")
_SPARSE_USES = {"eps": ("rowwise_adagrad", *_ADAMS), "beta1": _ADAMS, "beta2": _ADAMS}
_DENSE_USES = {
    **dict.fromkeys(("eps", "beta1", "beta2"), ("adam", "adamw")),
    "weight_decay": ("adamw",),
}
_SCHEDULE_USES = dict.fromkeys(("decay_steps", "final_factor"), ("linear", "cosine"))
"""Who uses a field that not all do."""


@dataclass(frozen=True, kw_only=True)
class SparseOptimizerConfig:
    """Optimizer of the item and category tables, fused into their backward.

    Only rows that occur in a batch move, but for `dense_adam`, which goes on moving the others by
    momentum: it is PyTorch's Adam of a dense parameter, and so the paper's released code.
    """

    name: SparseOptimizer = "adam"
    """`rowwise_adagrad` keeps one number a row, `partial_rowwise_adam` a row and one number,
    `adam` two rows, `sgd` nothing. `dense_adam` (CPU only) keeps two rows too, and moves every row
    of every table each step."""
    learning_rate: float = 0.01
    """Before the schedule."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    beta1: float = 0.9
    """Decay of Adam's first moment."""
    beta2: float = 0.999
    """Decay of Adam's second moment."""

    def __post_init__(self) -> None:
        _check_rates("optim.sparse", self)
        _check_used("optim.sparse", self, "name", _SPARSE_USES)

    def fused_params(self) -> dict[str, Any]:
        """What TorchRec's sharders take."""
        params: dict[str, Any] = {
            "optimizer": _SPARSE[self.name],
            "learning_rate": self.learning_rate,
            "eps": self.eps,
        }
        if "adam" in self.name:
            params |= {"beta1": self.beta1, "beta2": self.beta2}
        if self.name == "dense_adam":
            params["moved_rows"] = "every"  # For `HostTables`; no kernel of FBGEMM knows it.
        return params

    def check_device(self, device: str) -> None:
        """Make sure that a device's kernels know the optimizer.

        Args:
            device: `cpu` or `cuda`.

        Raises:
            ValueError: `dense_adam` without a CPU.
        """
        if self.name == "dense_adam" and device != "cpu":
            raise ValueError(
                f"optim.sparse.name is dense_adam, the device is {device}: FBGEMM's kernels there "
                "move rows of the batch only; use adam, or train on CPU (CUDA_VISIBLE_DEVICES=)"
            )


@dataclass(frozen=True, kw_only=True)
class DenseOptimizerConfig:
    """Optimizer of everything that is not a sharded table."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """PyTorch's optimizer of that name."""
    learning_rate: float = 0.01
    """Before the schedule."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    beta1: float = 0.9
    """Decay of Adam's first moment."""
    beta2: float = 0.999
    """Decay of Adam's second moment."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay; the paper's penalty is `loop.l2`."""
    clip_norm: float = 0.0
    """Largest norm of all dense gradients together; 0 does not clip."""

    def __post_init__(self) -> None:
        _check_rates("optim.dense", self)
        for name, value in (("weight_decay", self.weight_decay), ("clip_norm", self.clip_norm)):
            if value < 0:
                raise ValueError(f"optim.dense.{name} is {value}; it must be 0 or more")
        _check_used("optim.dense", self, "name", _DENSE_USES)


def _check_rates(section: str, config: SparseOptimizerConfig | DenseOptimizerConfig) -> None:
    for name, value in (("learning_rate", config.learning_rate), ("eps", config.eps)):
        if value < 0:
            raise ValueError(f"{section}.{name} is {value}; it must be 0 or more")
    for name, value in (("beta1", config.beta1), ("beta2", config.beta2)):
        if not 0 <= value < 1:
            raise ValueError(f"{section}.{name} is {value}; it must be 0 or more, and less than 1")


def _check_used(
    section: str,
    config: SparseOptimizerConfig | DenseOptimizerConfig | ScheduleConfig,
    choice: str,
    uses: Mapping[str, Sequence[str]],
) -> None:
    """Refuse a value that would have no effect.

    Args:
        section: name of the config.
        config: whose fields are looked at.
        choice: the field that decides who uses the others.
        uses: by field, the choices that use it.
    """
    chosen = getattr(config, choice)
    for given in fields(config):
        users, value = uses.get(given.name, (chosen,)), getattr(config, given.name)
        if chosen not in users and value != given.default:
            raise ValueError(
                f"{section}.{given.name} is {value}, which {section}.{choice} {chosen} does not "
                f"use; leave it at {given.default}, or set {choice} to {' or '.join(users)}"
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Factor on both learning rates, a function of the step alone."""

    warmup_steps: int = 0
    """Steps of a linear rise from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course after the warm-up."""
    decay_steps: int = 0
    """Steps of the decay after the warm-up; needed by `linear` and `cosine`."""
    final_factor: float = 0.0
    """Factor at and after the end of the decay."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"optim.schedule.warmup_steps is {self.warmup_steps}; 0 or more")
        if self.decay != "constant" and self.decay_steps < 1:
            raise ValueError(
                f"optim.schedule.decay is {self.decay}, decay_steps {self.decay_steps}; "
                "say over how many steps"
            )
        if not 0 <= self.final_factor <= 1:
            raise ValueError(f"optim.schedule.final_factor is {self.final_factor}; from 0 to 1")
        _check_used("optim.schedule", self, "decay", _SCHEDULE_USES)

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        part = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        left = 1 - part if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * part))
        return self.final_factor + (1 - self.final_factor) * left


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizers of a run."""

    sparse: SparseOptimizerConfig = field(default_factory=SparseOptimizerConfig)
    """For the tables."""
    dense: DenseOptimizerConfig = field(default_factory=DenseOptimizerConfig)
    """For everything else."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """For both learning rates."""

    def names(self) -> dict[str, str]:
        """Names of both optimizers; a checkpoint's state fits no others."""
        return {"sparse": self.sparse.name, "dense": self.dense.name}


@dataclass
class Optimizers:
    """The optimizers of a sharded model as one, with their schedule."""

    combined: KeyedOptimizer
    fused: KeyedOptimizer
    dense: KeyedOptimizer
    config: OptimConfig

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set both learning rates for a step; the tables take theirs at the next `zero_grad`."""
        factor = self.config.schedule.factor(step)
        rates = {
            "sparse": self.config.sparse.learning_rate * factor,
            "dense": self.config.dense.learning_rate * factor,
        }
        for optimizer, rate in ((self.fused, rates["sparse"]), (self.dense, rates["dense"])):
            for group in cast(list[dict[str, Any]], optimizer.param_groups):
                group["lr"] = rate
        return rates


def make_optimizers(model: DistributedModelParallel, config: OptimConfig) -> Optimizers:
    """The fused optimizers of a sharded model, combined with one for its dense parameters."""
    dense_parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
    dense: KeyedOptimizer = KeyedOptimizerWrapper(
        dense_parameters,
        lambda parameters: _dense(cast(list[nn.Parameter], parameters), config.dense),
    )
    if config.dense.clip_norm > 0:
        dense = GradientClippingOptimizer(
            dense, clipping=GradientClipping.NORM, max_gradient=config.dense.clip_norm
        )
    combined = CombinedOptimizer([("tables", model.fused_optimizer), ("dense", dense)])
    return Optimizers(combined, model.fused_optimizer, dense, config)


def _dense(parameters: list[nn.Parameter], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate)
    betas = (config.beta1, config.beta2)
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas, config.eps, config.weight_decay
        )
    return torch.optim.Adam(parameters, config.learning_rate, betas, config.eps)
