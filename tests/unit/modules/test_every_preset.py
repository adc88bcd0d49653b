"""Every preset of the ranker against its dense reference: logits, losses, attention and the
gradient of every parameter, tables included.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules import interaction
from modules.model_config import RankerConfig
from modules.presets import PRESETS
from pipelines.batch import Batch
from pipelines.schema import Layout
from tests import reference_presets, small
from tests.reference import Form
from tests.reference_presets import REFERENCES
from tests.small import click, close
from trainer.arguments import parse_run, run_parser

L2 = 1e-2
TOP_K = 2
WIDTHS = {"item": 8, "category": 4, "position": 4}
# Parameters that get no gradient, because nothing leads from them to a loss.
UNTRAINED_WITHOUT_AUXILIARY = {"sim_soft": ("search.scorer.",)}


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
    return parse_run(run_parser("dare train", ""), arguments)[0].model


def check(
    config: RankerConfig, batch: Batch, log: list[small.User], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small.make_task(config, l2=L2)
    clusters = recorded_clusters(monkeypatch)
    loss, step = task(batch)
    loss.backward()
    form = Form(
        top_k=config.search.top_k,
        two_term=config.attention.scale == "two_term",
        aux_weight=config.head.auxiliary_weight,
        l2=L2,
        floor=0.0,
    )
    rows = small.rows_of(log)
    size_TL = sizes(clusters, batch) if clusters else None
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
    untrained = ()
    if config.head.auxiliary_weight == 0:
        untrained = UNTRAINED_WITHOUT_AUXILIARY.get(config.preset, ())
    for name, parameter in parameters.items():
        silent = name.removeprefix("interaction.").startswith(untrained) if untrained else False
        assert silent or gradients[name].abs().sum() > 0, name
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        close(ours, gradients[name], f"gradient of {name}")


def recorded_clusters(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the ranker's own clustering gives from now on: the reference takes it as it is."""
    found: list[tuple[Tensor, Tensor]] = []
    original = interaction.clusters

    def record(*arguments):
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(interaction, "clusters", record)
    return found


def sizes(clusters: list[tuple[Tensor, Tensor]], batch: Batch) -> Tensor:
    """Cluster sizes at their medoids, a row a target, oldest first."""
    ((member_RL, log_size_RL),) = clusters
    size_RL = (log_size_RL.exp() * member_RL).round().long()
    targets_R = batch.features["target_item"].lengths()
    assert torch.equal(size_RL.sum(1), batch.features["history_item"].lengths())
    return size_RL.repeat_interleave(targets_R, dim=0).flip(1)


def test_there_is_a_reference_for_every_preset() -> None:
    assert REFERENCES.keys() == PRESETS.keys()


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_equals_its_equations(
    preset: str, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = small.users()
    check(make_config(preset), small.read(log, layout, tmp_path), log, monkeypatch)
