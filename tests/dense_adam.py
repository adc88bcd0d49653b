"""The small run under dense Adam, beside the same model on one process and under PyTorch's own."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.ranker import Ranker
from tests.small_run import (
    HISTORY_LENGTH,
    ROWS,
    batches,
    full_tables,
    mean_loss,
    requests_of_step,
    small_config,
    small_schema,
)
from trainer.build import ShardedRun, build
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.task import TrainTask

STEPS = 20
_ATTENTION = "{item: 8, category: 8, position: 4}"
WAYS = {
    "pooled": ["--model.embeddings.representation_lookup=pooled"],
    "unpooled": ["--model.embeddings.representation_lookup=unpooled"],
    "scored": ["--model.embeddings.attention_lookup=scored"],
    "kept": ["--model.head.auxiliary_weight=0"],
    "twin": ["--model.preset=twin", f"--model.embeddings.representation={_ATTENTION}"],
}
"""Every way to read tables; `kept` touches only rows that a search has kept."""


@dataclass(frozen=True)
class Trained:
    """A run of some steps; tensors by name, whole tables."""

    start: dict[str, Tensor]
    state: dict[str, Tensor]
    losses: list[float]


def train_sharded(way: str, context: RunContext, *options: str) -> Trained:
    """The small run with dense Adam; a collective, whole tables are on rank 0 only."""
    run = build(_config(way, *options), small_schema(), context)
    run.model.train()
    start, losses = _state(run), []
    for step, batch in enumerate(batches(context.rank, context.world, STEPS)):
        run.optimizers.combined.zero_grad()
        loss, output = run.model(batch)
        loss.backward()
        run.optimizers.combined.step()
        losses.append(mean_loss(output, float(len(requests_of_step(step).label))))
    return Trained(start, _state(run), losses)


def train_dense(way: str, start: dict[str, Tensor]) -> Trained:
    """The same from the same start on one process, where PyTorch steps every parameter."""
    config = _config(way)
    ranker = Ranker(
        config.model, rows=ROWS, history_length=HISTORY_LENGTH, device=torch.device("cpu")
    )
    task = TrainTask(ranker, auxiliary_weight=config.model.head.auxiliary_weight, l2=config.loop.l2)
    task.load_state_dict(start)
    rates = config.optim.dense
    betas = (rates.beta1, rates.beta2)
    adam = torch.optim.Adam(task.parameters(), rates.learning_rate, betas, rates.eps)
    losses = []
    for step, batch in enumerate(batches(0, 1, STEPS)):
        adam.zero_grad(set_to_none=False)
        loss, output = task(batch)
        loss.backward()
        adam.step()
        losses.append(
            float(output.loss + output.auxiliary_loss) / len(requests_of_step(step).label)
        )
    return Trained(start, dict(task.state_dict()), losses)


def check_equal(mine: Trained, expected: Trained) -> None:
    """Both moved from the same start through the same losses to the same tables."""
    assert mine.start.keys() == mine.state.keys() == expected.state.keys()
    tables = [name for name in mine.state if name.endswith(("item.weight", "category.weight"))]
    assert len(tables) in (2, 4)
    for name in tables:
        close(mine.start[name], expected.start[name], msg=name)
        close(mine.state[name], expected.state[name], msg=name)
        assert not torch.equal(mine.state[name], mine.start[name]), name
    close(torch.tensor(mine.losses), torch.tensor(expected.losses), msg="losses")


def _config(way: str, *options: str) -> TrainConfig:
    same = ["--optim.sparse.name=dense_adam", "--model.head.norm=batch_all_ranks"]
    return small_config(*same, *WAYS[way], *options)


close = functools.partial(torch.testing.assert_close, rtol=0, atol=2e-6)


def _state(run: ShardedRun) -> dict[str, Tensor]:
    """Copies of all weights; of whole tables on rank 0 only. A collective."""
    dense = {
        name: value.clone()
        for name, value in run.model.state_dict().items()
        if type(value) in (Tensor, torch.nn.Parameter)
    }
    return {**dense, **full_tables(run)}
