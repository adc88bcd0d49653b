"""`dare analyze gradients`: what attention and the representation want of the rows that they share.

A copy of the run is trained for some steps, and of each step the gradient that a category's row
gets from either is kept apart (Fig. 2, 3 and 13 of the paper). Both include what the auxiliary loss
sends, and are what reaches the table: attention's is scaled where the preset scales it
(avoid_domination). The run itself stays as it is.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from pipelines.overlap import make_pipeline
from trainer.analysis.conflict import RowTally
from trainer.analysis.gradients_figure import draw_gradients
from trainer.analysis.options import AnalysisOptions, Findings, Job
from trainer.analysis.progress import told
from trainer.analysis.row_gradients import (
    GradientWatch,
    RoleGradients,
    Table,
    shared_spaces,
)
from trainer.analysis.scoring import interaction_of
from trainer.loop import Trainer
from trainer.task import StepOutput

logger = logging.getLogger(__name__)

START = "start"
_SCALED = "scaled to the norm of the representation's, table by table"
Gradients = dict[tuple[str, Table], RoleGradients]


@dataclass(frozen=True, kw_only=True)
class GradientsOptions(AnalysisOptions):
    """Options of `dare analyze gradients`."""

    at: str = START
    """Where the copy starts: `start` for the run's own starting values, `best`, `last`, or the name
    of a checkpoint; of the data it always reads the beginning."""
    steps: int = 100
    """Steps that are trained and looked at."""
    first_steps: int = 100
    """Of these, over which norms and shares of categories are taken as the paper does."""

    def __post_init__(self) -> None:
        self.check_least(steps=1, first_steps=1)


def gradients(job: Job, options: GradientsOptions) -> Findings:
    """Train a copy of a run and compare the two gradients of what is shared.

    Raises:
        ValueError: attention and the representation share no table, or there is no data.
    """
    embeddings = job.config.model.embeddings
    if not shared_spaces(embeddings):
        raise ValueError(
            f"{job.title}: attention and the representation "
            "share no table, so their gradients never meet; look into a run of twin, or of another "
            "preset with one table"
        )
    trainer = Trainer(job.config, job.context, job.text)
    step = 0
    if options.at != START:
        step = trainer.load(trainer.checkpoints.find(options.at)).step
    tallies: dict[tuple[str, Table], RowTally] = {}
    losses = []
    stepped = watched_steps(trainer, first_step=step, steps=options.steps)
    for loss, found in told(stepped, "steps", options.steps):
        losses.append(loss)
        for key, parts in found.items():
            rows = len(parts.attention_CD)
            tallies.setdefault(key, RowTally(rows, options.first_steps)).add(parts)
    if not losses:
        raise ValueError(f"data.train: {job.config.data.train} holds no request")
    content = {
        "start": options.at,
        "first_step": step + 1,
        "steps": len(losses),
        "options": asdict(options),
        "attention_gradient": _SCALED if embeddings.gradients == "balanced" else "unscaled",
        "loss": losses,
        "tables": {f"{space}_{table}": _told(tally) for (space, table), tally in tallies.items()},
    }
    return Findings(content, draw_gradients(content, job.title))


def watched_steps(
    trainer: Trainer, *, first_step: int, steps: int
) -> Iterator[tuple[float, Gradients]]:
    """Train, and look at each step's gradients.

    Args:
        trainer: whose model and data are used; nothing is written.
        first_step: steps that the model has taken, for the schedule.
        steps: to take, at most.

    Returns:
        Of each step the main loss a target and the gradients by space and table.
    """
    run, config = trainer.run, trainer.config
    interaction = interaction_of(run.model)
    rows = config.data.rows(trainer.schema)["category"]
    watch = GradientWatch(config.model.embeddings, rows)
    seen: list[KeyedJaggedTensor] = []

    def remember(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(next(a for a in arguments if isinstance(a, KeyedJaggedTensor)))

    pipeline = make_pipeline(
        run.model, run.optimizers.combined, trainer.context.device, config.loop.overlap
    )
    batches = itertools.islice(trainer.train_stream, steps)
    handle = interaction.register_forward_pre_hook(remember)
    run.model.train()
    try:
        with watch.watching(interaction.uses), torch.enable_grad():
            for step in itertools.count(first_step):
                run.optimizers.set_learning_rates(step)
                try:
                    output: StepOutput = pipeline.progress(batches)
                except StopIteration:
                    return
                loss = output.loss / output.weight_T.sum()
                yield float(loss), watch.take(seen.pop())
    finally:
        handle.remove()
        pipeline.detach()


def _told(tally: RowTally) -> dict[str, Any]:
    return {
        "corrected": tally.corrected(),
        "published": tally.published(),
        "by_step": tally.by_step,
        "by_row": tally.by_row(),
        "cosines": tally.cosines(),
    }
