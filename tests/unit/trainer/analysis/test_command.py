"""From findings to files, and what is refused before anything is read."""

import dataclasses
import json
import math
from contextlib import contextmanager

import numpy as np
import pytest

import trainer.analysis.command
from trainer.analysis.command import ANALYSES, analyze_run, introduction, plain, write_findings
from trainer.analysis.options import Findings
from trainer.analysis.pictures import new_figure, scaled
from trainer.config import TrainConfig
from trainer.distributed import run_context


def test_findings_become_json_that_any_reader_takes(tmp_path):
    content = {
        "array": np.array([[1.5, np.nan], [np.inf, 2.0]]),
        "number": np.int64(3),
        "nothing": math.nan,
        "pair": (1, "two"),
        7: {"deep": [np.float32(0.5)]},
    }
    path = write_findings(Findings(content, new_figure(2, 2)), tmp_path / "new" / "folder", "what")
    assert path == tmp_path / "new" / "folder" / "what.json"

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "array": [[1.5, None], [None, 2.0]],
        "number": 3,
        "nothing": None,
        "pair": [1, "two"],
        "7": {"deep": [0.5]},
    }
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_plain_values_stay_as_they_are():
    assert plain({"a": [1, True, None, "x", 0.25]}) == {"a": [1, True, None, "x", 0.25]}


def test_maps_are_stretched_to_zero_and_one():
    assert scaled(np.array([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert scaled(np.array([5.0, 5.0])).tolist() == [0.0, 0.0]
    stretched = scaled(np.array([1.0, np.nan, 3.0]))
    assert stretched[[0, 2]].tolist() == [0.0, 1.0]
    assert np.isnan(stretched[1])
    assert np.isnan(scaled(np.array([np.nan]))).all()


@pytest.mark.parametrize("what", ["nothing", "--config=x", ""])
def test_an_unknown_analysis_is_refused_with_those_there_are(what):
    with pytest.raises(ValueError, match="is no analysis; analyses are attention, retrieval"):
        analyze_run(what, [])


def test_several_processes_are_refused(monkeypatch):
    @contextmanager
    def two():
        with run_context() as context:
            yield dataclasses.replace(context, world=2)

    monkeypatch.setattr(trainer.analysis.command, "run_context", two)
    with pytest.raises(ValueError, match="runs on one process, 2 were started"):
        analyze_run("convergence", [])


def test_options_of_an_analysis_are_no_fields_of_a_run():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    for analysis in ANALYSES.values():
        assert not fields & {field.name for field in dataclasses.fields(analysis.options)}


def test_the_introduction_names_every_analysis():
    for name, analysis in ANALYSES.items():
        assert f"  {name}" in introduction()
        assert analysis.summary in introduction()
