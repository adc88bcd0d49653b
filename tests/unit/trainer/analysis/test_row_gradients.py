"""Each use's part of a shared table's gradient: by hand, and against a model with two tables."""

import math
from dataclasses import replace

import pytest
import torch
from torchrec import KeyedJaggedTensor

from modules.embedding import EmbeddingsConfig, UsesConfig, WidthsConfig
from modules.feature_rows import FeatureRows
from modules.model_config import RankerConfig
from modules.presets import PRESETS
from modules.projection import ProjectionConfig, make_uses
from tests.small import DARE, ROWS, SHARED, TWIN, make_task, read, users
from trainer.analysis.conflict import RowTally
from trainer.analysis.row_gradients import GradientWatch, shared_spaces
from trainer.analysis.scoring import interaction_of
from trainer.task import TrainTask


def test_spaces_of_both_roles_are_shared():
    assert shared_spaces(TWIN) == ["shared"]
    assert shared_spaces(DARE) == []
    mixed = UsesConfig(
        attention_target="a",
        attention_history="b",
        representation_target="b",
        representation_history="a",
    )
    assert shared_spaces(EmbeddingsConfig(uses=mixed)) == ["a", "b"]
    apart = UsesConfig(attention_target="a", attention_history="b")
    assert shared_spaces(EmbeddingsConfig(uses=apart)) == []


WIDTHS = WidthsConfig(item=4, category=4, position=2)
TWO_ROWS = EmbeddingsConfig(uses=SHARED, attention=WIDTHS, representation=WIDTHS)


def test_the_gradients_of_a_two_row_table_are_those_worked_out_by_hand():
    uses = make_uses(ProjectionConfig(), TWO_ROWS)
    features = KeyedJaggedTensor(
        keys=["history_category", "target_category"],
        values=torch.tensor([1, 2, 1, 2]),  # Behaviours of rows 1, 2 and 1, and a target of row 2.
        lengths=torch.tensor([3, 1]),
    )
    history_ND, target_TD = (torch.zeros(n, 8, requires_grad=True) for n in (3, 1))
    position_LP = torch.zeros(2, 2, requires_grad=True)
    wish_ND = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    watch = GradientWatch(TWO_ROWS, rows=3)
    with watch.watching(uses):
        attended_ND = uses["attention_history"](FeatureRows(history_ND)).joined[:, 4:]
        represented_ND = uses["representation_history"](FeatureRows(history_ND)).joined[:, 4:]
        loss = (attended_ND * wish_ND).sum() - 2 * (represented_ND[0] * wish_ND[0]).sum()
        loss = loss + uses["attention_target"](FeatureRows(target_TD)).joined[:, 4:].sum()
        loss = loss + uses["attention_target"].position(position_LP)[0].sum()
        loss = loss + 5 * uses["representation_history"].position(position_LP)[1, 0]
        loss.backward()
    found = watch.take(features)
    category, position = found["shared", "category"], found["shared", "position"]
    # Row 1 is behaviours 0 and 2, row 2 behaviour 1 and the target.
    assert category.attention_CD.tolist() == [[0.0] * 4, [2.0, 4.0, 0.0, 0.0], [1.0, 1.0, 2.0, 1.0]]
    assert category.representation_CD.tolist() == [[0.0] * 4, [-6.0, -8.0, 0.0, 0.0], [0.0] * 4]
    assert position.attention_CD.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert position.representation_CD.tolist() == [[0.0, 0.0], [5.0, 0.0]]

    tally = RowTally(3, 100)
    tally.add(category)
    # Row 1: <(2, 4), (-6, -8)> over sqrt(20) * 10.
    assert tally.by_row()["cosine"][0] == pytest.approx((-12 - 32) / (math.sqrt(20) * 10))
    assert tally.corrected()["conflict"] == 1.0


def test_a_watch_that_is_over_leaves_no_trace():
    uses = make_uses(ProjectionConfig(), TWO_ROWS)
    use = uses["attention_target"]
    row, table = torch.zeros(1, 8, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    with GradientWatch(TWO_ROWS, rows=3).watching(uses):
        assert use(FeatureRows(row)).joined is not row
        assert use.position(table) is not table
        with torch.no_grad():
            assert use(FeatureRows(row)).joined is row
    assert use(FeatureRows(row)).joined is row
    assert use.position(table) is table


def parted(task: TrainTask, config: RankerConfig) -> TrainTask:
    """The same model with two tables of equal values, one for attention, one for representation."""
    uses = UsesConfig()
    embeddings = replace(config.embeddings, uses=uses, representation_lookup="unpooled")
    copy = make_task(replace(config, embeddings=embeddings))
    values = dict(task.named_parameters())
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            shared = name
            if "embeddings.collections." in name or ".positions." in name:
                shared = name.replace("attention", "shared").replace("representation", "shared")
            parameter.copy_(values[shared])
    return copy


PROJECTED = {
    "none": ProjectionConfig(),
    "each use its own": ProjectionConfig(kind="linear"),
    "one a role, categories only": ProjectionConfig(
        kind="linear", shared_by="target_and_history", features=("category",)
    ),
    "joined": ProjectionConfig(kind="linear", place="joined"),
}


@pytest.mark.parametrize("projection", PROJECTED.values(), ids=PROJECTED)
def test_the_parts_are_the_gradients_of_two_tables_of_equal_values(projection, tmp_path):
    config = RankerConfig(preset="twin", embeddings=TWIN, projection=projection)
    task, batch = make_task(config), read(users(), "user", tmp_path)
    interaction = interaction_of(task)
    watch = GradientWatch(TWIN, ROWS["category"])
    with watch.watching(interaction.uses):
        task(batch)[0].backward()
    found = watch.take(batch.features)

    two = parted(task, config)
    two(batch)[0].backward()
    gradients = {name: parameter.grad for name, parameter in two.named_parameters()}
    whole = {name: parameter.grad for name, parameter in task.named_parameters()}
    for table, ending in (("category", "_category.weight"), ("position", None)):
        parts = found["shared", table]
        for role, part in zip(("attention", "representation"), parts, strict=True):
            name = f".{role}{ending}" if ending else f".positions.tables.{role}"
            (expected,) = [grad for n, grad in gradients.items() if n.endswith(name)]
            assert part.abs().sum() > 0
            torch.testing.assert_close(part.float(), expected, rtol=1e-4, atol=1e-7)
        name = f".shared{ending}" if ending else ".positions.tables.shared"
        (both,) = [grad for n, grad in whole.items() if n.endswith(name)]
        torch.testing.assert_close(sum(parts).float(), both, rtol=1e-4, atol=1e-7)


def test_balanced_parts_are_scaled_as_the_table_gets_them_and_together_all_of_it(tmp_path):
    batch = read(users(), "user", tmp_path)
    found, whole = [], {}
    for gradients in ("summed", "balanced"):
        embeddings = replace(TWIN, gradients=gradients)
        task = make_task(RankerConfig(preset="twin", embeddings=embeddings))
        interaction = interaction_of(task)
        watch = GradientWatch(embeddings, ROWS["category"])
        with watch.watching(interaction.uses):
            task(batch)[0].backward()
        found.append(watch.take(batch.features))
        whole = {name: parameter.grad for name, parameter in task.named_parameters()}
    for table, ending in (
        ("category", ".shared_category.weight"),
        ("position", ".positions.tables.shared"),
    ):
        summed, balanced = (seen["shared", table] for seen in found)
        torch.testing.assert_close(balanced.representation_CD, summed.representation_CD)
        factor = summed.representation_CD.norm() / summed.attention_CD.norm()
        assert abs(factor - 1) > 0.01
        torch.testing.assert_close(balanced.attention_CD, factor * summed.attention_CD)
        (both,) = [grad for name, grad in whole.items() if name.endswith(ending)]
        torch.testing.assert_close(sum(balanced).float(), both, rtol=1e-4, atol=1e-7)


def test_presets_that_the_paper_looks_into_share_a_table():
    shared = {
        name
        for name, fields in PRESETS.items()
        if len({fields[f"embeddings.uses.{use}"] for use in vars(UsesConfig())}) == 1
    }
    assert {"twin", "twin_proj", "mlp_projection", "avoid_domination", "din"} <= shared
    assert not {"dare", "twin_4e", "three_tables"} & shared
