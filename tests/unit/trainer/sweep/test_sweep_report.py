"""What of a sweep is drawn, and what its files say."""

import dataclasses
import json
from pathlib import Path
from unittest import mock

import pytest

from trainer.sweep.cells import Cell
from trainer.sweep.figures import HeatMap, Line, Panel, draw_heat_maps, draw_lines
from trainer.sweep.grid import Axis, Dataset, Grid
from trainer.sweep.report import Report, draw_report, write_report
from trainer.sweep.runs import Ended, Run

TOP_K = Axis("top_k", ("model.search.top_k",), ("5", "1"))
WIDTH = Axis("width", ("width",), ("16", "64"))
NAMES = Axis("name", ("optim.sparse.name",), ("adam", "rowwise_adagrad"))
ONE_SET = (Dataset("taobao", ""),)


def report_of(presets, axes, *aucs, datasets=ONE_SET):
    """A report of two seeds, AUCs `auc` and `auc + 0.02` in each cell."""
    grid = Grid(presets, (1, 2), axes, datasets)
    cells = [
        Cell(
            setting,
            {
                seed: {"auc": auc + 0.02 * (seed - 1), "split": "test", "oracle_auc": 0.9}
                for seed in ((1, 2) if auc else ())
            },
        )
        for setting, auc in zip(grid.settings(), aucs, strict=True)
    ]
    failed = [Ended(Run("r", (), {}), None, "it broke", Path("log.txt"))]
    return Report(grid, "recipe.yaml", ["--loop.epochs=1"], cells, failed)


def drawn(report):
    """Arguments of the one figure that is drawn."""
    with (
        mock.patch("trainer.sweep.report.draw_lines") as lines,
        mock.patch("trainer.sweep.report.draw_heat_maps") as maps,
    ):
        said = draw_report(report, Path("x.png"))
    calls = [*lines.call_args_list, *maps.call_args_list]
    assert said == bool(calls)
    return calls[0] if calls else None


def test_one_varied_number_is_a_line_a_model_with_error_bars():
    two = report_of(("twin", "dare"), (TOP_K, WIDTH), *(0.5 + n / 100 for n in range(8)))
    assert drawn(two) is None
    call = drawn(report_of(("twin", "dare"), (TOP_K,), 0.6, 0.5, 0.8, 0.7))
    (panel,) = call.args[0]
    oracle, twin, dare = panel.lines
    assert (twin.label, dare.label, oracle.dashed) == ("TWIN", "DARE", True)
    assert (list(twin.x), list(dare.y)) == ([5, 1], [pytest.approx(0.81), pytest.approx(0.71)])
    assert twin.error == [pytest.approx(0.02 / 2**0.5)] * 2
    assert (oracle.x, oracle.y) == ([5, 1], [0.9, 0.9])
    assert (call.kwargs["x_label"], call.kwargs["y_label"]) == ("top_k", "test AUC")


def test_numbers_of_several_magnitudes_are_drawn_by_their_logarithm():
    lengths = Axis("history_length", ("data.history_length",), ("200", "20000"))
    assert drawn(report_of(("dare",), (lengths,), 0.5, 0.6)).kwargs["scale"] == "log_x"
    assert drawn(report_of(("dare",), (TOP_K,), 0.5, 0.6)).kwargs["scale"] == "linear"
    from_0 = Axis("x", ("loop.l2",), ("0", "20000"))
    assert drawn(report_of(("dare",), (from_0,), 0.5, 0.6)).kwargs["scale"] == "linear"


def test_a_point_whose_runs_failed_is_left_out_and_each_dataset_has_its_panel():
    two = (*ONE_SET, Dataset("tmall", "d/tmall"))
    call = drawn(report_of(("dare",), (TOP_K,), 0.6, 0.5, None, 0.7, datasets=two))
    taobao, tmall = call.args[0]
    assert (taobao.title, tmall.title) == ("taobao", "tmall")
    assert list(taobao.lines[-1].x) == [5]
    assert list(tmall.lines[-1].y) == [pytest.approx(0.51), pytest.approx(0.71)]


def test_two_varied_numbers_of_one_model_are_a_heat_map():
    call = drawn(report_of(("dare",), (TOP_K, WIDTH), 0.5, 0.6, 0.7, 0.8))
    (one,) = call.args[0]
    assert (one.rows, one.columns) == (("5", "1"), ("16", "64"))
    values = [value for row in one.values for value in row]
    assert values == pytest.approx([0.51, 0.61, 0.71, 0.81])
    assert (call.kwargs["x_label"], call.kwargs["y_label"]) == ("width", "top_k")


def test_names_are_not_drawn():
    assert drawn(report_of(("dare",), (NAMES,), 0.5, 0.6)) is None
    assert drawn(report_of(("dare",), (TOP_K,), None, None)) is None


def test_pictures_are_pictures(tmp_path):
    line = Line(label="a", x=[16, 64], y=[0.1, 0.2], error=[0.01, 0.02])
    bound = Line(label="b", x=[16, 64], y=[0.3, 0.3], dashed=True)
    draw_lines([Panel(lines=[line, bound])], tmp_path / "a.png", x_label="x", y_label="y")
    panel = Panel(lines=[line], title="t")
    draw_lines([panel, panel], tmp_path / "b.png", x_label="x", y_label="y", scale="log")
    draw_lines([panel], tmp_path / "d.png", x_label="x", y_label="y", scale="log_x")
    one = HeatMap(title="t", rows=["1"], columns=["1", "2"], values=[[0.5, float("nan")]])
    draw_heat_maps([one], tmp_path / "c.png", x_label="x", y_label="y")
    for name in "abcd":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_options_are_told_as_a_shell_takes_them(tmp_path):
    report = report_of(("dare",), (), 0.5)
    report = dataclasses.replace(report, options=["--data.test", "", "--model.head.hidden=[8, 4]"])
    write_report(report, tmp_path)
    told = "Options: `--data.test '' '--model.head.hidden=[8, 4]'`\n"
    assert told in (tmp_path / "sweep.md").read_text()


def test_the_page_says_what_was_done_and_what_failed(tmp_path):
    write_report(report_of(("twin", "dare"), (), 0.5, 0.7), tmp_path)
    page = (tmp_path / "sweep.md").read_text()
    assert page.startswith("# Sweep of recipe.yaml\n\nOptions: `--loop.epochs=1`\n")
    assert "AUC of the test split" in page
    assert "over the seeds 1, 2;" in page
    assert "| TWIN | taobao | -0.20000 ± 0.00000 | 0 of 2 | " in page
    assert "* `r`: it broke (`log.txt`)" in page
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["failed"] == [{"run": "r", "error": "it broke", "log": "log.txt"}]
    assert content["cells"][1]["figures"]["auc"] == {
        "mean": pytest.approx(0.71),
        "std": pytest.approx(0.02 / 2**0.5),
        "count": 2,
    }
