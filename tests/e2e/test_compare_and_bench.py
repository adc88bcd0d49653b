"""`dare compare` and `dare bench` on sizes for seconds."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import dare, dare_without_report
from trainer import commands
from trainer.reliability.lock import locked
from trainer.sweep.compare import Cell, format_table

RECIPE = Path(__file__).parents[2] / "launch" / "recipes" / "synthetic_dare.yaml"


def test_the_table_is_what_one_would_write_by_hand():
    cells = [
        Cell(1.0, "twin", [0.70, 0.80], [0.90, 0.90], [0.4, 0.5]),
        Cell(1.0, "dare", [0.80, 0.80], [0.90, 0.90], [1.0, 0.9]),
        Cell(0.0, "twin", [0.50], [0.75], [-0.1]),
        Cell(0.0, "dare", [0.625], [0.75], [None]),
    ]
    assert format_table(cells).splitlines() == [
        "| agreement | best possible | TWIN AUC | TWIN of possible | TWIN attention "
        "| DARE AUC | DARE of possible | DARE attention |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 0.9000 | 0.7500 ± 0.0707 | 62.5% | 0.45 | 0.8000 ± 0.0000 | 75.0% | 0.95 |",
        "| 0 | 0.7500 | 0.5000 ± 0.0000 | 0.0% | -0.10 | 0.6250 ± 0.0000 | 50.0% | - |",
    ]


def test_compare_trains_each_pair_once_and_goes_on_where_it_was(tmp_path):
    arguments = [
        "compare",
        f"--out={tmp_path}",
        f"--config={RECIPE}",
        "--agreements=[1.0, 0.0]",
        "--presets=[twin, dare]",
        "--seeds=[1]",
        "--users=150",
        '--options=["--loop.epochs=1", "--loop.steps=2", "--loop.evaluate_every=0"]',
    ]
    first = dare_without_report(*arguments)
    assert first.code == 0, first.err
    assert first.out == f"{tmp_path / 'compare.md'}\n"
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    cells = json.loads((tmp_path / "compare.json").read_text())
    assert [(cell["agreement"], cell["preset"]) for cell in cells] == [
        *((1.0, "twin"), (1.0, "dare")),
        *((0.0, "twin"), (0.0, "dare")),
    ]
    for cell in cells:
        run = f"{cell['preset']}-agreement-{cell['agreement']:g}-seed-1"
        result = json.loads((tmp_path / "runs" / run / "result.json").read_text())
        assert cell["auc"] == [result["auc"]]
        assert cell["oracle_auc"] == [result["oracle_auc"]]
        assert result["preset"] == cell["preset"]
        (near,) = cell["attention"]
        found = json.loads((tmp_path / "runs" / run / "analysis" / "attention.json").read_text())
        assert found["correlations"]["planted attention"]["attention"]["pearson"] == near
    table = (tmp_path / "compare.md").read_text()
    assert f"{cells[3]['mean']:.4f} ± 0.0000" in table

    kept = tmp_path / "runs" / "twin-agreement-1-seed-1" / "metrics.jsonl"
    before = kept.stat().st_mtime_ns
    (tmp_path / "runs" / "dare-agreement-0-seed-1" / "result.json").unlink()
    assert dare_without_report(*arguments).code == 0
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "compare.md").read_text() == table


def test_compare_makes_anew_what_is_of_other_options_and_keeps_the_rest(tmp_path):
    def compare(*options: str, steps: int = 2) -> str:
        outcome = dare_without_report(
            *("compare", f"--out={tmp_path}", f"--config={RECIPE}"),
            *("--agreements=[0.5]", "--seeds=[1]", "--presets=[dare]", *options),
            f'--options=["--loop.steps={steps}", "--telemetry.log_every={steps}"]',
        )
        assert outcome.code == 0, outcome.err
        return outcome.err

    data = tmp_path / "data" / "agreement-0.5-seed-1"
    run = tmp_path / "runs" / "dare-agreement-0.5-seed-1"

    def state() -> tuple[int, int, int]:
        users = json.loads((data / "schema.json").read_text())["protocol"]["users"]
        result = (run / "result.json").stat().st_mtime_ns
        return users, (data / "schema.json").stat().st_mtime_ns, result

    compare("--users=150")
    first = state()
    assert "anew" not in compare("--users=150")
    assert state() == first

    told = compare("--users=150", steps=3)
    assert f"{run} was run with another loop.steps; run anew" in told
    second = state()
    assert second[:2] == first[:2]
    assert json.loads((run / "result.json").read_text())["steps"] == 3

    told = compare("--users=200", steps=3)
    for stale in (run, data):
        assert f"{stale} is of a log with other options" in told
    assert state()[0] == 200
    assert state()[2] != second[2]

    # As a preparation leaves it that is ended while it writes.
    (data / "schema.json").write_text((data / "schema.json").read_text()[:100])
    assert f"{data} is of a log with other options or unfinished" in compare("--users=200", steps=3)


def _compare_one(tmp_path, *options):
    outcome = dare_without_report(
        *("compare", f"--out={tmp_path}", f"--config={RECIPE}"),
        *("--agreements=[0.5]", "--seeds=[1]", "--presets=[dare]", *options),
    )
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    return outcome.err, json.loads((tmp_path / "compare.json").read_text())


def test_compare_leaves_a_run_out_whose_test_split_has_one_class(tmp_path):
    told, cells = _compare_one(tmp_path, "--users=1", "--options=[--loop.steps=2]")
    assert "dare-agreement-0.5-seed-1 is left out: its test split has no AUC" in told
    assert cells == []


def test_compare_knows_no_planted_attention_of_hashed_ids(tmp_path):
    options = "--options=[--data.ids=hash, --loop.steps=2, --loop.evaluate_every=0]"
    _, (cell,) = _compare_one(tmp_path, "--users=150", options)
    assert cell["attention"] == [None]
    assert (tmp_path / "compare.md").read_text().splitlines()[-1].endswith("% | - |")


def test_compare_refuses_one_folder_for_all_checkpoints(tmp_path):
    option = f"--checkpoint.folder={tmp_path / 'all'}"
    outcome = dare("compare", f"--out={tmp_path}", f'--options=["{option}"]')
    assert (outcome.code, outcome.out) == (2, "")
    assert "checkpoint.folder is" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_second_compare_on_a_folder_is_refused_while_the_first_goes_on(tmp_path):
    with locked(tmp_path, "give another --out"):
        outcome = dare("compare", f"--out={tmp_path}", f"--config={RECIPE}", "--users=150")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{tmp_path} is held by process {os.getpid()} on" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_bench_prints_one_object_with_its_setting():
    sizes = ["--items=500", "--history_length=8", "--top_k=4", "--batch_size=64"]
    result = dare("bench", "train", *sizes, "--steps=2", "--repeats=2").result
    least, median, most = (result[f"samples_per_s{end}"] for end in ("_min", "", "_max"))
    assert 0 < least <= median <= most
    assert median == pytest.approx((least + most) / 2, abs=0.1)
    assert (result["items"], result["history_length"], result["steps"]) == (500, 8, 2)
    assert 0 <= result["data_wait_share"] <= 1
    assert result["peak_memory_bytes"] > 1e8


@pytest.mark.parametrize("preset", ["twin_proj", "din", "sdim", "twin_kdd23", "twin_v2"])
def test_bench_takes_any_model(preset):
    sizes = ["--items=500", "--history_length=40", "--batch_size=32", "--targets=1"]
    result = dare(
        *("bench", "train", f"--preset={preset}", *sizes, "--width=8", "--steps=1", "--repeats=1")
    ).result
    assert (result["preset"], result["history_length"], result["batch_size"]) == (preset, 40, 32)
    assert result["samples_per_s"] > 0


def test_bench_search_measures_each_width_and_length(tmp_path):
    result = dare(
        *("bench", "search", "--widths=[8, 16]", "--history_lengths=[20, 40]", "--rows=300"),
        *("--requests=2", "--targets=3", "--top_k=5", "--repeats=1", f"--out={tmp_path}"),
    ).result
    assert [(cell["history_length"], cell["width"]) for cell in result["cells"]] == [
        *((20, 8), (20, 16), (40, 8), (40, 16)),
    ]
    for cell in result["cells"]:
        for name in ("search", "lookup"):
            assert 0 < cell[f"{name}_s_min"] <= cell[f"{name}_s"] <= cell[f"{name}_s_max"]
        # 2 requests of 3 targets, rows of two features; scores are written and read.
        length, width = cell["history_length"], cell["width"]
        numbers, scores = 2 * width * 2 * (length + 3), 2 * 3 * length
        copied = 4 * (numbers + 2 * scores) / result["copy_bytes_per_s"]
        multiplied = 2 * scores * 2 * width / result["product_flops_per_s"]
        assert cell["search_floor_s"] == pytest.approx(max(copied, multiplied))
    assert json.loads((tmp_path / "search.json").read_text()) == result
    # Two heads and four settings; by kernels, which take histories from eight times K on, two.
    assert (tmp_path / "search.md").read_text().count("\n| ") == (2 + 4) + (2 + 2)
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.dist
def test_bench_exchange_counts_what_arithmetic_says():
    sizes = ["--history_lengths=[50]", "--top_k=[5]", "--targets=[3]", "--widths=[8]"]
    result = dare("bench", "exchange", "--requests=4", *sizes).result
    whole, kept = result["cells"]
    assert (whole["auxiliary"], kept["auxiliary"]) == (True, False)
    # Each of two tables is on one of two ranks, so half of all numbers leave their rank. Two sums
    # for each of 3 targets: 6 weights a behaviour and table there, and their gradients back.
    assert whole["pooled_parts"]["weights"] == 50 * 6 * 4
    assert whole["pooled_parts"]["weights gradient"] == 50 * 6 * 4
    assert kept["pooled_parts"]["weights"] == 3 * 5 * 4
    assert kept["pooled_parts"]["sums"] == kept["pooled_parts"]["rows"] == 3 * 8 * 4
    for cell in (whole, kept):
        # Ids of 8 bytes there, rows of 8 floats back and their gradients there again.
        unpooled = (50 + 3) * (8 + 2 * 8 * 4)
        assert cell["representation_unpooled"] == pytest.approx(unpooled, rel=0.02)
        assert cell["representation_pooled"] == sum(cell["pooled_parts"].values())


def test_bench_exchange_of_one_rank_is_refused():
    outcome = dare("bench", "exchange", "--ranks=1")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--ranks is 1" in outcome.err


def test_bench_all_writes_its_page_section_by_section(tmp_path):
    def measure(section: str) -> None:
        sizes = ("--items=500", "--growth_items=500", "--history_lengths=[20, 40]")
        effort = ("--seconds=0.05", "--repeats=2", f"--out={tmp_path}")
        told = dare("bench", "all", f"--sections=[{section}]", *sizes, *effort).result
        assert told["out"] == str(tmp_path)

    measure("history")
    first = json.loads((tmp_path / "benchmarks.json").read_text())["sections"]["history"]
    measure("reading")
    sections = json.loads((tmp_path / "benchmarks.json").read_text())["sections"]
    assert sections["history"] == first
    assert [cell["history_length"] for cell in first["cells"]] == [20, 40]
    for cell in first["cells"]:
        assert 0 < cell["samples_per_s_min"] <= cell["samples_per_s"] <= cell["samples_per_s_max"]
        # Three targets share a history.
        share = cell["samples_per_s"] * cell["history_length"] / 3
        assert cell["behaviours_per_s"] == pytest.approx(share, rel=1e-3)
        assert cell["exchange_share"] == 0
    assert first["cells"][0]["first_ratio"] == 1
    assert sections["reading"]["cells"][2]["over_step"] == 1
    page = (tmp_path / "benchmarks.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Growth with the history",
        "## Reading",
    ]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def _check_that_finds(failed: list[str]) -> Callable[[], dict[str, list[str]]]:
    def check() -> dict[str, list[str]]:
        """Check nothing."""
        return {"failed": failed}

    return check


@pytest.mark.parametrize(("failed", "code"), [([], 0), (["a ratio"], 1)])
def test_bench_tells_of_a_failed_check_by_its_exit_code(monkeypatch, capsys, failed, code):
    monkeypatch.setattr("trainer.bench.check.bench_check", _check_that_finds(failed))
    assert commands.bench(["check"]) == code
    assert json.loads(capsys.readouterr().out) == {"failed": failed}
