"""A pass of a checkpoint over a split: what the search ranks by and what attention weighs.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history of a batch (newest first, so column l is position l + 1), K kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.history import padded_ids
from modules.interaction import Interaction
from pipelines.batch import Batch
from pipelines.loader import Split
from pipelines.planted import Planted
from trainer.analysis.information import SplitLog
from trainer.analysis.progress import told
from trainer.build import open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.evaluate import score_batches
from trainer.loop import Trainer
from trainer.report.attention_map import planted_attention, planted_beside
from trainer.task import StepOutput


@dataclass(frozen=True)
class OpenedRun:
    """A run with the weights of one of its checkpoints."""

    trainer: Trainer
    checkpoint: str
    step: int

    @property
    def interaction(self) -> Interaction:
        """The part of its ranker that is no table."""
        return interaction_of(self.trainer.run.model)

    def log(self, split: Split) -> SplitLog:
        """A split as it is stored."""
        return SplitLog(self.trainer.config, split, self.trainer.schema)

    @property
    def planted(self) -> Planted | None:
        """The data's true attention, where it is known."""
        return planted_beside(self.trainer.config.data, self.trainer.schema)


def open_run(config: TrainConfig, text: str, context: RunContext, at: str) -> OpenedRun:
    """Build a run and read a checkpoint; nothing is written.

    Args:
        config: of the run.
        text: the same as YAML.
        context: of this process.
        at: `best`, `last`, or the name of a checkpoint.

    Raises:
        ValueError: there is no such checkpoint.
    """
    trainer = Trainer(config, context, text)
    found = trainer.checkpoints.find(at)
    return OpenedRun(trainer, found, trainer.load(found).step)


def interaction_of(model: nn.Module) -> Interaction:
    """The part of a model's ranker that is no table."""
    return next(module for module in model.modules() if isinstance(module, Interaction))


def scored(opened: OpenedRun, split: Split) -> Iterator[tuple[Batch, StepOutput]]:
    """Each batch of a split, on the CPU, and the model's output for it."""
    trainer = opened.trainer
    stream = open_stream(trainer.config, split, trainer.schema, trainer.context)
    overlap = trainer.config.loop.overlap
    yield from told(
        score_batches(trainer.run, stream, trainer.context, overlap), f"batches of {split}"
    )


@dataclass(frozen=True)
class Searched:
    """The targets of a batch with their histories, on the CPU."""

    target_T: Tensor
    """Categories of the targets."""
    category_TL: Tensor
    """Categories of their behaviours, 0 on padding."""
    valid_TL: Tensor
    """False on padding."""
    score_TL: Tensor
    """What the search ranks by, before it keeps K; of a search that only orders (hard, by hashes),
    minus the place in its order: 0 for the best, -1 for the next, ..."""
    findable_TL: Tensor
    """False on padding, and on behaviours for which another one of their cluster stands."""
    weight_TL: Tensor
    """Attention; 0 on what is not kept."""


def searched_batches(opened: OpenedRun, split: Split) -> Iterator[Searched]:
    """Score a split and watch its search."""
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(_module: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
        seen.append((arguments[0].float().cpu(), arguments[1].cpu()))

    handle = opened.interaction.search.register_forward_pre_hook(remember)
    only_orders = opened.interaction.config.search.only_orders
    try:
        for batch, output in scored(opened, split):
            score_RML, findable_RL = seen.pop()
            if only_orders:
                score_RML = _minus_places(score_RML, findable_RL)
            yield _searched(batch, output, score_RML, findable_RL)
    finally:
        handle.remove()


def _minus_places(score_RML: Tensor, findable_RL: Tensor) -> Tensor:
    """Minus the place of each behaviour from the best, 0; what cannot be found comes last."""
    masked_RML = score_RML.masked_fill(~findable_RL.unsqueeze(1), -torch.inf)
    place_RML = masked_RML.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    return (-place_RML).float()


def _searched(batch: Batch, output: StepOutput, score_RML: Tensor, findable_RL: Tensor) -> Searched:
    history, target = batch.features["history_category"], batch.features["target_category"]
    length_R, count_R = history.lengths().long(), target.lengths().long()
    longest = batch.num_history
    owner_T = torch.repeat_interleave(torch.arange(length_R.numel()), count_R)
    number_T = torch.arange(owner_T.numel()) - (count_R.cumsum(0) - count_R)[owner_T]
    offset_R1 = torch.cat([length_R.new_zeros(1), length_R.cumsum(0)])
    category_RL = padded_ids(history.values(), offset_R1, longest).clamp(min=0)
    kept_TK, weight_TK = output.kept_TK.cpu(), output.attention_TK.float().cpu()
    # A column of padding may lie beyond all positions; it weighs nothing anywhere.
    kept_TK = kept_TK.where(kept_TK < longest, 0)
    return Searched(
        target_T=target.values(),
        category_TL=category_RL[owner_T],
        valid_TL=torch.arange(longest) < length_R[owner_T].unsqueeze(1),
        score_TL=score_RML[owner_T, number_T],
        findable_TL=findable_RL[owner_T],
        weight_TL=torch.zeros(owner_T.numel(), longest).scatter_add(1, kept_TK, weight_TK),
    )


def planted_weights(planted: Planted, searched: Searched) -> Tensor:
    """The true attention of each target's behaviours as shares of those seen, float64 [T, L]."""
    return planted_attention(planted, searched.target_T, searched.category_TL, searched.valid_TL)
