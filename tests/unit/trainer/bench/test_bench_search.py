"""The search that is measured is the model's, and its floors are arithmetic."""

import pytest
import torch

from trainer.bench import floor as bench_floor
from trainer.bench.data import uniform_batch
from trainer.bench.search import _build, _grid, _work
from trainer.bench.search_report import format_search
from trainer.distributed import run_context

SHAPE = {"items": 50, "categories": 7, "requests": 3, "targets": 2}
SETTING = {"top_k": 4, "seed": 1}
LENGTH = 10


@pytest.mark.parametrize("preset", ["dare", "twin", "eta", "din", "twin_proj", "twin_hard"])
def test_what_is_measured_keeps_what_the_model_keeps(preset):
    with run_context() as context, torch.no_grad():
        model = _build(8, LENGTH, {**SETTING, "preset": preset}, SHAPE, context)
        batch = uniform_batch(**SHAPE, history_length=LENGTH, seed=5).to(context.device)
        for parameter in model.ranker.interaction.parameters():
            parameter.normal_(0.0, 0.3)
        rows, grid = model.lookup(batch), _grid(batch)
        assert rows["attention_history"].joined.shape == (30, 16)
        kept_RMK = model.search(batch.features, grid, rows)
        output = model.ranker(
            batch.features, batch.weight > 0, batch.num_history, batch.num_targets
        )
    assert kept_RMK.shape == (3, 2, 4)
    assert kept_RMK.flatten(0, 1).sort().values.equal(output.kept_TK.sort().values)
    work = _work(model, batch, 8)
    # 30 behaviours and 6 targets, an item and a category of 8 numbers each.
    assert work["lookup"] == (36 * 2 * 8 + 2 * 36 * 16 * 4, 0)
    if preset in ("dare", "twin", "twin_proj"):
        # 60 scores, each 16 products and sums; written once and read once.
        assert work["search"] == (36 * 16 * 4 + 2 * 60 * 4, 2 * 60 * 16)
        # 24 behaviours are kept, each a score, a column and a byte.
        assert work["jagged"] == (36 * 16 * 4 + 24 * 13, 2 * 60 * 16)
    else:
        assert work.keys() == {"lookup"}


@pytest.mark.parametrize("preset", ["sdim", "twin_v2", "twin_kdd23"])
def test_a_search_that_is_not_one_score_a_behaviour_is_refused(preset):
    with (
        run_context() as context,
        pytest.raises(ValueError, match=f"--preset is {preset}, whose search is not"),
    ):
        _build(8, LENGTH, {**SETTING, "preset": preset}, SHAPE, context)


def test_a_call_is_timed_over_as_many_as_can_be_measured(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench_floor.time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        def task():
            clock[0] += seconds
            done.append(seconds)

        return task

    for seconds, calls in ((0.006, 4), (0.5, 1)):
        done: list[float] = []
        found = bench_floor.seconds_a_call(takes(seconds), torch.device("cpu"))
        assert found == pytest.approx(seconds)
        assert len(done) == calls


def cell(width, search, floor, lookup):
    return {
        **{"history_length": 2000, "width": width, "search_floor_s": floor},
        **{"search_s": search, "search_s_min": search / 2, "search_s_max": 2 * search},
        **{"lookup_s": lookup, "lookup_s_min": lookup, "lookup_s_max": lookup},
        "lookup_floor_s": lookup / 4,
    }


def test_the_table_is_what_one_would_write_by_hand():
    figures = {
        **{"preset": "dare", "requests": 4, "targets": 3, "top_k": 20, "rows": 1_000_000},
        **{"repeats": 5, "copy_bytes_per_s": 1.25e10, "product_flops_per_s": 5e10},
        "cells": [cell(64, 0.010, 0.002, 1.5), cell(128, 0.016, None, 0.0004)],
    }
    told = format_search(figures).splitlines()
    assert told[0].startswith("`dare`, 4 requests of 3 targets at once, 20 kept, 1,000,000 items;")
    assert told[0].endswith("12.5 GB/s of a copy, 50 GFLOP/s of a matrix product.")
    assert told[2:] == [
        "| history | width | search | of widest | floor | times floor | lookup | floor |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 2,000 | 64 | 10 (5 to 20) | 62% | 2 | 5.0 | 1,500 (1,500 to 1,500) | 375 |",
        "| 2,000 | 128 | 16 (8 to 32) | 100% | - | - | 0.4 (0.4 to 0.4) | 0.1 |",
    ]
    assert "kernels" not in told[0]


def test_the_kernels_table_stands_below_where_they_ran():
    cells = [cell(64, 0.010, 0.002, 1.5), cell(128, 0.016, 0.004, 0.0004)]
    jagged = {"jagged_s": 0.004, "jagged_s_min": 0.003, "jagged_s_max": 0.005}
    cells[1] |= {**jagged, "jagged_floor_s": 0.003}
    figures = {
        **{"preset": "dare", "requests": 4, "targets": 3, "top_k": 20, "rows": 1_000_000},
        **{"repeats": 5, "copy_bytes_per_s": 1.25e10, "product_flops_per_s": 5e10},
        "cells": cells,
    }
    told = format_search(figures).splitlines()
    assert told[-3:] == [
        "| history | width | torch | kernels | torch over kernels | floor | of floor |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 2,000 | 128 | 16 | 4 (3 to 5) | 4.0 | 3 | 75% |",
    ]
