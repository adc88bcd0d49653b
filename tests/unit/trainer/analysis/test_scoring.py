"""What is seen of a model's search is what the model searches with; tables make their own score."""

import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import trainer.analysis.tables
from modules.presets import PRESETS
from pipelines.planted import load_planted
from tests.analysed import searched_of
from tests.commands import TARGETS
from tests.small_run import full_tables
from trainer.analysis.scoring import planted_weights, scored, searched_batches
from trainer.analysis.tables import TableScores, table_scores
from trainer.report.attention_map import AttentionMap
from trainer.task import StepOutput

SEARCHED = ["dare", "twin_hard", "din", "eta", "sim_soft", "twin_v2", "twin_kdd23"]
"""One preset of each kind of search, and one of each scorer that searches itself."""


@pytest.mark.parametrize("preset", SEARCHED)
def test_what_is_kept_is_what_the_seen_scores_rank_first(preset, open_fresh):
    opened = open_fresh(f"--model.preset={preset}")
    targets = 0
    for batch in searched_batches(opened, "test"):
        targets += len(batch.target_T)
        kept_TL = batch.weight_TL > 0
        assert not (kept_TL & ~batch.findable_TL).any()
        assert not (batch.findable_TL & ~batch.valid_TL).any()
        assert (kept_TL.sum(1) == batch.findable_TL.sum(1).clamp(max=5)).all()
        least_T = batch.score_TL.masked_fill(~kept_TL, math.inf).amin(1)
        others_TL = batch.findable_TL & ~kept_TL
        best_T = batch.score_TL.masked_fill(~others_TL, -math.inf).amax(1)
        assert others_TL.any()
        assert (least_T >= best_T).all()
    assert targets == TARGETS["test"]
    is_clustered = PRESETS[preset]["search.cluster_size"] > 0
    assert bool((batch.valid_TL & ~batch.findable_TL).any()) == is_clustered


@pytest.mark.parametrize("preset", ["twin_hard", "eta", "mirrn"])
def test_what_is_seen_of_a_target_does_not_depend_on_its_batch(preset, open_fresh):
    def seen(size):
        opened = open_fresh(f"--model.preset={preset}", f"--data.batch_size={size}")
        return [
            (score_L[valid_L].tolist(), weight_L[valid_L].tolist())
            for batch in searched_batches(opened, "test")
            for score_L, weight_L, valid_L in zip(
                batch.score_TL, batch.weight_TL, batch.valid_TL, strict=True
            )
        ]

    for (scores, weights), (expected_scores, expected_weights) in zip(
        seen(4), seen(512), strict=True
    ):
        assert scores == pytest.approx(expected_scores, abs=1e-5)
        assert weights == pytest.approx(expected_weights, abs=1e-5)


def test_attention_is_the_softmax_of_the_kept_scores_where_both_are_one_scorer(open_fresh):
    for batch in searched_batches(open_fresh("--model.preset=twin"), "test"):
        kept_TL = batch.weight_TL > 0
        expected_TL = batch.score_TL.masked_fill(~kept_TL, -math.inf).softmax(1).nan_to_num()
        torch.testing.assert_close(batch.weight_TL, expected_TL)


def test_histories_are_told_newest_first_with_their_targets(open_fresh):
    opened = open_fresh()
    (requests,) = opened.log("test")
    first = 0
    for batch in searched_batches(opened, "test"):
        for row, target in enumerate(batch.target_T.tolist(), start=first):
            request = int(np.searchsorted(requests.target_offset, row, side="right")) - 1
            life = requests.history["category"][requests.start[request] : requests.end[request]]
            mine = batch.valid_TL[row - first]
            assert target == requests.target["category"][row]
            assert batch.category_TL[row - first][mine].tolist() == life[::-1].tolist()
        first += len(batch.target_T)


def test_planted_weights_are_those_that_the_attention_map_of_a_report_adds_up(open_fresh):
    opened = open_fresh()
    planted = opened.planted
    assert planted is not None
    shown = AttentionMap(20, None, planted)
    position_L, targets = torch.zeros(20, dtype=torch.float64), 0
    zero = torch.zeros(())
    for batch, _ in scored(opened, "test"):
        nothing = torch.zeros(len(batch.label), 1)
        shown.update(
            batch, StepOutput(zero, zero, zero, zero, zero, zero, nothing.long(), nothing, 0)
        )
    for searched in searched_batches(opened, "test"):
        weight_TL = planted_weights(planted, searched)
        position_L[: weight_TL.size(1)] += weight_TL.sum(0)
        targets += len(weight_TL)
    summary = shown.compute()
    assert summary is not None
    assert (position_L / targets).tolist() == pytest.approx(summary.planted_position_weight)


def test_planted_weights_by_hand(small_data):
    schema = next(option for option in small_data if "schema" in option).partition("=")[2]
    planted = load_planted(schema.replace("schema.json", "planted.npz"))
    weight_TL = planted_weights(planted, searched_of([3, 5], [[4, 3], [5]]))
    powers = [
        math.exp(planted.sharpness * planted.attention[3] @ planted.attention[c] + age)
        for c, age in ((4, planted.recency[1]), (3, planted.recency[2]))
    ]
    assert weight_TL[0].tolist() == pytest.approx([power / sum(powers) for power in powers])
    assert weight_TL[1].tolist() == [1.0, 0.0]


def test_planted_weights_are_shares_of_the_behaviours_that_are_seen(open_fresh):
    def seen(length):
        opened = open_fresh(f"--data.history_length={length}")
        return [
            weight_L[valid_L].numpy()
            for batch in searched_batches(opened, "test")
            for weight_L, valid_L in zip(
                planted_weights(opened.planted, batch), batch.valid_TL, strict=True
            )
        ]

    for few, whole in zip(seen(5), seen(20), strict=True):
        assert few == pytest.approx(whole[:5] / whole[:5].sum())


def test_a_million_categories_are_scored_by_those_of_the_behaviours_alone(monkeypatch):
    # Of all categories a score for 2^12 targets would take 16 GB, and their rows together 8 GB.
    random = torch.Generator().manual_seed(1)
    targets, behaviours, categories, width = 1 << 12, 64, 1_000_000, 4
    scores = TableScores(
        target_CP=torch.randn(categories, width, generator=random),
        history_CP=torch.randn(categories, width, generator=random),
        position_L=torch.randn(70, generator=random),
    )
    target_T = torch.randint(categories, (targets,), generator=random)
    category_TL = torch.randint(categories, (targets, behaviours), generator=random)
    monkeypatch.setattr(trainer.analysis.tables, "_ROWS", 1000)
    largest = 0

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                largest = max(largest, found.numel())
            return found

    with Watching():
        found_TL = scores.scores(target_T, category_TL)
    assert largest <= targets * behaviours
    for row, column in ((0, 0), (17, 63), (4095, 5)):
        of_target = scores.target_CP[target_T[row]]
        of_behaviour = scores.history_CP[category_TL[row, column]]
        expected = float(of_target @ of_behaviour) / 2 + float(scores.position_L[column])
        assert float(found_TL[row, column]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("preset", ["dare", "twin_proj", "twin_4e"])
def test_tables_alone_score_as_the_papers_figures_do(preset, open_fresh):
    widths = ["--model.embeddings.attention={item: 8, category: 4, position: 12}"]
    widths += ["--model.embeddings.representation={item: 8, category: 4, position: 12}"]
    opened = open_fresh(f"--model.preset={preset}", *widths)
    scores, interaction = table_scores(opened), opened.interaction
    assert scores is not None
    tables, embeddings = full_tables(opened.trainer.run), opened.trainer.config.model.embeddings

    def seen(use, name):
        if name == "position":
            value = interaction.positions.table(use)
        else:
            ending = f".{embeddings.space(use)}_category.weight"
            value = next(value for path, value in tables.items() if path.endswith(ending))
        projection = interaction.uses[use].features
        # A row times the transposed weight; the paper's figures took the weight itself.
        return value @ projection[name].weight.T if name in projection else value

    targets, histories = [3, 7], [[1, 2, 3], [7, 7]]
    found_TL = scores.scores(torch.tensor(targets), torch.tensor([[1, 2, 3], [7, 7, 0]]))
    grid = scores.grid(torch.tensor(targets), torch.arange(11))
    for row, (target, history) in enumerate(zip(targets, histories, strict=True)):
        for column, behaviour in enumerate(history):
            of_category, of_position = (
                seen("attention_target", name)[here] @ seen("attention_history", name)[there]
                for name, here, there in (
                    ("category", target, behaviour),
                    ("position", 0, column + 1),
                )
            )
            expected = float(of_category) / math.sqrt(4) + float(of_position) / math.sqrt(12)
            assert float(found_TL[row, column]) == pytest.approx(expected, rel=1e-5)
            assert float(grid[row, behaviour, column]) == pytest.approx(expected, rel=1e-5)
    assert not grid.requires_grad


@pytest.mark.parametrize("preset", ["din", "sdim", "twin_kdd23", "twin_proj_concat"])
def test_models_that_are_no_dot_product_of_tables_have_no_such_score(preset, open_fresh):
    assert table_scores(open_fresh(f"--model.preset={preset}")) is None
