"""One step of a ranker, made of a preset and options of the command line, beside its reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from modules import interaction
from modules.grouping import Clusters, clusters
from modules.model_config import RankerConfig
from pipelines.batch import Batch
from tests import reference_presets, small
from tests.reference import Form
from tests.small import click, close
from trainer.arguments import parse_config

L2 = 1e-2
TOP_K = 2
WIDTHS = {"item": 8, "category": 4, "position": 4}
CANCELLED = {
    "din": "attention_scorer.second.bias",
    "twin_proj_concat": "uses.attention_history.joined.bias",
}
"""What moves all scores of a target alike, which no softmax sees."""


def make_config(preset: str, *options: str) -> RankerConfig:
    """A preset as the command line sets it, small."""
    widths = [
        f"--model.embeddings.{side}.{feature}={width}"
        for side in ("attention", "representation")
        for feature, width in WIDTHS.items()
    ]
    arguments = [
        f"--model.preset={preset}",
        f"--model.search.top_k={TOP_K}",
        "--model.head.hidden=[10,6]",
        "--model.head.auxiliary_hidden=[7]",
        *widths,
        *options,
    ]
    return parse_config(arguments)[0].model


def compare(
    config: RankerConfig, log: list[small.User], batch: Batch, *, rounding: float = 2e-6
) -> dict[str, Tensor]:
    """Compare logits, losses, attention and the gradient of every parameter with the reference.

    Args:
        config: of the ranker.
        log: the users.
        batch: the same.
        rounding: of gradients, but for those of positions.

    Returns:
        The reference's gradients by the ranker's names.
    """
    task = small.make_task(config, l2=L2)
    with recorded_clusters() as clusters:
        loss, step = task(batch)
    loss.backward()
    form = Form(
        top_k=config.search.top_k,
        two_term=config.attention.scale == "two_term",
        aux_weight=config.head.auxiliary_weight,
        l2=L2,
        floor=0.0,
    )
    rows = small.rows_of(log, config.embeddings.features)
    size_TL = sizes(clusters, batch, config.search.cluster_size) if clusters else None
    expected, gradients = reference_presets.run(task, config, rows, form, size_TL)

    weight = batch.weight.sum()
    close(step.logit_T, click(expected.logits), "logits")
    close(step.loss / weight, expected.main, "main loss")
    close(step.auxiliary_loss / weight, expected.aux, "auxiliary loss")
    close(loss, expected.loss, "loss")
    ours_TL = torch.zeros(expected.weight_TL.shape).scatter_add_(1, step.kept_TK, step.attention_TK)
    close(ours_TL.flip(1), expected.weight_TL, "attention, oldest first")
    parameters = {name.removeprefix("ranker."): value for name, value in task.named_parameters()}
    assert parameters.keys() == gradients.keys()
    for name, parameter in parameters.items():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # Where the target's position meets a batch norm it is constant, and its rounding is
        # divided by the root of the norm's epsilon.
        its_own = 5e-6 if "position" in name else rounding
        close(ours, gradients[name], f"gradient of {name}", rounding=its_own)
    return gradients


def check_all_trained(gradients: dict[str, Tensor], *untrained: str) -> None:
    """Every parameter has a gradient but these, by name within the interaction."""
    silent = [name for name, gradient in gradients.items() if gradient.norm() < 1e-6]
    assert silent == [f"interaction.{name}" for name in untrained], silent


@contextmanager
def recorded_clusters() -> Iterator[list[Clusters]]:
    """What the ranker's own clustering gives: the reference takes it as it is."""
    found: list[Clusters] = []

    def record(*arguments):
        found.append(clusters(*arguments))
        return found[-1]

    with mock.patch.object(interaction, "clusters", record):
        yield found


def sizes(recorded: list[Clusters], batch: Batch, most: int) -> Tensor:
    """Cluster sizes at their medoids, a row a target, oldest first."""
    ((member_RL, log_size_RL),) = recorded
    size_RL = (log_size_RL.exp() * member_RL).round().long()
    targets_R = batch.features["target_item"].lengths()
    assert torch.equal(size_RL.sum(1), batch.features["history_item"].lengths())
    assert size_RL.max() <= most
    return size_RL.repeat_interleave(targets_R, dim=0).flip(1)
