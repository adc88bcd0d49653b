"""Tables of a sweep, against what one would write by hand."""

import csv
import io
import math

import pytest
from scipy import stats

from trainer.sweep.cells import Cell, choose_reference, differences, paired_p
from trainer.sweep.grid import Axis, Dataset, Grid, Setting
from trainer.sweep.tables import (
    csv_table,
    differences_table,
    figures_table,
    grid_tables,
    latex_table,
    markdown_table,
)

WIDTH = Axis("width", ("width",), ("16", "64"))
TWO_SETS = (Dataset("taobao", "data/taobao"), Dataset("tmall_2", "data/tmall_2"))


def cells_of(grid, *rows):
    """Cells from AUCs by seed, a row a preset, a list a column."""
    values = [aucs for row in rows for aucs in row]
    return [
        Cell(setting, {s: {"auc": a} for s, a in zip(grid.seeds, aucs, strict=False) if a})
        for setting, aucs in zip(grid.settings(), values, strict=True)
    ]


@pytest.fixture
def table_1():
    """Two models, three seeds, two widths, two datasets; one run missing, one cell empty."""
    grid = Grid(("twin_proj", "dare"), (1, 2, 3), (WIDTH,), TWO_SETS)
    cells = cells_of(
        grid,
        [[0.90, 0.91, 0.92], [0.95, 0.95, 0.95], [0.80, None, 0.82], []],
        [[0.92, 0.93, 0.94], [0.93, 0.94, 0.95], [0.90, 0.90, 0.90], [0.97, 0.98, 0.99]],
    )
    return grid, cells


def test_latex_is_that_of_table_1(table_1):
    twin = r".91000 (.01000) & \textbf{.95000 (.00000)} & .81000 (.01414) (2 of 3) & --"
    dare = r"\textbf{.93000 (.01000)} & .94000 (.01000) & \textbf{.90000 (.00000)}"
    assert latex_table(*table_1).splitlines() == [
        r"\begin{tabular}{lcccc}",
        r"\toprule",
        r"width & \multicolumn{2}{c}{16} & \multicolumn{2}{c}{64} \\",
        r"model & taobao & tmall\_2 & taobao & tmall\_2 \\",
        r"\midrule",
        rf"TWIN (w/ proj.) & {twin} \\",
        rf"DARE & {dare} & \textbf{{.98000 (.01000)}} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_shows_every_letter_of_a_name():
    names = (Dataset(r"a_b%c&d#e$f{g}h~i^j\k", ""), Dataset("l", ""))
    grid = Grid(("dare",), (1,), (), names)
    heads = latex_table(grid, cells_of(grid, [[0.5], [0.6]])).splitlines()[2]
    told = r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    assert heads == rf"model & {told} & l \\"


def test_markdown_is_the_same(table_1):
    assert markdown_table(*table_1).splitlines() == [
        "| model | taobao, width 16 | tmall_2, width 16 | taobao, width 64 | tmall_2, width 64 |",
        "| --- | --- | --- | --- | --- |",
        "| TWIN (w/ proj.) | 0.91000 ± 0.01000 | **0.95000 ± 0.00000** | "
        "0.81000 ± 0.01414 (2 of 3) | - |",
        "| DARE | **0.93000 ± 0.01000** | 0.94000 ± 0.01000 | **0.90000 ± 0.00000** | "
        "**0.98000 ± 0.01000** |",
    ]


def test_two_varied_fields_are_a_grid_a_model_and_dataset():
    """The first down, the second across; a field of one value is no part of it."""
    attention = Axis("K_A", ("attention_width",), ("8", "32"))
    fixed = Axis("top_k", ("model.search.top_k",), ("20",))
    other = Axis("K_R", ("representation_width",), ("16", "64"))
    grid = Grid(("dare", "twin"), (1, 2), (attention, fixed, other), (Dataset("log", ""),))
    dare = [[0.5, 0.6], [0.7, 0.7], [0.75, None], []]
    cells = cells_of(grid, dare, [[0.5, 0.5]] * 4)
    expected = [
        ["", "DARE, log:", "", r"| K_A \ K_R | 16 | 64 |", "| --- | --- | --- |"],
        ["| 8 | 0.55000 ± 0.07071 | 0.70000 ± 0.00000 |", "| 32 | 0.75000 (1 of 2) | - |"],
    ]
    lines = grid_tables(grid, cells).splitlines()
    assert lines[: len(lines) // 2] == [line for part in expected for line in part]
    assert lines[len(lines) // 2 + 1] == "TWIN, log:"


def test_one_varied_field_is_no_grid(table_1):
    assert grid_tables(*table_1) == ""


@pytest.fixture
def one_column():
    """Two models, two seeds, all figures."""
    grid = Grid(("twin", "dare"), (1, 2), (), (Dataset("log", ""),))

    def result(auc, loss, seconds):
        return {
            **{"auc": auc, "gauc": auc - 0.1, "logloss": loss, "ne": 2 * loss, "oracle_auc": 0.9},
            **{"seconds": seconds, "peak_memory_bytes": seconds * 2**20, "name": "r"},
        }

    twin, dare = grid.settings()
    return grid, [
        Cell(twin, {1: result(0.6, 0.5, 30.0), 2: result(0.8, 0.7, 50.0)}),
        Cell(dare, {1: result(0.7, 0.3, 100.0), 2: result(0.7, 0.3, 140.0)}),
    ]


def test_equals_are_both_best_and_the_best_possible_is_told_where_it_is_known(one_column):
    assert markdown_table(*one_column).splitlines() == [
        "| model | log |",
        "| --- | --- |",
        "| TWIN | **0.70000 ± 0.14142** |",
        "| DARE | **0.70000 ± 0.00000** |",
        "| best possible | 0.90000 |",
    ]


def test_the_least_loss_is_the_best(one_column):
    assert markdown_table(*one_column, metric="logloss").splitlines()[2:] == [
        "| TWIN | 0.60000 ± 0.14142 |",
        "| DARE | **0.30000 ± 0.00000** |",
    ]


def test_all_figures_are_told_a_row_a_cell(one_column):
    heads, _, twin, dare = figures_table(*one_column).splitlines()
    assert [part.strip() for part in heads.split("|")[1:-1]] == [
        *("model", "of", "runs", "AUC", "GAUC", "log loss", "NE"),
        *("of possible", "training", "memory"),
    ]
    # Half of the way from 0.5 to 0.9 on average: a quarter, and three quarters.
    assert twin.endswith("| 1.20000 ± 0.28284 | 50.0% | 40.0 s | 40.0 MiB |")
    assert dare.endswith("| 0.60000 ± 0.00000 | 50.0% | 2 min 00 s | 120.0 MiB |")
    assert twin.startswith("| TWIN | log | 2 of 2 | 0.70000 ± 0.14142 | 0.60000 ± 0.14142 |")


def test_the_csv_holds_each_mean_and_deviation(table_1, one_column):
    first, second = csv.DictReader(io.StringIO(csv_table(*one_column)))
    assert (first["model"], first["dataset"], first["runs"]) == ("twin", "log", "2")
    assert float(first["auc_mean"]) == pytest.approx(0.7)
    assert float(first["auc_std"]) == pytest.approx(math.sqrt(0.02))
    assert float(second["seconds_mean"]) == 120
    assert float(second["of_possible_mean"]) == pytest.approx(0.5)
    rows = list(csv.DictReader(io.StringIO(csv_table(*table_1))))
    assert [row["width"] for row in rows] == ["16", "16", "64", "64"] * 2
    assert (rows[2]["runs"], rows[2]["runs_missing"]) == ("2", "1")
    assert (rows[3]["runs_missing"], rows[3]["auc_mean"]) == ("3", "")


def test_one_seed_has_no_deviation():
    grid = Grid(("dare",), (4,), (), (Dataset("log", ""),))
    cells = cells_of(grid, [[0.75]])
    assert markdown_table(grid, cells).splitlines()[2] == "| DARE | 0.75000 |"
    assert r"DARE & .75000 \\" in latex_table(grid, cells)


def test_differences_are_taken_seed_by_seed():
    grid = Grid(("twin", "dare", "din"), (1, 2, 3, 4), (), (Dataset("log", ""),))
    cells = cells_of(
        grid,
        [[0.80, 0.80, 0.80, 0.90]],
        [[0.70, 0.60, 0.50, None]],
        [[None, 0.50, 0.60, 0.70]],
    )
    twin, din = (d for d in differences(cells, "dare") if d.metric == "auc")
    # 0.1, 0.2, 0.3; the fourth seed has no partner. t = 2 sqrt 3, two degrees of freedom.
    assert (twin.setting.preset, twin.reference) == ("twin", "dare")
    assert (twin.mean, twin.std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (twin.seeds, twin.won) == (3, 3)
    assert twin.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))
    # -0.1 and 0.1: one degree of freedom, t = 0.
    assert (din.mean, din.std) == (pytest.approx(0), pytest.approx(math.sqrt(0.02)))
    assert (din.seeds, din.won, din.p) == (2, 1, pytest.approx(1))
    assert differences_table(grid, [twin, din]).splitlines() == [
        "| model | of | difference | seeds won | p |",
        "| --- | --- | --- | --- | --- |",
        "| TWIN | log | +0.20000 ± 0.10000 | 3 of 3 | 0.074 |",
        "| DIN | log | +0.00000 ± 0.14142 | 1 of 2 | 1 |",
    ]


def test_of_losses_the_smaller_wins():
    grid = Grid(("dare", "twin"), (1, 2), (), (Dataset("log", ""),))
    dare, twin = (
        Cell(setting, {s: {"logloss": loss} for s, loss in zip((1, 2), losses, strict=True)})
        for setting, losses in zip(grid.settings(), ([0.5, 0.5], [0.4, 0.45]), strict=True)
    )
    (found,) = differences([dare, twin], "dare")
    assert (found.metric, found.won, found.mean) == ("logloss", 2, pytest.approx(-0.075))


def test_models_are_compared_with_dare_or_the_first():
    assert choose_reference(["twin", "dare"]) == "dare"
    assert choose_reference(["twin", "din"]) == "twin"


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("t", [0.0, 0.3, 2.5, 40.0])
def test_the_probability_is_scipys(count, t):
    expected = 2 * stats.t.sf(t, count - 1)
    assert paired_p(-t / math.sqrt(count), 1.0, count) == pytest.approx(expected, abs=1e-14)


def test_without_spread_there_is_no_probability():
    assert paired_p(0.1, 0.0, 3) is None
    assert paired_p(0.1, 0.0, 1) is None


def test_a_setting_is_a_cell_of_the_table():
    grid = Grid(("dare",), (1,), (WIDTH,), TWO_SETS)
    assert grid.settings()[1] == Setting("dare", ("16",), "tmall_2")
