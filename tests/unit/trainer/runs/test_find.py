"""Which folders are runs, and which run a name means."""

import pytest

from tests.unit.trainer.runs.folders import make_run
from trainer.reliability.lock import locked
from trainer.runs.find import find_run, find_runs


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, and a sweep of two with a dataset, reports and an MLflow store beside."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "sweep/runs/a", "sweep/runs/c"):
        make_run(tmp_path / "runs" / name)
    store = tmp_path / "runs" / "mlruns" / "0" / "1"
    make_run(store / "artifacts")
    (store / "meta.yaml").write_text("")
    (tmp_path / "runs" / "sweep" / "data").mkdir()
    with locked(tmp_path / "runs" / "sweep", "go"):
        pass
    return tmp_path / "runs"


def _found(*folders):
    return [str(path) for path in find_runs(folders)]


@pytest.mark.usefixtures("runs")
def test_runs_of_sweeps_are_found_and_nothing_else():
    assert _found("runs") == ["runs/a", "runs/b", "runs/sweep/runs/a", "runs/sweep/runs/c"]
    assert _found("runs/sweep", "runs/b") == ["runs/sweep/runs/a", "runs/sweep/runs/c", "runs/b"]


def test_a_run_is_listed_once_through_links_and_folders_within_folders(runs):
    (runs / "sweep" / "back").symlink_to(runs)
    assert len(_found("runs", "runs/sweep", "runs/a")) == 4


def test_a_run_that_has_only_taken_its_folder_is_one(runs):
    with locked(runs / "new", "go"):
        assert "runs/new" in _found("runs")


def test_a_run_is_meant_by_its_path_its_place_or_a_name_that_no_other_has(runs):
    assert str(find_run("runs/sweep/runs/a")) == "runs/sweep/runs/a"
    assert str(find_run("sweep/runs/a")) == "runs/sweep/runs/a"
    assert str(find_run("b")) == "runs/b"
    assert str(find_run("c")) == "runs/sweep/runs/c"
    assert find_run(str(runs / "b")) == runs / "b"
    assert str(find_run("a")) == "runs/a"  # The place below `runs` goes before names further down.


def test_a_name_of_none_or_of_two_is_told(runs):
    make_run(runs / "other" / "c")
    with pytest.raises(ValueError, match="c is the name of runs/other/c, runs/sweep/runs/c; give"):
        find_run("c")
    for given in ("nowhere", "sweep", "runs"):
        with pytest.raises(ValueError, match=f"{given} is no run"):
            find_run(given)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        _found("nowhere")
