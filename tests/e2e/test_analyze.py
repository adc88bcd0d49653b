"""`dare analyze` on a small run of each kind: files, figures, and what it refuses."""

import hashlib
import json

import pytest

from tests.commands import dare, dare_without_report, rows_of

CHECKED = {
    "attention": ["--min_cell=1", "--categories=4", "--positions=5", "--pictured=2"],
    "retrieval": ["--min_samples=50", "--rare_below=2", "--max_rare=9", "--depth=5"],
    "discriminability": ["--clusters=[2, 4]", "--cluster_seeds=[1, 2]"],
    "gradients": ["--steps=4"],
    "convergence": ["--reach_auc=[0.55]"],
}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A run of twin and one of dare, of two epochs each, by preset."""
    out = tmp_path_factory.mktemp("analyzed")
    for preset in ("twin", "dare"):
        trained = dare_without_report(
            *("train", *data, f"--out_dir={out}", f"--name={preset}", f"--model.preset={preset}"),
            *("--loop.epochs=2", "--loop.evaluate_every=5", "--telemetry.log_every=1"),
        )
        assert trained.code == 0, trained.err
    return {preset: out / preset for preset in ("twin", "dare")}


def analyze(what, run, *options):
    return dare("analyze", what, f"--config={run / 'config.yaml'}", *options)


def found(what, run, *options):
    outcome = analyze(what, run, *options)
    assert outcome.code == 0, outcome.err
    path = run / "analysis" / f"{what}.json"
    assert outcome.out == f"{path}\n"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(path.read_text())


def digests(run):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.parent.name != "analysis"
    }


@pytest.mark.parametrize("what", CHECKED)
def test_an_analysis_leaves_its_files_and_the_run_as_it_was(what, runs):
    before = digests(runs["twin"])
    content = found(what, runs["twin"], *CHECKED[what])
    assert (content["analysis"], content["run"], content["preset"]) == (what, "twin", "twin")
    assert digests(runs["twin"]) == before


def test_attention_is_compared_with_information_and_with_what_was_planted(runs):
    content = found("attention", runs["dare"], *CHECKED["attention"])
    assert set(content["maps"]) == {
        *("mutual information", "planted attention"),
        *("search score", "attention", "tables only"),
    }
    assert len(content["categories"]) == 4
    assert [len(content["maps"]["attention"][0]), len(content["maps"]["attention"][0][0])] == [4, 5]
    for truth in ("mutual information", "planted attention"):
        for learned in ("search score", "attention", "tables only"):
            assert -1 <= content["correlations"][truth][learned]["pearson"] <= 1
    assert content["checkpoint"].startswith("step-")


def test_a_trained_search_finds_more_than_chance_and_every_curve_is_a_share(runs):
    content = found("retrieval", runs["dare"], *CHECKED["retrieval"])
    assert set(content["curves"]) == {"mutual information", "planted attention"}
    for curves in content["curves"].values():
        assert set(curves) == {"search", "tables only", "newest first", "any order"}
        for curve in curves.values():
            assert len(curve["ndcg"]) == 5
            assert all(0 < value <= 1 for value in curve["ndcg"])
            assert all(
                p <= n + 1e-12 for p, n in zip(curve["published"], curve["ndcg"], strict=True)
            )
            assert curve["published"][-1] == pytest.approx(curve["ndcg"][-1])
    planted = content["curves"]["planted attention"]
    assert planted["search"]["ndcg"][-1] > planted["any order"]["ndcg"][-1] + 0.1
    assert sum(content["targets"].values()) == 1200
    assert len(content["cases"]) == 4


def test_two_steps_of_a_watched_copy_have_the_losses_of_the_run(runs):
    content = found("gradients", runs["twin"], "--steps=3")
    assert content["loss"] == pytest.approx(
        [rows_of(runs["twin"], "train/loss")[n] for n in (1, 2, 3)]
    )
    assert set(content["tables"]) == {"shared_category", "shared_position"}
    for table in content["tables"].values():
        assert table["corrected"]["attention"] > 0
        assert len(table["by_step"]["cosine"]) == 3
        assert 0 <= table["corrected"]["conflict"] <= 1


def test_gradients_can_start_from_a_checkpoint(runs):
    start = found("gradients", runs["twin"], "--steps=1")
    last = found("gradients", runs["twin"], "--steps=1", "--at=last")
    assert (start["first_step"], last["first_step"]) == (1, 21)
    assert last["loss"][0] < start["loss"][0]


def test_runs_are_drawn_side_by_side(runs):
    for what in ("retrieval", "discriminability"):
        found(what, runs["dare"], *CHECKED[what])
        found(what, runs["twin"], *CHECKED[what], f"--beside=[{runs['dare']}]")
    content = found("convergence", runs["twin"], f"--beside=[{runs['dare']}]")
    assert set(content["curves"]["accuracy"]) == {"twin", "dare"}
    steps = content["steps_to_reach"]["auc"][0]["steps"]
    assert set(steps.values()) <= {5, 10, 15, 20}


def test_files_go_where_they_are_asked_to(runs, tmp_path):
    outcome = analyze("convergence", runs["twin"], f"--out={tmp_path / 'here'}")
    assert outcome.out == f"{tmp_path / 'here' / 'convergence.json'}\n"
    assert (tmp_path / "here" / "convergence.png").exists()


def test_what_cannot_be_analysed_is_refused_in_one_line(runs, tmp_path):
    for what, run, options, problem in (
        ("gradients", "dare", [], "attention and the representation share no table"),
        ("retrieval", "twin", ["--min_samples=5000"], "no target of test is left to judge: 1,200"),
        ("retrieval", "twin", ["--at=step-7"], "--at is step-7"),
        ("retrieval", "twin", ["--model.preset=sdim"], "there is no search to judge"),
        ("retrieval", "twin", ["--beside=[nowhere]"], "nowhere/analysis/retrieval.json is not"),
        ("discriminability", "twin", ["--clusters=[2000]"], "--clusters has 2000"),
        ("attention", "twin", ["--positions=0"], "--positions is 0; at least 1"),
        ("attention", "twin", ["--split=none"], "split"),
    ):
        outcome = analyze(what, runs[run], f"--out={tmp_path}", *options)
        assert (outcome.code, outcome.out) == (2, ""), what
        line = outcome.err.splitlines()[-1]
        assert line.startswith("dare analyze: error: ")
        assert problem in line
    assert not list(tmp_path.iterdir())


def test_an_unknown_analysis_is_refused():
    outcome = dare("analyze", "everything")
    assert outcome.code == 2
    assert "analyses are attention, retrieval, discriminability" in outcome.err


@pytest.mark.parametrize("what", CHECKED)
def test_help_explains_every_option(what):
    outcome = dare("analyze", what, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    usage, _, fields = outcome.out.partition("\n\n")
    assert usage.startswith(f"usage: dare analyze {what} [--config FILE]")
    for block in fields.split("\n  --")[1:]:
        _option, _value, *explained = block.partition("(type:")[0].split()
        assert len(explained) >= 2, f"--{block} is not explained"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_analysis(arguments):
    outcome = dare("analyze", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    for what in CHECKED:
        assert f"\n  {what} " in outcome.out
