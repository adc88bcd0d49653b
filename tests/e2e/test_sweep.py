"""`dare sweep` over models and seeds, on sizes for seconds."""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import dare, dare_without_report, prepare_small
from trainer.reliability.lock import locked

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "launch" / "recipes" / "synthetic_dare.yaml"


@pytest.fixture(scope="module")
def small(dataset):
    """Options of a sweep whose runs have four steps."""
    return [
        *("sweep", f"--config={RECIPE}", f"--data={dataset}", "--data.history_length", "20"),
        *("--data.batch_size=512", "--loop.steps=4", "--loop.epochs=1", "--loop.evaluate_every=2"),
        *("--model.search.top_k=5", "--telemetry.tensorboard=false"),
    ]


@pytest.fixture(scope="module")
def swept(small, tmp_path_factory):
    """Two models and two seeds: the folder, the options, what the command left."""
    out = tmp_path_factory.mktemp("sweep")
    options = [*small, "--presets=twin,dare", "--seeds=2", "--launcher=here", f"--out={out}"]
    return out, options, dare_without_report(*options)


def results_of(out):
    """`result.json` of every run, by model and seed."""
    found = {}
    for path in sorted((out / "runs").glob("*/result.json")):
        preset, _, seed = path.parent.name.split("-")
        found[preset, int(seed.removeprefix("seed_"))] = json.loads(path.read_text())
    return found


def test_a_sweep_leaves_its_tables_and_tells_where(swept):
    out, _, outcome = swept
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{out / 'sweep.md'}\n"
    assert {path.name for path in out.iterdir()} == {
        *("runs", "sweep.md", "sweep.csv", "sweep.tex", "sweep.json", ".lock"),
    }
    results = results_of(out)
    assert set(results) == {("twin", 1), ("twin", 2), ("dare", 1), ("dare", 2)}
    for preset, seed in results:
        assert results[preset, seed]["preset"] == preset
    aucs = {p: [results[p, s]["auc"] for s in (1, 2)] for p in ("twin", "dare")}
    assert len({auc for both in aucs.values() for auc in both}) == 4
    table = (out / "sweep.md").read_text()
    for preset, name in (("twin", "TWIN"), ("dare", "DARE")):
        told = f"{statistics.fmean(aucs[preset]):.5f} ± {statistics.stdev(aucs[preset]):.5f}"
        assert told in next(line for line in table.splitlines() if line.startswith(f"| {name} "))
        assert told in outcome.err
    best = results["dare", 1]["oracle_auc"]
    assert f"| best possible | {best:.5f} |" in table
    gains = [a - b for a, b in zip(aucs["twin"], aucs["dare"], strict=True)]
    told = f"{statistics.fmean(gains):+.5f} ± {statistics.stdev(gains):.5f}"
    assert told in table


def test_csv_and_json_hold_every_figure_of_every_run(swept):
    out, _, _ = swept
    results = results_of(out)
    content = json.loads((out / "sweep.json").read_text())
    assert content["grid"]["seeds"] == [1, 2]
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [cell["preset"] for cell in content["cells"]] == ["twin", "dare"]
    for cell, row in zip(content["cells"], rows, strict=True):
        both = [results[cell["preset"], seed] for seed in (1, 2)]
        assert [cell["results"][seed] for seed in ("1", "2")] == both
        for name in ("gauc", "logloss", "ne", "oracle_auc", "seconds", "peak_memory_bytes"):
            mean = pytest.approx(statistics.fmean(result[name] for result in both))
            assert cell["figures"][name]["mean"] == mean
            assert float(row[f"{name}_mean"]) == mean
    compared = {(one["preset"], one["reference"], one["metric"]) for one in content["differences"]}
    assert ("twin", "dare", "auc") in compared
    assert content["failed"] == []


def test_a_run_keeps_its_log_and_its_best_checkpoint(swept):
    out, _, _ = swept
    run = out / "runs" / "twin-data-seed_1"
    assert "targets in" in (run / "log.txt").read_text()
    result = json.loads((run / "result.json").read_text())
    (checkpoint,) = (run / "checkpoints").glob("*step-*")
    assert checkpoint.name == f"step-{result['best_step']:08d}"
    at_best = dare("evaluate", f"--config={run / 'config.yaml'}").result
    assert at_best["auc"] == pytest.approx(result["auc"])


def test_over_history_lengths_the_best_possible_is_that_of_the_behaviours_seen(tmp_path):
    log, out = prepare_small(tmp_path / "log", "--newest=5"), tmp_path / "swept"
    done = dare_without_report(
        *("sweep", f"--config={RECIPE}", f"--data={log}", f"--out={out}", "--seeds=1"),
        *("--vary", "data.history_length=5,20", "--launcher=here", "--keep=best"),
        *("--loop.steps=2", "--model.search.top_k=5", "--telemetry.tensorboard=false"),
    )
    assert done.code == 0, done.err
    oracle = json.loads((log / "schema.json").read_text())["oracle"]
    assert oracle["test_newest_5"] < oracle["test"]
    cells = json.loads((out / "sweep.json").read_text())["cells"]
    known = {cell["varied"]["history_length"]: cell["figures"]["oracle_auc"] for cell in cells}
    assert {length: figure["mean"] for length, figure in known.items()} == {
        "5": oracle["test_newest_5"],
        "20": oracle["test"],
    }
    (run,) = (out / "runs").glob("*history_length_5-*")
    scored = dare("evaluate", f"--config={run / 'config.yaml'}").result
    assert scored["oracle_auc"] == oracle["test_newest_5"]


def test_called_again_it_makes_only_what_is_not_there_as_asked(swept):
    out, options, _ = swept
    kept = out / "runs" / "twin-data-seed_1" / "result.json"
    before, table = kept.stat().st_mtime_ns, (out / "sweep.md").read_text()
    (out / "runs" / "dare-data-seed_1" / "result.json").unlink()
    again = dare_without_report(*options)
    assert again.code == 0, again.err
    assert "4 runs, 3 of them finished before" in again.err
    assert kept.stat().st_mtime_ns == before
    # The run went on from its last step, so what is unlike is its speed alone.
    assert (out / "sweep.md").read_text().split("## All")[0] == table.split("## All")[0]

    fewer = [o for o in options if not o.startswith("--presets")]
    changed = dare_without_report(*fewer, "--presets=twin", "--seeds=1,", "--model.search.top_k=4")
    assert changed.code == 0, changed.err
    assert f"{kept.parent} was run with another model.search.top_k; run anew" in changed.err
    assert kept.stat().st_mtime_ns != before


def test_a_run_that_was_scored_on_another_split_is_made_anew(small, dataset, tmp_path):
    own = [f"--data.{split}={dataset / split}" for split in ("train", "val", "test")]
    options = [
        *(option for option in small if not option.startswith("--data=")),
        *(*own, f"--data.schema={dataset / 'schema.json'}", "--seeds=1,", "--loop.steps=1"),
        *("--launcher=here", f"--out={tmp_path}"),
    ]
    assert dare_without_report(*options).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "result.json").read_text())["split"] == "test"
    again = dare_without_report(*options, "--data.test=")
    assert again.code == 0, again.err
    assert f"{run} was run with another data.test; run anew" in again.err
    assert json.loads((run / "result.json").read_text())["split"] == "val"
    assert "AUC of the val split" in (tmp_path / "sweep.md").read_text()


def test_a_second_sweep_on_a_folder_is_refused_while_the_first_goes_on(small, tmp_path):
    with locked(tmp_path, "give another --out"):
        outcome = dare(*small, f"--out={tmp_path}", "--seeds=1")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{tmp_path} is held by process {os.getpid()} on" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_run_that_fails_is_told_and_does_not_end_the_sweep(small, tmp_path):
    outcome = dare_without_report(
        *small,
        *(f"--out={tmp_path}", "--seeds=1", "--launcher=here"),
        *("--vary", "optim.sparse.learning_rate=1e30,0.01", "--loop.check_loss_every=1"),
    )
    assert outcome.code == 1
    failed, fine = (
        tmp_path / "runs" / f"dare-learning_rate_{rate}-data-seed_1" for rate in ("1e30", "0.01")
    )
    assert not (failed / "result.json").exists()
    auc = json.loads((fine / "result.json").read_text())["auc"]
    table = (tmp_path / "sweep.md").read_text()
    assert f"| DARE | - | {auc:.5f} |" in table
    (told,) = json.loads((tmp_path / "sweep.json").read_text())["failed"]
    assert told["run"] == failed.name
    assert told["error"].startswith("the loss of rank 0 is nan")
    assert "the loss of rank 0 is nan" in Path(told["log"]).read_text()
    assert f"* `{failed.name}`: the loss of rank 0 is nan" in table
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_killed_does_not_end_the_sweep(small, tmp_path):
    outcome = dare(*small, f"--out={tmp_path}", "--seeds=2", "--launcher=sh -c 'kill -9 $$'")
    assert outcome.code == 1
    failed = json.loads((tmp_path / "sweep.json").read_text())["failed"]
    assert [one["error"] for one in failed] == ["ended by SIGKILL"] * 2
    assert "| DARE | - |" in (tmp_path / "sweep.md").read_text()


def test_a_run_is_a_process_of_its_own(small, swept, tmp_path):
    outcome = dare(*small, f"--out={tmp_path}", "--seeds=1", "--loop.steps=1")
    assert outcome.code == 0, outcome.err
    (result,) = results_of(tmp_path).values()
    assert (result["preset"], result["steps"]) == ("dare", 1)
    # Its memory is about that of a run in this process, not that of all this process has held.
    (here, *_) = results_of(swept[0]).values()
    assert result["peak_memory_bytes"] == pytest.approx(here["peak_memory_bytes"], rel=0.5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--presets=tvin"], "'tvin' is no preset"),
        (["--vary", "model.search.top_k=5,50"], "top_k is 50 but data.history_length is 20"),
        (["--vary=model.search.topk=1,2"], "topk"),
        (["--loop.epoch=2"], "epoch"),
        (["--loop.epochs=many"], "loop.epochs is many; it must be int"),
        (["--data=nowhere"], "data.schema is nowhere/schema.json"),
        (["--launcher=nowhere -m trainer"], "--launcher begins with nowhere"),
        (["--checkpoint.folder=all"], "checkpoint.folder is all"),
        (["--model.preset=twin"], "give --presets"),
        (["--vary=model.preset=dare,eta"], "model.preset is varied by --presets"),
        (["--data.test", ""], "--data.test and --data are given"),
        (["--frob=1"], "--frob"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(small, tmp_path, options, told):
    outcome = dare(*small, f"--out={tmp_path / 'out'}", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_make_table1_asks_for_the_papers_models():
    def asked(*variables):
        # As from a shell: the Make that runs the tests would have this one tell its folder.
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        make = ["make", "--dry-run", f"PYTHON={sys.executable}", "table1", *variables]
        done = subprocess.run(
            make, cwd=ROOT, env=outside, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, told = asked("DATA=data/taobao data/tmall", "WIDTHS=16 64", "SEEDS=2")
    assert code == 0
    command = told.splitlines()[-1].split()
    assert command[1:] == [
        *("sweep", "--config", "launch/recipes/taobao_dare.yaml", "--presets", "table1"),
        *("--data", "data/taobao,data/tmall", "--seeds", "2", "--vary", "width=16,64"),
        *("--out", "runs/table1"),
    ]
    assert asked()[0] != 0
