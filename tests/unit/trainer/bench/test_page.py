"""The benchmark page is its JSON, section by section, and is never of two machines."""

import json

import pytest

from trainer.bench import all as bench_all
from trainer.bench import growth
from trainer.bench.all import _Page
from trainer.bench.check import Checked
from trainer.bench.page import format_page
from trainer.bench.setting import DataShape, Effort, TrainSetting

MACHINE = {
    "commit": "abc1234",
    "versions": {"torch": "2.13.0"},
    "threads": 2,
    "machine": "a processor",
    "cores": 2,
    "gpu": None,
}
SETTING = {"items": 1000, "seconds": 1.0, "repeats": 3}
RATE = {"samples_per_s": 1234.5, "samples_per_s_min": 1000.0, "samples_per_s_max": 2000.0}
LEVER = {
    **RATE,
    "lever": "one target a request",
    "base_samples_per_s": 2469.0,
    "ratio": 2.0,
    "ratio_min": 1.5,
    "ratio_max": 2.25,
}


def page(**sections):
    return format_page(
        {"command": "dare bench all", "machine": MACHINE, "setting": SETTING, "sections": sections}
    )


def test_the_page_says_what_it_is_of():
    text = page()
    assert "at commit abc1234 on a processor, 2 threads; torch 2.13.0" in text
    assert "medians of 3 repeats, of about 1 s for a training, with" in text
    assert text.count("\n## ") == 0


def test_a_lever_is_told_with_its_ratio_and_their_spread():
    text = page(levers={"cells": [LEVER]})
    row = "| one target a request | 1,234 (1,000 to 2,000) | 2,469 | 2.00 (1.50 to 2.25) |"
    assert row in text.splitlines()


def test_history_is_compared_with_the_first_length():
    cell = {
        **RATE,
        "history_length": 200,
        "requests": 600,
        "behaviours_per_s": 1000,
        "floor_share": 0.5,
        "peak_memory_bytes": 5 << 20,
        "before_memory_bytes": 2 << 20,
        "held_bytes": 2 << 20,
        "memory_over_held": 1.5,
    }
    other = {**cell, "history_length": 20_000, "requests": 6, "behaviours_per_s": 750}
    rows = page(history={"items": 9, "targets": 3, "cells": [cell, other]}).splitlines()
    rate, memory = "1,234 (1,000 to 2,000)", "50.0% | 3.0 MiB | 2.0 MiB | 1.50"
    assert f"| 200 | 600 | {rate} | 1,000 | 1.00 | {memory} |" in rows
    assert f"| 20,000 | 6 | {rate} | 750 | 0.75 | {memory} |" in rows


def test_where_no_table_fits_that_is_told():
    rows = page(items={"cells": [], "left_out": [10, 2_000_000]}).splitlines()
    assert rows[-1] == "Left out for want of memory: 10, 2,000,000."


def test_ranks_are_told_with_efficiency_and_exchange():
    cell = {
        **RATE,
        "ranks": 2,
        "efficiency": 0.75,
        "exchange_share": 0.25,
        "step_ms": 12.34,
        "peak_memory_bytes": 3 << 20,
    }
    rows = page(ranks={"cells": [cell], "left_out": [4]}).splitlines()
    assert "| 2 | 1,234 (1,000 to 2,000) | 75% | 25% | 12.3 | 3.0 MiB |" in rows
    assert rows[-1] == "Left out, more than there are GPUs: 4."


def test_sections_are_added_to_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_all, "machine", lambda: MACHINE)
    _Page(tmp_path, SETTING).add("levers", {"cells": [LEVER]})
    _Page(tmp_path, SETTING).add("reading", {"cells": [{**RATE, "part": "all", "over_step": 3.5}]})
    known = json.loads((tmp_path / "benchmarks.json").read_text())
    assert list(known["sections"]) == ["levers", "reading"]
    text = (tmp_path / "benchmarks.md").read_text()
    assert "one target a request" in text
    assert "| all | 1,234 (1,000 to 2,000) | 3.50 |" in text


@pytest.mark.parametrize("part", ["machine", "setting"])
def test_figures_of_another_machine_or_setting_are_not_mixed_in(tmp_path, monkeypatch, part):
    monkeypatch.setattr(bench_all, "machine", lambda: MACHINE)
    _Page(tmp_path, SETTING).add("levers", {"cells": [LEVER]})
    before = (tmp_path / "benchmarks.json").read_text()
    other = {"machine": MACHINE, "setting": SETTING}
    other[part] = {**other[part], "threads": 64}
    monkeypatch.setattr(bench_all, "machine", lambda: other["machine"])
    with pytest.raises(ValueError, match=f"has figures of another {part}.*give another --out"):
        _Page(tmp_path, other["setting"])
    assert (tmp_path / "benchmarks.json").read_text() == before


def test_tables_that_do_not_fit_in_memory_are_left_out(monkeypatch):
    measured = []

    def no_measure(settings, *_):
        measured.extend(settings)
        return [{} for _ in settings]

    monkeypatch.setattr(growth, "_measure", no_measure)
    monkeypatch.setattr(growth, "_free_bytes", lambda: 2 << 30)
    # 1.25 * 2 tables * 68 bytes a row: 1.7 GB for ten million rows, then nothing for the next.
    base = TrainSetting(data=DataShape(items=9))
    found = growth.measure_items((10_000_000, 5_000_000, 100_000), base, Effort())
    assert [setting.data.items for setting in measured] == [10_000_000, 100_000]
    assert [cell["items"] for cell in found["cells"]] == [10_000_000, 100_000]
    assert found["left_out"] == [5_000_000]


def test_a_check_holds_at_its_least():
    assert Checked(name="x", ratio=1.5, least=1.5).holds
    assert not Checked(name="x", ratio=1.499, least=1.5).holds


def test_short_histories_are_measured_with_as_many_kept_as_there_are() -> None:
    short, long, odd = growth.history_settings([10, 200, 50_000], 1_000)
    assert (short.top_k, long.top_k) == (10, 20)
    assert [setting.behaviours for setting in (short, long, odd)] == [120_000, 120_000, 100_000]
