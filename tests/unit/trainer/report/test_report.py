import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from trainer.report.data import AttentionSummary, ReportData
from trainer.report.headline import (
    finite,
    format_bytes,
    format_seconds,
    headline,
    number,
    oracle_share,
    split_name,
)
from trainer.report.report import write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
HISTORY = [
    {"step": 20, "time": 100.0, "train/loss": 0.69, "train/samples_per_s": 1000.0},
    {"step": 20, "time": 101.0, "val/auc": 0.6, "val/gauc": 0.59, "val/ne": 0.97},
    {"step": 40, "time": 130.0, "train/loss": None, "train/samples_per_s": 3000.0},
    {"step": 60, "time": 192.0, "train/loss": 0.61, "train/samples_per_s": 2000.0},
    {"step": 60, "time": 192.0, "val/auc": 0.7, "val/gauc": 0.66, "val/ne": 0.91},
]
ATTENTION = AttentionSummary(
    position_weight=[0.5, 0.3, 0.2],
    target_categories=[11, 12],
    history_categories=[11, 12],
    category_weight=[[0.9, 0.1], [0.2, float("nan")]],
    planted_position_weight=[0.6, 0.3, 0.1],
    planted_category_weight=[[1.0, 0.0], [0.0, 1.0]],
)


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def report(**changes) -> ReportData:
    fields = {
        "name": "synthetic_dare",
        "result": {
            "test": {"auc": 0.75, "gauc": 0.7, "ne": 0.8765, "calibration": 1.0123},
            "oracle_auc": 0.8,
            "seconds": 92.0,
            "ranks": 2,
            "device": "cpu",
            "best_step": 40,
        },
        "history": HISTORY,
        "calibration": {"predicted": [0.1, 0.4], "observed": [0.12, 0.39], "count": [5, 5]},
        "attention": ATTENTION,
        "plan": [
            {"table": "attention/item", "rows": 4_068_791, "bytes": 1 << 30},
            {"table": "attention/category", "rows": 9_408, "rank": "0"},
        ],
        "config_yaml": "model:\n  search:\n    top_k: 20\n",
    }
    return ReportData(**(fields | changes))


def written(data: ReportData, folder) -> str:
    path = folder / "made" / "report.html"
    write_report(data, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full_page(tmp_path_factory) -> str:
    return written(report(), tmp_path_factory.mktemp("report"))


def test_planted_attention_is_said_to_be_of_what_is_seen(full_page) -> None:
    by_position = full_page.partition("Attention by position")[2].partition("</svg>")[0]
    assert "planted (of what is seen)" in by_position
    assert "Attention by category, planted (of what is seen)" in full_page
    assert 'aria-label="Attention, planted (of what is seen).' in full_page


def test_the_page_is_well_nested_html_with_every_id_once(full_page) -> None:
    page = Page(full_page)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in re.findall(r'(?:url\(|href=")#([^)"]+)', full_page):
        assert name in ids
    for svg in re.findall(r"<svg.*?</svg>", full_page, re.DOTALL):
        ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_the_page_loads_nothing(full_page) -> None:
    page = Page(full_page)
    assert "http:" not in full_page
    assert "https:" not in full_page
    assert "@import" not in full_page
    assert page.count("script") == page.count("link") == 0
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", full_page))


def test_every_figure_has_a_text_for_those_who_do_not_see_it(full_page) -> None:
    figures = [attributes for tag, attributes in Page(full_page).tags if tag == "svg"]
    # Three of attention; loss, ranking, NE, calibration, throughput of training.
    assert len(figures) == 8
    assert all(one["role"] == "img" and len(one["aria-label"]) > 20 for one in figures)


def test_colours_follow_the_theme(full_page) -> None:
    assert "prefers-color-scheme: dark" in full_page
    figures = "".join(re.findall(r"<svg.*?</svg>", full_page, re.DOTALL))
    assert "var(--series-1)" in figures
    assert not re.findall(r"#[0-9a-f]{6}", figures)


def test_the_numbers_appear_where_a_reader_looks(full_page) -> None:
    text = " ".join(" ".join(Page(full_page).text).split())
    for shown in (
        "AUC on test 0.7500",
        "83.3% of the way",
        "best possible 0.8000",
        "Normalized entropy 0.8765",
        "Calibration 1.012",
        "Throughput 2,000 samples/s",
        "4,068,791",
        "1.0 GiB",
        "Time 1 min 32 s",
        "Ranks 2 on cpu",
        "Steps 60 best after 40",
        "top_k: 20",
    ):
        assert shown in text


@pytest.mark.parametrize("field", ["name", "config_yaml"])
def test_markup_in_what_a_user_wrote_is_escaped(field, tmp_path) -> None:
    changes = {field: "<script>alert(1)</script>", "attention": None, "history": []}
    page = written(report(**changes), tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_markup_in_names_of_scalars_and_tables_is_escaped(tmp_path) -> None:
    data = report(
        attention=None,
        history=[{"step": s, "time": 1.0, '<em>"$x$/auc': 0.5} for s in (1, 2)],
        plan=[{"<i>": "<script>"}],
    )
    page = written(data, tmp_path)
    assert "<em>" not in page
    assert "&lt;em&gt;" in page
    assert "<script" not in page
    assert "<i>" not in page
    Page(page)


def test_a_run_that_knows_almost_nothing_still_gets_a_page(tmp_path) -> None:
    data = report(result={}, history=[], calibration={}, attention=None, plan=[], config_yaml="")
    page = Page(written(data, tmp_path))
    assert page.count("svg") == page.count("table") == page.count("dl") == 0
    assert "synthetic_dare" in page.text


def test_a_wide_attention_map_has_no_numbers_in_its_cells(tmp_path) -> None:
    few, many = list(range(3)), list(range(30))
    narrow = AttentionSummary([0.5, 0.5], few, few, [[0.0123] * 3] * 3)
    wide = AttentionSummary([0.5, 0.5], many, many, [[0.0123] * 30] * 30)
    assert ">1.2<" in written(report(attention=narrow, history=[]), tmp_path)
    assert ">1.2<" not in written(report(attention=wide, history=[]), tmp_path)


def test_the_test_split_goes_before_the_others() -> None:
    result = {"val": {"auc": 0.6}, "test/auc": 0.7}
    assert number(result, [], "auc") == 0.7
    assert split_name(result) == "test"
    assert number({"auc": 0.8, **result}, [], "auc") == 0.8
    assert split_name({"auc": 0.8, **result}) == ""
    assert split_name({"auc": 0.8, "split": "val"}) == "val"
    assert number({"test": {"auc": float("nan")}, "val": {"auc": 0.6}}, [], "auc") == 0.6


def test_what_the_result_lacks_is_taken_from_the_history() -> None:
    assert number({}, HISTORY, "samples_per_s") == 2000
    assert number({}, HISTORY, "steps") == 60
    assert number({}, HISTORY, "peak_memory_bytes") is None
    assert number({}, [{"step": 1, "train/memory_bytes": 5.0}], "peak_memory_bytes") == 5
    assert number({"steps": 5}, HISTORY, "steps") == 5


def test_undefined_numbers_are_left_out_of_the_headline() -> None:
    facts = headline({"auc": float("nan"), "ne": None, "logloss": 0.5}, [])
    assert [(fact.label, fact.value) for fact in facts] == [("Log loss", "0.5000")]
    assert finite([1, None, True, float("inf"), "2", 3.5]) == [1, 3.5]


def test_the_share_of_the_oracle_is_counted_from_chance() -> None:
    assert oracle_share({"auc": 0.65, "oracle_auc": 0.8}, []) == pytest.approx(0.5)
    assert oracle_share({"auc": 0.65}, []) is None
    assert oracle_share({"auc": 0.65, "oracle_auc": 0.5}, []) is None


def test_bytes_and_seconds_read_well() -> None:
    sizes = (512, 2048, 3 << 20, 5 << 30, 2 << 40)
    assert [format_bytes(s) for s in sizes] == [
        "512 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "2.0 TiB",
    ]
    times = (42, 192, 7500)
    assert [format_seconds(t) for t in times] == ["42.0 s", "3 min 12 s", "2 h 05 min"]
