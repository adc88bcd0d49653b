"""The whole step against a dense ranker written from the paper's equations: logits, losses and
the gradient of every parameter, tables included.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from modules.attention import AttentionConfig
from modules.embedding import EmbeddingsConfig
from modules.head import HeadConfig
from modules.model_config import RankerConfig
from modules.search import SearchConfig
from pipelines.batch import Batch
from pipelines.schema import Layout
from tests import reference, small
from tests.small import DARE, LOOKUPS, SIDE, TWIN, click, close
from trainer.distributed import run_context
from trainer.optim import SparseOptimizerConfig
from trainer.planner.job import make_plan
from trainer.sharding import ShardingConfig, shard
from trainer.task import TrainTask

L2 = 1e-2
MODELS = {**LOOKUPS, "twin": TWIN}
TOP_K = 3
PARTS = {
    "target_history_product": ("target", "history", "product"),
    "target_product": ("target", "product"),
    "target_history": ("target", "history"),
    "product": ("product",),
}


def make_config(embeddings: EmbeddingsConfig, *, scale="two_term", **head) -> RankerConfig:
    return RankerConfig(
        embeddings=embeddings,
        search=SearchConfig(top_k=TOP_K),
        attention=AttentionConfig(scale=scale),
        head=HeadConfig(**{"hidden": (10, 6), "auxiliary_hidden": (7,), **head}),
    )


def run_reference(
    config: RankerConfig, task: TrainTask, rows: list[reference.Row]
) -> tuple[reference.Result, dict[str, Tensor]]:
    """The reference on the task's parameters, differentiated."""
    values = small.parameters_of(task)
    interaction = task.ranker.interaction
    result = reference.run(
        small.tables_of(values, config.embeddings, "attention"),
        small.tables_of(values, config.embeddings, "representation"),
        small.tower_of(values, "head", interaction.head),
        small.tower_of(values, "auxiliary_head", interaction.auxiliary_head),
        rows,
        reference.Form(
            top_k=config.search.top_k,
            two_term=config.attention.scale == "two_term",
            head_input=PARTS[config.head.inputs],
            norm=config.head.norm,
            aux_weight=config.head.auxiliary_weight,
            l2=L2,
            floor=0.0,
        ),
    )
    result.loss.backward()
    return result, values


def check(config: RankerConfig, batch: Batch, rows: list[reference.Row]) -> None:
    """Logits, losses, attention and every gradient of a batch against the reference."""
    task = small.make_task(config, l2=L2)
    counts = batch.weight > 0
    output = task.ranker(batch.features, counts, batch.num_history, batch.num_targets)
    loss, step = task(batch)
    loss.backward()
    expected, values = run_reference(config, task, rows)

    weight = batch.weight.sum()
    close(output.logit_T, click(expected.logits), "logits")
    close(output.auxiliary_logit_T, click(expected.aux_logits), "auxiliary logits")
    close(step.loss / weight, expected.main, "main loss")
    close(step.auxiliary_loss / weight, expected.aux, "auxiliary loss")
    close(loss, expected.loss, "loss")
    slots = expected.weight_TL.shape[1]
    ours_TL = torch.zeros(len(rows), slots).scatter_add_(1, step.kept_TK, step.attention_TK)
    close(ours_TL.flip(1), expected.weight_TL, "attention, oldest first")
    assert len(values) == len(dict(task.named_parameters()))
    for name, parameter in task.named_parameters():
        wanted = values[name.removeprefix("ranker.")].grad
        assert wanted.abs().sum() > 0, name
        close(parameter.grad, wanted, f"gradient of {name}")


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize("embeddings", MODELS.values(), ids=MODELS)
def test_a_step_equals_the_equations(
    embeddings: EmbeddingsConfig, layout: Layout, tmp_path: Path
) -> None:
    log = small.users()
    batch = small.read(log, layout, tmp_path)
    lengths = batch.features["history_item"].lengths().tolist()
    assert lengths == [0, 1, 3, 4, 9] * 2
    assert set(batch.features["target_item"].lengths().tolist()) == {1, 2, 3}
    check(make_config(embeddings), batch, small.rows_of(log))


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize(
    ("embeddings", "scale"),
    [*((embeddings, "two_term") for embeddings in SIDE.values()), (SIDE["dare"], "joint")],
    ids=[*SIDE, "joint"],
)
def test_a_step_with_interval_behaviour_type_and_scenario_equals_the_equations(
    embeddings: EmbeddingsConfig, scale: str, layout: Layout, tmp_path: Path
) -> None:
    log, features = small.users(), ("item", "category", "interval", "behaviour_type", "scenario")
    batch = small.read(log, layout, tmp_path, features)
    assert batch.features["history_interval"].values().unique().numel() == 7
    assert embeddings.features == features
    check(make_config(embeddings, scale=scale), batch, small.rows_of(log, features))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "joint"},
        {"inputs": "target_product"},
        {"inputs": "target_history"},
        {"inputs": "product"},
        {"norm": "layer"},
        {"norm": "none"},
        {"norm": "batch_all_ranks"},
        {"auxiliary_weight": 0.3},
    ],
    ids=str,
)
def test_every_form_of_the_model_equals_its_equations(options: dict, tmp_path: Path) -> None:
    log = small.users()
    config = make_config(DARE, **options)
    if config.head.norm == "batch_all_ranks":
        with run_context():
            check_all_ranks(config, log, tmp_path)
    else:
        check(config, small.read(log, "user", tmp_path), small.rows_of(log))


def check_all_ranks(config: RankerConfig, log: list[small.User], folder: Path) -> None:
    """On one rank, a norm over all ranks is the ordinary batch norm."""
    batch = small.read(log, "user", folder)
    task = small.make_task(config, l2=L2)
    ordinary = small.make_task(make_config(DARE), l2=L2)
    torch.testing.assert_close(task(batch)[0], ordinary(batch)[0], rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [(0, 0), (1, 1), (2, 0), (3, 3), (9, 9), (1, 20)], ids=str)
@pytest.mark.parametrize("embeddings", MODELS.values(), ids=MODELS)
def test_short_and_equal_histories_equal_the_equations(
    embeddings: EmbeddingsConfig, lengths: tuple[int, ...], tmp_path: Path
) -> None:
    log = small.users(lengths)
    config = make_config(embeddings)
    batch = small.read(log, "user", tmp_path)
    task = small.make_task(config, l2=L2)
    loss, step = task(batch)
    loss.backward()
    expected, values = run_reference(config, task, small.rows_of(log))
    close(step.logit_T, click(expected.logits), "logits")
    close(loss, expected.loss, "loss")
    for name, parameter in task.named_parameters():
        wanted = values[name.removeprefix("ranker.")].grad
        assert parameter.grad.isfinite().all(), name
        close(parameter.grad, torch.zeros_like(parameter) if wanted is None else wanted, name)


def test_weights_weigh_and_targets_without_weight_do_not_count(tmp_path: Path) -> None:
    log = small.users()
    rows = small.rows_of(log)
    weight = torch.tensor([float(t % 4) for t in range(len(rows))])
    batch = small.with_weights(small.read(log, "user", tmp_path), weight)
    rows = [
        reference.Row(target=r.target, history=r.history, label=r.label, weight=w)
        for r, w in zip(rows, weight.tolist(), strict=True)
    ]
    check(make_config(DARE), batch, rows)


def test_the_released_probability_floor_is_below_float32(tmp_path: Path) -> None:
    """The released code adds 1e-8 to its probabilities; our sigmoid form leaves it out."""
    log = small.users()
    config = make_config(DARE)
    task = small.make_task(config, l2=L2)
    loss, _ = task(small.read(log, "user", tmp_path))
    values = small.parameters_of(task)
    head, auxiliary = task.ranker.interaction.head, task.ranker.interaction.auxiliary_head
    with_floor = reference.run(
        small.tables_of(values, DARE, "attention"),
        small.tables_of(values, DARE, "representation"),
        small.tower_of(values, "head", head),
        small.tower_of(values, "auxiliary_head", auxiliary),
        small.rows_of(log),
        reference.Form(top_k=TOP_K, l2=L2),
    )
    assert with_floor.loss.item() == pytest.approx(loss.item(), abs=1e-6)


def test_without_auxiliary_weight_there_is_no_auxiliary_network(tmp_path: Path) -> None:
    config = make_config(DARE, auxiliary_weight=0.0)
    task = small.make_task(config, l2=0.0)
    loss, step = task(small.read(small.users(), "user", tmp_path))
    assert task.ranker.interaction.auxiliary_head is None
    assert step.auxiliary_loss == 0
    torch.testing.assert_close(loss.detach(), step.loss / step.weight_T.sum())


def test_bfloat16_gives_finite_and_close_logits_and_gradients(tmp_path: Path) -> None:
    batch = small.read(small.users(), "user", tmp_path)
    config = make_config(DARE, norm="layer")
    # A seed with which rounding puts no number on the other side of a PReLU's kink.
    exact = small.make_task(config, seed=1)
    rough = small.make_task(config, seed=1, autocast=torch.bfloat16)
    (exact_loss, exact_step), (rough_loss, rough_step) = exact(batch), rough(batch)
    exact_loss.backward()
    rough_loss.backward()
    assert rough_step.logit_T.dtype == torch.float32
    difference = rough_step.logit_T - exact_step.logit_T
    assert 0 < difference.abs().max() < 0.05
    assert rough_loss.item() == pytest.approx(exact_loss.item(), abs=0.01)
    for (name, left), right in zip(exact.named_parameters(), rough.parameters(), strict=True):
        assert right.grad.isfinite().all(), name
        assert (left.grad - right.grad).norm() < 0.05 * left.grad.norm() + 1e-4, name


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize(
    ("embeddings", "num_tables"),
    [
        *((embeddings, 2 if embeddings is TWIN else 4) for embeddings in MODELS.values()),
        *((SIDE[name], 5 if name == "twin" else 9) for name in SIDE),
    ],
    ids=[*MODELS, *(f"{name} and side features" for name in SIDE)],
)
def test_sharded_tables_move_by_the_gradient_of_the_equations(
    embeddings: EmbeddingsConfig, num_tables: int, layout: Layout, tmp_path: Path
) -> None:
    rate = 0.5
    log, features = small.users(), embeddings.features
    batch = small.read(log, layout, tmp_path, features)
    config = make_config(embeddings)
    plain = small.make_task(config, l2=L2)
    expected, values = run_reference(config, plain, small.rows_of(log, features))
    before = {name: value.detach().clone() for name, value in plain.state_dict().items()}
    fused = SparseOptimizerConfig(name="sgd", learning_rate=rate).fused_params()
    with run_context() as context:
        plan = make_plan(
            plain,
            context,
            ShardingConfig(),
            fused_params=fused,
            pooling=dict.fromkeys(batch.features.keys(), 4.0),
            batch_size=10,
        )
        model = shard(plain, context, plan, fused_params=fused)
        tables = {
            name: value.local_shards()[0].tensor
            for name, value in model.state_dict().items()
            if isinstance(value, ShardedTensor)
        }
        assert len(tables) == num_tables
        for name, table in tables.items():
            table.copy_(before[name])
        loss, _ = model(batch)
        close(loss, expected.loss, "loss")
        loss.backward()
        moved = {name: table.clone() for name, table in tables.items()}
    for name in tables:
        wanted = before[name].double() - rate * values[name.removeprefix("ranker.")].grad
        close(moved[name], wanted, name)
        assert not torch.equal(moved[name], before[name])
