"""What the page of a comparison holds: differences, distances, curves on common axes."""

import re

import pytest

from tests.unit.trainer.runs.folders import CONFIG, RESULT, make_run
from trainer.runs.compare import write_comparison
from trainer.runs.curves import draw_figures
from trainer.runs.differences import config_rows, result_rows


def _rows(rows):
    return {row.name: [(cell.text, cell.note, cell.strong) for cell in row.cells] for row in rows}


def test_fields_that_differ_are_told_by_dotted_name_and_no_others():
    one = {"name": "a", "out_dir": "x", "seed": 1, "model": {"preset": "dare", "hidden": [200, 80]}}
    other = {
        "name": "b",
        "seed": 1,
        "model": {"preset": "twin", "hidden": [200]},
        "loop": {"l2": 0.5},
    }
    assert _rows(config_rows([one, other, one])) == {
        "model.preset": [("dare", "", False), ("twin", "", True), ("dare", "", False)],
        "model.hidden": [("[200, 80]", "", False), ("[200]", "", True), ("[200, 80]", "", False)],
        "loop.l2": [("-", "", False), ("0.5", "", True), ("-", "", False)],
    }
    assert config_rows([one, {**one, "name": "c", "out_dir": "y"}]) == []


def test_the_best_is_set_off_and_others_are_measured_from_the_first():
    first = {"auc": 0.7, "ne": 0.9, "samples_per_s": 1000.0, "ranks": 1}
    second = {"auc": 0.71, "ne": 0.95, "samples_per_s": 2500.0, "ranks": 1}
    found = _rows(result_rows([first, second, {"auc": None}]))
    nothing = ("-", "", False)
    assert found == {
        "AUC": [("0.70000", "", False), ("0.71000", "+0.01000", True), nothing],
        "Normalized entropy": [("0.90000", "", True), ("0.95000", "+0.05000", False), nothing],
        "Throughput, samples/s": [("1,000", "", False), ("2,500", "2.50 x A", True), nothing],
        "Ranks": [("1", "", False), ("1", "", False), nothing],
    }


def test_what_looks_alike_has_no_winner():
    (row,) = result_rows([{"auc": 0.700001}, {"auc": 0.700002}])
    assert [cell.strong for cell in row.cells] == [False, False]


def test_curves_are_drawn_over_steps_seconds_and_targets(monkeypatch):
    drawn = {}

    def keep(name, series, **_):
        drawn[name] = [(one.label, list(one.x), list(one.y)) for one in series]
        return "<svg></svg>"

    monkeypatch.setattr("trainer.runs.curves.line_figure", keep)
    history = [
        {"step": 10, "train/loss": 0.6, "train/step_s": 0.5, "train/samples_per_s": 100.0},
        {"step": 15, "eval/auc": 0.7},
        {"step": 20, "train/loss": 0.5, "train/step_s": 1.0, "train/samples_per_s": 50.0},
        {"step": 20, "eval/auc": 0.8, "train/loss": None, "train/other": 3.0},
        {"step": 30, "train/other": 3.0},
    ]
    figures = draw_figures(["A", "B"], [history, [{"step": 5, "train/loss": 0.9}]])
    assert drawn["step-train-loss"] == [("A", [10, 20], [0.6, 0.5]), ("B", [5], [0.9])]
    # 10 steps of 0.5 s, then 10 of 1 s; 50 targets a step all the time.
    assert drawn["seconds-train-loss"] == [("A", [5.0, 15.0], [0.6, 0.5])]
    assert drawn["seconds-eval-auc"] == [("A", [10.0, 15.0], [0.7, 0.8])]
    assert drawn["samples-eval-auc"] == [("A", [750.0, 1000.0], [0.7, 0.8])]
    assert figures.constant == ["train/other 3"]
    assert [plot.title for plot in figures.others] == ["train/step_s"]


ROWS = [{"step": step, "train/loss": 1 / step, "eval/auc": step / 50} for step in (10, 20, 40)]


def test_the_page_is_one_file_with_links_to_the_runs(tmp_path):
    one = make_run(tmp_path / "runs" / "a <b>", rows=ROWS, result=RESULT)
    other = make_run(tmp_path / "runs" / "b", config={**CONFIG, "seed": 7}, rows=ROWS[:2])
    out = tmp_path / "pages" / "page.html"
    write_comparison([one, other], out)
    page = out.read_text()
    assert page.count("<svg") >= 2
    assert "<td>0.73000</td>" not in page  # Only one run finished: no distance, but set off.
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert '<a href="../runs/b/config.yaml">' in page
    assert '<a href="../runs/a%20%3Cb%3E/result.json">' in page
    assert "../runs/b/result.json" not in page
    loaded = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert all(place.startswith("../runs/") for place in loaded)
    assert "B has not finished." in page


def test_runs_that_cannot_be_compared_are_told(tmp_path):
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    out = tmp_path / "page.html"
    with pytest.raises(ValueError, match="runs given: 1; a page compares 2 to 12"):
        write_comparison([one], out)
    with pytest.raises(ValueError, match="given twice"):
        write_comparison([one, tmp_path / "b" / ".." / "a"], out)
    (other / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"b cannot be compared: config.yaml is damaged"):
        write_comparison([one, other], out)
    (other / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"it has no config.yaml"):
        write_comparison([one, other], out)
    assert not out.exists()
