"""Kernels of the search: Triton's, by its interpreter where no GPU is, and a CPU's compiled loops.

They are compared with float64, with `torch.topk`, and with the model without them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import modules
from modules import jagged_best, jagged_search
from modules.attention import AttentionConfig
from modules.head import HeadConfig
from modules.jagged_best import Best, keep_best
from modules.jagged_gpu import decoded, fold_size
from modules.model_config import RankerConfig
from modules.search import SearchConfig
from modules.serving import ServedRanker
from tests.small import DARE, LOOKUPS, TWIN, close, make_task, read, users, widen
from trainer.bench import search as bench
from trainer.bench.data import uniform_batch
from trainer.distributed import run_context

_OF_TRITON = re.compile(r"triton(\.(?!_C)|$)|modules\.jagged_kernels$")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module", autouse=True, params=["triton", "loops"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which of the two this file's tests are about; each test is there for both."""
    kind = request.param
    if kind == "triton" and not importlib.util.find_spec("triton"):
        pytest.skip("Triton has no wheel for this machine")
    if kind == "loops" and DEVICE.type == "cuda":
        pytest.skip("the tensors of these tests are on a GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jagged_best, "on_gpu", lambda _: kind == "triton")
        patch.setitem(jagged_search.LEAST_COLUMNS, "cpu", 1)  # Histories are short here.
        with interpreter() if kind == "triton" else contextlib.nullcontext():
            yield kind


@contextlib.contextmanager
def interpreter() -> Iterator[None]:
    """Whether a kernel is interpreted, Triton asks where it is defined: its own ones at its import.

    So this file has a Triton of its own, and others find theirs as they left it.
    """

    def triton() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if _OF_TRITON.match(name)]
        return {name: sys.modules.pop(name) for name in names}

    if DEVICE.type == "cuda":
        yield
        return
    before = triton()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("modules.jagged_kernels")
        yield
    triton()
    sys.modules.update(before)
    # `from modules import ...` finds what the package holds.
    earlier = before.get("modules.jagged_kernels")
    if earlier is None:
        del modules.jagged_kernels
    else:
        modules.jagged_kernels = earlier


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], device=DEVICE)


def drawn(lengths: list[int], targets: int, width: int, dtype: torch.dtype, seed: int):
    """Leaves: rows of the behaviours, of the targets, and what columns add."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((sum(lengths), width), (len(lengths), targets, width), (max(lengths, default=0),))
    made = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    return [made[0].to(dtype).requires_grad_(), made[1].requires_grad_(), made[2].requires_grad_()]


def check(best: Best, history, query, position, lengths: list[int], *, factor: float) -> None:
    """The best of each target are float64's, best first, and padding comes last."""
    starts = itertools.accumulate(lengths, initial=0)
    for request, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        rows = history[start : start + length].double()
        score_ML = factor * query[request].double() @ rows.T + position[:length].double()
        kept = min(length, best.index_RMK.size(2))
        assert best.index_RMK[request, :, :kept].equal(score_ML.topk(kept, dim=1).indices)
        assert best.valid_RMK[request, :, :kept].all()
        assert not best.valid_RMK[request, :, kept:].any()
        assert best.index_RMK[request, :, kept:].eq(0).all()


@pytest.mark.parametrize(
    ("lengths", "targets", "width", "top_k", "dtype"),
    [
        ([5, 0, 70, 33], 3, 12, 4, torch.float32),  # Every key is looked at.
        ([300, 0, 1, 129], 2, 40, 3, torch.float32),  # Folds; rows wider than a block.
        ([0, 257, 0], 17, 8, 4, torch.bfloat16),  # More targets than one block's least.
        ([200], 70, 16, 2, torch.float32),  # Two blocks of targets.
        ([300, 7], 9, 13, 5, torch.float32),  # No block of anything is full.
        ([64, 20], 1, 256, 64, torch.float32),  # K of all columns.
        ([129, 130], 2, 20, 128, torch.bfloat16),
    ],
)
def test_the_best_are_those_of_all_scores(lengths, targets, width, top_k, dtype) -> None:
    history, query, position = drawn(lengths, targets, width, dtype, seed=3)
    best = keep_best([history], query, position, offsets(lengths), factor=0.3, top_k=top_k)
    assert best.index_RMK.shape == (len(lengths), targets, top_k)
    check(best, history, query, position, lengths, factor=0.3)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=3).filter(any),
    targets=st.integers(1, 3),
    width=st.integers(1, 20),
    top_k=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_the_best_of_any_shape_are_those_of_all_scores(lengths, targets, width, top_k, seed):
    history, query, position = drawn(lengths, targets, width, torch.float32, seed)
    top_k = min(top_k, max(lengths))
    best = keep_best([history], query, position, offsets(lengths), factor=-1.5, top_k=top_k)
    check(best, history, query, position, lengths, factor=-1.5)


def test_choice_and_order_are_those_worked_out_by_hand() -> None:
    history = torch.tensor([[1.0, 0], [0, 2], [3, 1], [5, 5]], device=DEVICE)
    query = torch.tensor([[[1.0, 2]], [[-1, 0]]], device=DEVICE)
    position = torch.tensor([0.5, 0, -4], device=DEVICE)
    best = keep_best([history], query, position, offsets([3, 1]), factor=2.0, top_k=2)
    # Twice 1, 4 and 5, and the position's part, are 2.5, 8 and 6; the other request has only one.
    assert best.index_RMK.tolist() == [[[1, 2]], [[0, 0]]]
    assert best.valid_RMK.tolist() == [[[True, True]], [[True, False]]]


@pytest.mark.parametrize("length", [40, 400])
def test_of_equal_scores_the_newest_are_kept(length: int) -> None:
    history = torch.ones(length, 4, device=DEVICE)
    history[length // 2] = 2
    # Two zeros of either sign are equal too: 0 times -1 with a position of -0 is -0.
    for size, factor in ((1.0, 1.0), (0.0, 1.0), (0.0, -1.0)):
        query = torch.full((1, 1, 4), size, device=DEVICE)
        position = torch.zeros(length, device=DEVICE)
        position[::2] = -0.0
        best = keep_best([history], query, position, offsets([length]), factor=factor, top_k=3)
        assert best.index_RMK.tolist() == [[[length // 2, 0, 1] if size else [0, 1, 2]]]


@pytest.mark.parametrize("length", [40, 400])
def test_nan_is_kept_first_and_seen_and_infinite_scores_have_their_place(length: int) -> None:
    history = torch.linspace(-1, 1, length, device=DEVICE).unsqueeze(1)
    for column, value in ((17, torch.nan), (9, torch.inf), (12, -torch.nan), (5, -torch.inf)):
        history[column] = value
    query = torch.ones(1, 1, 1, device=DEVICE)
    position = torch.zeros(length, device=DEVICE)
    best = keep_best([history], query, position, offsets([length]), factor=1.0, top_k=5)
    assert best.index_RMK.tolist() == [[[12, 17, 9, length - 1, length - 2]]]
    # torch ranks them so too.
    assert set(history[:, 0].topk(5).indices.tolist()) == set(best.index_RMK[0, 0].tolist())
    # A behaviour that scores worst of all is before padding.
    whole = keep_best([history[:6]], query, position, offsets([6]), factor=1.0, top_k=8)
    assert whole.index_RMK[0, 0, 5].item() == 5
    assert whole.valid_RMK.sum() == 6


def test_rows_and_targets_may_be_parts_of_wider_ones() -> None:
    history, query, position = drawn([40, 30], 2, 12, torch.float32, seed=1)
    with torch.no_grad():
        parts = history[:, 3:8], query.transpose(1, 2)[:, 3:8].transpose(1, 2), position
        turned = history.t().contiguous().t()[:, 3:8], *parts[1:]
        whole = [part.contiguous() for part in parts]
        found = [
            keep_best(p[:1], *p[1:], offsets([40, 30]), factor=1.0, top_k=5)
            for p in (parts, turned)
        ]
        expected = keep_best(whole[:1], *whole[1:], offsets([40, 30]), factor=1.0, top_k=5)
    for best in found:
        assert all(a.equal(b) for a, b in zip(best, expected, strict=True))


def test_features_apart_are_searched_as_side_by_side() -> None:
    lengths = [40, 0, 30]
    history, query, position = drawn(lengths, 2, 13, torch.float32, seed=2)
    pieces = history.split([8, 1, 4], dim=1)
    found, expected = (
        keep_best(parts, query, position, offsets(lengths), factor=0.4, top_k=6)
        for parts in (pieces, [history])
    )
    assert found.index_RMK.equal(expected.index_RMK)
    assert found.valid_RMK.equal(expected.valid_RMK)


def test_without_targets_or_behaviours_nothing_is_kept() -> None:
    for requests, targets in ((0, 2), (2, 0)):
        history, query, _ = drawn([3, 4][:requests], targets, 4, torch.float32, seed=1)
        best = keep_best(
            [history], query, torch.zeros(9, device=DEVICE), offsets([3, 4][:requests]),
            factor=1.0, top_k=5,
        )  # fmt: skip
        assert best.index_RMK.shape == best.valid_RMK.shape == (requests, targets, 5)
    history, query, _ = drawn([0, 0], 2, 4, torch.float32, seed=1)
    none = keep_best(
        [history], query, torch.zeros(9, device=DEVICE), offsets([0, 0]), factor=1.0, top_k=5
    )
    assert not none.valid_RMK.any()
    assert none.index_RMK.eq(0).all()


def test_more_than_there_are_columns_or_other_widths_are_errors() -> None:
    history, query, position = drawn([3], 1, 4, torch.float32, seed=1)
    with pytest.raises(ValueError, match="top_k is 4, columns are 3"):
        keep_best([history], query, position, offsets([3]), factor=1.0, top_k=4)
    with pytest.raises(ValueError, match="behaviours are 3 wide, targets 4"):
        keep_best([history[:, :3]], query, position, offsets([3]), factor=1.0, top_k=2)


def test_features_with_other_numbers_of_rows_are_an_error() -> None:
    history, query, position = drawn([3], 1, 4, torch.float32, seed=1)
    parts = history[:, :2], history[:2, 2:]
    with pytest.raises(ValueError, match=r"features have \[2, 3\] rows"):
        keep_best(parts, query, position, offsets([3]), factor=1.0, top_k=2)


def test_loops_read_nothing_that_is_not_there(kernels) -> None:
    if kernels != "loops":
        pytest.skip("a GPU would have to be waited for")
    history, query, _ = drawn([3, 5], 1, 4, torch.float32, seed=1)
    for lengths, columns in (([3, 6], 9), ([3, 5], 4)):
        with pytest.raises(ValueError, match=f"the longest {lengths[1]}; there are 8 rows"):
            keep_best([history], query, torch.zeros(columns), offsets(lengths), factor=1.0, top_k=2)


def test_histories_are_folded_where_that_leaves_enough_folds() -> None:
    assert [fold_size(columns, 20) for columns in (200, 1279, 1280, 20_000)] == [1, 1, 16, 16]


def test_a_key_is_a_score_and_a_column() -> None:
    key = torch.tensor([[[(0x3F800000 << 32) | (0x7FFFFFFF - 7), torch.iinfo(torch.int64).min]]])
    index, valid = decoded(key)
    assert (index.tolist(), valid.tolist()) == ([[[7, 0]]], [[[True, False]]])


def config(embeddings, scale="two_term", weight=0.0) -> RankerConfig:
    return RankerConfig(
        embeddings=embeddings,
        search=SearchConfig(top_k=3),
        attention=AttentionConfig(scale=scale),
        head=HeadConfig(auxiliary_weight=weight),
    )


def step(model: RankerConfig, batch, autocast=None):
    """Output, loss and gradients of a step, and whether the kernels have searched."""
    task = make_task(model, autocast=autocast).to(DEVICE)
    used = []
    best_of = jagged_search.best_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jagged_search, "best_of", lambda *a: used.append(1) or best_of(*a))
        loss, output = task(batch.to(DEVICE))
    loss.backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return (loss, output, gradients), bool(used)


MODELS = {
    "dare": config(DARE),
    "dare_joint": config(DARE, "joint"),
    "dare_unpooled": config(LOOKUPS["dare_unpooled"], "position_twice"),
    "twin": config(TWIN),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_with_kernels_is_a_step_without(name, tmp_path, monkeypatch) -> None:
    batch = read(users(), "user", tmp_path)
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: False)
    expected, used = step(MODELS[name], batch)
    assert not used
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    found, used = step(MODELS[name], batch)
    assert used
    same_step(found, expected)


def same_step(found, expected) -> None:
    (loss, output, gradients), (loss_, output_, gradients_) = found, expected
    close(loss, loss_.double(), "loss")
    close(output.logit_T, output_.logit_T.double(), "logits")
    # Not kept in the same order.
    for got, wanted in zip(*(o.attention_TK.sort().values for o in (output, output_)), strict=True):
        close(got, wanted.double(), "attention")
    assert gradients.keys() == gradients_.keys()
    for name, wanted in gradients_.items():
        close(gradients[name], wanted.double(), name, rounding=2e-5)


@pytest.mark.parametrize("name", ["auxiliary", "scored", "category", "clusters", "short"])
def test_the_kernels_leave_what_they_do_not_know_to_torch(name, tmp_path, monkeypatch) -> None:
    model = {
        "auxiliary": config(DARE, weight=1.0),
        "scored": config(LOOKUPS["dare_scored"]),
        "category": replace(MODELS["dare"], search=SearchConfig(top_k=3, by="category")),
        "clusters": replace(MODELS["twin"], search=SearchConfig(top_k=3, cluster_size=2)),
        "short": replace(MODELS["dare"], search=SearchConfig(top_k=9)),
    }[name]
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    assert not step(model, read(users(), "user", tmp_path))[1]


def test_more_kept_than_the_kernels_hold_is_searched_by_torch(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    for most, by_kernels in ((3, True), (2, False)):
        monkeypatch.setitem(jagged_search.MOST_KEPT, DEVICE.type, most)
        assert bool(step(MODELS["dare"], read(users(), "user", tmp_path))[1]) == by_kernels


def test_many_kept_of_a_short_history_are_searched_by_torch(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    for least, by_kernels in ((3, True), (4, False)):  # Three kept of nine.
        monkeypatch.setitem(jagged_search.LEAST_COLUMNS, DEVICE.type, least)
        assert bool(step(MODELS["dare"], read(users(), "user", tmp_path))[1]) == by_kernels


@pytest.mark.parametrize("part", ["search", "attention_scorer"])
def test_hooks_of_the_search_and_its_scorer_are_called(part, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    batch, seen = read(users(), "user", tmp_path).to(DEVICE), []
    task = make_task(MODELS["dare"]).to(DEVICE)
    module = getattr(task.ranker.interaction, part)
    with module.register_forward_hook(lambda *_: seen.append(part)):
        task(batch)
    task(batch)
    assert seen == [part]


def test_who_looks_into_the_search_gets_all_scores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    batch, seen = read(users(), "user", tmp_path).to(DEVICE), []
    task = make_task(MODELS["dare"]).to(DEVICE)
    search = task.ranker.interaction.search
    handle = search.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    task(batch)
    handle.remove()
    task(batch)
    assert seen == [(10, 3, 9)]


@pytest.mark.parametrize("there", [9, 2, 0])
def test_a_served_request_is_searched_by_them_too(there: int, monkeypatch) -> None:
    torch.manual_seed(2)
    rows = {"item": 23, "category": 7}
    model = ServedRanker(MODELS["dare"], rows=rows, history_length=9)
    widen(model)
    model = model.to(DEVICE)
    shapes = [(2, 12), (9, 12), (2, 20), (9, 20)]
    given = [torch.randn(shape, device=DEVICE) for shape in shapes]
    ids = torch.zeros(9, dtype=torch.int64, device=DEVICE)
    arguments = (*given, ids[:2], ids, torch.tensor(there, device=DEVICE))
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: False)
    expected = model(*arguments)
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: True)
    assert model.find(*given[:2], ids[:2], ids, arguments[-1]).scores is None
    found = model(*arguments)
    close(found.logit_T, expected.logit_T.double(), "logits")
    assert found.weight_TK.gt(0).sum(1).tolist() == [min(there, 3)] * 2


def test_what_the_bench_measures_keeps_what_torch_keeps() -> None:
    shape = {"items": 50, "categories": 7, "requests": 3, "targets": 2}
    with run_context() as context, torch.no_grad():
        setting = {"top_k": 4, "seed": 1, "preset": "dare"}
        model = bench._build(8, 10, setting, shape, context)
        batch = uniform_batch(**shape, history_length=10, seed=5).to(context.device)
        for parameter in model.ranker.interaction.parameters():
            parameter.normal_(0.0, 0.3)
        given = batch.features, bench._grid(batch), model.lookup(batch)
        found, expected = model.search_jagged(*given), model.search(*given)
    assert found.sort().values.equal(expected.sort().values)
    assert [model.is_jagged(torch.device("cpu"), longest) for longest in (5, 4)] == [True, False]


def test_a_cpu_and_a_gpu_with_triton_outside_of_a_graph_are_places_for_them(monkeypatch) -> None:
    runs, places = jagged_search.runs_on, [torch.device(name) for name in ("cuda", "cpu", "meta")]
    monkeypatch.setattr(jagged_search, "_has_triton", lambda: True)
    assert [runs(place) for place in places] == [True, True, False]
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not any(map(runs, places))
    monkeypatch.setattr(jagged_search, "_has_triton", lambda: False)
    assert [runs(place) for place in places] == [False, True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_the_model_chooses_them_and_trains_the_same(
    name, autocast, tmp_path, monkeypatch
) -> None:
    batch = read(users(), "user", tmp_path)
    found, used = step(MODELS[name], batch, autocast)
    assert used
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: False)
    expected, used = step(MODELS[name], batch, autocast)
    assert not used
    if autocast is None:
        same_step(found, expected)
    else:
        assert found[0].item() == pytest.approx(expected[0].item(), rel=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "targets"), [(8, 1), (32, 16), (100, 40), (256, 100)])
@pytest.mark.parametrize("top_k", [1, 20, 128])
def test_on_a_gpu_long_histories_are_searched_exactly(width, targets, top_k, dtype) -> None:
    lengths = [20_000, 0, 17, 25_001]
    history, query, position = drawn(lengths, targets, width, dtype, seed=top_k)
    best = keep_best([history], query, position, offsets(lengths), factor=0.2, top_k=top_k)
    for request, start in ((0, 0), (3, 20_017)):
        rows = history[start : start + lengths[request]].double()
        score = 0.2 * query[request].double() @ rows.T + position[: len(rows)].double()
        # Each is as good as its place asks, to float32's rounding of a sum.
        kept = score.gather(1, best.index_RMK[request])
        torch.testing.assert_close(kept, score.topk(top_k).values, rtol=1e-5, atol=1e-4)
    assert best.valid_RMK[2].sum(1).eq(min(17, top_k)).all()
