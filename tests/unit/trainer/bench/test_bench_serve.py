"""The search of a request is measured in all its settings, and told as one would by hand."""

import json

import pytest

from tests.commands import dare
from trainer.bench import floor as bench_floor
from trainer.bench.serve import _Cell, _floor
from trainer.bench.serve_report import format_serve

RATES = {
    **{"copy_bytes_per_s": 1e10, "product_fp32_per_s": 1e11},
    **{"product_bf16_per_s": 2e11, "product_int8_per_s": 4e11},
}


def test_a_floor_is_bytes_or_operations():
    # 1,001 vectors of 16 bytes and 20 indices of 8; 2 * 1000 * 16 operations take less.
    assert _floor(_Cell(1000, 1, 16, "int8"), 20, RATES) == pytest.approx((16_016 + 160) / 1e10)
    assert _floor(_Cell(1000, 100, 64, "fp32"), 20, RATES) == pytest.approx(2 * 1e5 * 64 / 1e11)


def cell(width, precision, search, same=1.0):
    return {
        **{"behaviours": 2000, "targets": 10, "width": width, "precision": precision},
        **{"search_s": search, "floor_s": 1e-5, "same_as_fp32": same},
    }


def test_the_tables_are_what_one_would_write_by_hand():
    cells = [
        *(cell(16, "fp32", 1e-4), cell(16, "int8", 4e-5, 0.9875)),
        *(cell(32, "fp32", 1.75e-4), cell(32, "int8", 5e-5, 0.99)),
    ]
    choice = {"behaviours": 2000, "targets": 10, "choice_s": 2e-5, "topk_s": 4.5e-5}
    figures = {
        **{"cells": cells, "choices": [choice], "top_k": 20, "repeats": 5, "threads": 1},
        **{"device": "cpu", "clock": "processor", **RATES},
    }
    told = format_serve(figures).splitlines()
    assert told[0].startswith("One request at a time, 20 kept, 1 thread(s) on cpu; microseconds of")
    assert told[0].endswith("product: 100 G/s fp32, 400 G/s int8.")
    assert told[2] == "**2,000 behaviours**"
    head = "fp32 | half | times floor | int8 | half | times floor | same"
    assert told[4] == f"| targets | width | {head} |"
    assert told[6] == "| 10 | 16 | 100 | 1.75 | 10.0 | 40 | 1.25 | 4.0 | 98.8% |"
    assert told[7] == "| 10 | 32 | 175 | - | 17.5 | 50 | - | 5.0 | 99.0% |"
    assert told[-1] == "| 2,000 | 10 | 20 | 45 |"


def test_every_setting_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_floor, "_LEAST_S", 0.0)
    monkeypatch.setattr(bench_floor, "_COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(bench_floor, "_PRODUCT_SIZE", 64)
    sizes = ["--widths=[8,16]", "--behaviours=[30,600]", "--targets=[1,40]", "--repeats=1"]
    told = dare("bench", "serve", *sizes, f"--out={tmp_path}").result
    assert len(told["cells"]) == 2 * 2 * 2 * 3
    assert all(one["search_s"] > 0 for one in told["cells"])
    assert {one["same_as_fp32"] for one in told["cells"] if one["precision"] == "fp32"} == {1.0}
    assert min(one["same_as_fp32"] for one in told["cells"]) > 0.8
    assert json.loads((tmp_path / "serve.json").read_text()) == told
    assert {path.name for path in tmp_path.iterdir()} == {"serve.json", "serve.md", "serve.png"}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--top_k=500", "--top_k is 500, --behaviours [200, 2000, 20000]; a search keeps at most"),
        ("--targets=[0]", "--targets is [0]; give numbers of at least 1"),
        ("--precisions=[]", "--precisions is empty; give some of fp32, bf16, int8"),
        ("--threads=0", "--threads is 0; it must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(option, told):
    done = dare("bench", "serve", option)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"dare bench: error: {told}")
