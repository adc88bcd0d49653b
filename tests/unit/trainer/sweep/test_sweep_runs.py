"""Which runs of several are made, and what becomes of those that fail."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from trainer.sweep.launch import last_error, make_runner
from trainer.sweep.runs import Run, read_options, read_run, run_all

RESULT = {"auc": 0.7, "best_step": 3}


class FakeRunner:
    """Leaves a result in the folder of a run, unless it is to fail."""

    def __init__(self, codes: dict[str, int] | None = None, auc: float | None = 0.7) -> None:
        self.codes, self.result = codes or {}, RESULT | {"auc": auc}
        self.calls: list[str] = []
        self.resumed: list[bool] = []

    def __call__(self, arguments, log):
        assert arguments[0] == "train"
        assert arguments[-1] == "--resume"
        folder = log.parent
        self.calls.append(folder.name)
        self.resumed.append((folder / "checkpoints").exists())
        code = self.codes.get(folder.name, 0)
        log.write_text("dare train: error: it broke\n" if code else "fine\n")
        if code == 0:
            (folder / "result.json").write_text(json.dumps(self.result))
        return code


def runs_of(**asked):
    """A run a name, with what is asked of it."""
    return [Run(name, (), {"steps": steps}) for name, steps in asked.items()]


@pytest.fixture
def made(tmp_path):
    """Two finished runs, `a` of 1 step and `b` of 2."""
    assert len(list(run_all(runs_of(a=1, b=2), tmp_path, FakeRunner()))) == 2
    return tmp_path


def test_a_finished_run_of_what_is_asked_for_is_kept(made):
    runner = FakeRunner()
    ended = list(run_all(runs_of(a=1, b=2, c=3), made, runner))
    assert runner.calls == ["c"]
    assert [one.result for one in ended] == [RESULT] * 3


def test_a_run_of_something_else_is_made_anew(made, caplog):
    (made / "b" / "checkpoints").mkdir()
    runner = FakeRunner()
    with caplog.at_level("INFO", "trainer"):
        list(run_all(runs_of(a=1, b=3), made, runner))
    assert runner.calls == ["b"]
    assert runner.resumed == [False]
    assert f"{made / 'b'} was run with another steps; run anew" in caplog.text
    assert json.loads((made / "b" / "asked.json").read_text()) == {"steps": 3}


@pytest.mark.parametrize("name", ["asked.json", "result.json"])
@pytest.mark.parametrize("left", ["", '{"auc": 0.7, "be', "[1]", "{}", "\udcff"])
def test_a_file_that_is_not_whole_costs_its_own_run_alone(made, caplog, name, left):
    (made / "b" / name).write_bytes(left.encode(errors="surrogateescape"))
    (made / "b" / "checkpoints").mkdir()
    runner = FakeRunner()
    with caplog.at_level("INFO", "trainer"):
        ended = list(run_all(runs_of(a=1, b=2), made, runner))
    assert (runner.calls, runner.resumed) == (["b"], [False])
    assert [one.result for one in ended] == [RESULT] * 2
    # An object without names is one of another run.
    told = f"{made / 'b' / name} cannot be read; run anew"
    if (name, left) == ("asked.json", "{}"):
        told = f"{made / 'b'} was run with another steps; run anew"
    assert told in caplog.text


def test_a_run_that_leaves_half_a_result_has_failed(tmp_path):
    def runner(_arguments, log):
        log.write_text("all is well\n")
        (log.parent / "result.json").write_text('{"auc": 0.')
        return 0

    (ended,) = run_all(runs_of(a=1), tmp_path, runner)
    assert (ended.result, ended.error) == (None, "all is well")


@pytest.mark.parametrize(("before", "told"), [({"version": "0.0.9"}, "0.0.9"), ({}, "none")])
def test_a_run_of_another_version_is_made_anew_and_told_as_such(made, caplog, before, told):
    (made / "a" / "asked.json").write_text(json.dumps({"steps": 1, **before}))
    runner = FakeRunner()
    with caplog.at_level("INFO", "trainer"):
        list(run_all([Run("a", (), {"steps": 1, "version": "0.1.0"})], made, runner))
    assert runner.calls == ["a"]
    told = f"was run with another version ({told}, this is 0.1.0); run anew"
    assert f"{made / 'a'} {told}" in caplog.text


def test_an_unfinished_run_goes_on(made):
    (made / "a" / "checkpoints").mkdir()
    (made / "a" / "result.json").unlink()
    runner = FakeRunner()
    list(run_all(runs_of(a=1, b=2), made, runner))
    assert runner.calls == ["a"]
    assert runner.resumed == [True]


def test_a_folder_of_unknown_origin_is_made_anew(made):
    (made / "a" / "asked.json").unlink()
    runner = FakeRunner()
    list(run_all(runs_of(a=1), made, runner))
    assert runner.calls == ["a"]


def test_a_failed_run_does_not_end_the_others_and_is_tried_again(tmp_path):
    runner = FakeRunner({"a": 2, "b": -9})
    first, second, third = run_all(runs_of(a=1, b=1, c=1), tmp_path, runner)
    assert (first.result, first.error) == (None, "it broke")
    assert (second.result, second.error) == (None, "ended by SIGKILL")
    assert (third.result, third.error) == (RESULT, "")
    assert first.log.read_text() == "dare train: error: it broke\n"
    again = FakeRunner()
    list(run_all(runs_of(a=1, b=1, c=1), tmp_path, again))
    assert again.calls == ["a", "b"]


@pytest.mark.parametrize("code", [143, -15])
def test_a_run_that_was_told_to_end_ends_the_sweep(tmp_path, code):
    runner = FakeRunner({"a": code})
    with pytest.raises(SystemExit) as left:
        list(run_all(runs_of(a=1, b=2), tmp_path, runner))
    assert left.value.code == 143
    assert runner.calls == ["a"]


@pytest.mark.parametrize("name", ["watchdog.hang_s", "checkpoint.every", "loop.check_loss_every"])
def test_what_decides_no_result_makes_no_run_anew(made, name):
    runner = FakeRunner()
    list(run_all([Run("a", (), {"steps": 1, name: 3})], made, runner))
    assert runner.calls == []


@pytest.mark.parametrize("code", [130, -2])
def test_an_interrupted_run_interrupts_the_sweep(tmp_path, code):
    runner = FakeRunner({"a": code})
    with pytest.raises(KeyboardInterrupt):
        list(run_all(runs_of(a=1, b=1), tmp_path, runner))
    assert runner.calls == ["a"]


@pytest.mark.parametrize(("keep", "left"), [("best", [3]), ("all", [1, 3, 5]), ("none", [])])
def test_checkpoints_that_are_not_asked_for_go_when_a_run_is_finished(tmp_path, keep, left):
    def runner(_arguments, log):
        for step in (1, 3, 5):
            checkpoint = log.parent / "checkpoints" / f"step-{step:08d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "manifest.json").write_text("{}")
        (log.parent / "result.json").write_text(json.dumps(RESULT))
        return 0

    list(run_all(runs_of(a=1), tmp_path, runner, keep))
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in left]


def test_progress_tells_place_best_and_what_is_left(tmp_path, caplog):
    with caplog.at_level("INFO", "trainer"):
        list(run_all(runs_of(a=1, b=1), tmp_path, FakeRunner({"b": 1})))
    assert "run 1 of 2: a: AUC 0.70000; best so far a 0.70000; 1 to make, 00:0" in caplog.text
    assert "run 2 of 2: b: failed: it broke" in caplog.text


@pytest.mark.parametrize(
    ("auc", "told"),
    [(0.0, "AUC 0.00000; best so far a 0.00000;"), (None, "AUC nan; best so far none;")],
)
def test_an_auc_of_0_is_told_apart_from_none(tmp_path, caplog, auc, told):
    with caplog.at_level("INFO", "trainer"):
        list(run_all(runs_of(a=1), tmp_path, FakeRunner(auc=auc)))
    assert f"run 1 of 1: a: {told}" in caplog.text


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("step 1\ndare train: error: the loss is nan\nChildFailedError: x\n", "the loss is nan"),
        (
            "Traceback:\n  line\ntorch.OutOfMemoryError: CUDA out of memory\nmore\n",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("Segmentation fault\n\n", "Segmentation fault"),
        ("", "exit code 3, without a word"),
    ],
)
def test_the_last_error_line_is_the_reason(tmp_path, told, error):
    log = tmp_path / "log.txt"
    log.write_text(told)
    assert last_error(log, 3) == error
    assert last_error(tmp_path / "none", 3) == "exit code 3, without a word"


def test_a_launcher_gets_the_arguments_and_its_words_go_to_the_log(tmp_path):
    script = tmp_path / "launcher.py"
    script.write_text("import sys; print(sys.argv[1:]); print('err', file=sys.stderr); sys.exit(3)")
    log = tmp_path / "log.txt"
    assert make_runner(f"{sys.executable} {script} -m trainer")(["train", "--x=1 2"], log) == 3
    assert sorted(log.read_text().splitlines()) == ["['-m', 'trainer', 'train', '--x=1 2']", "err"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_run_is_left_behind_when_the_sweep_is_ended(tmp_path, number):
    log, end = tmp_path / "log.txt", f"import os, time; os.kill({os.getpid()}, {int(number)});"
    script = tmp_path / "launcher.py"
    # A run that is interrupted ends by itself.
    stays = 0.1 if number == signal.SIGINT else 60
    script.write_text(f"import os; print(os.getpid(), flush=True); {end} time.sleep({stays})")
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        make_runner(f"{sys.executable} {script}")([], log)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_launcher_beside_this_python_needs_no_path(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert (Path(sys.executable).parent / "torchrun").exists()
    make_runner("torchrun -m trainer")
    assert shutil.which("torchrun") is None


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("log", ["log.txt", "/dev/full"])
def test_a_run_here_ends_as_it_would_whatever_its_log_takes(monkeypatch, tmp_path, log, code):
    def loud(arguments):
        for stream in (sys.stdout, sys.stderr):
            print(*arguments, "told " * 10_000, file=stream)  # More than is held back.
            stream.flush()
        return code

    monkeypatch.setattr("trainer.cli.main", loud)
    before = sys.stdout, sys.stderr
    assert make_runner("here")(["train"], tmp_path / log) == code
    assert (sys.stdout, sys.stderr) == before
    if log == "log.txt":
        assert (tmp_path / log).read_text() == f"train {'told ' * 10_000}\n" * 2


def test_a_name_that_is_no_utf_8_is_told_in_the_log_of_a_run_here(monkeypatch, tmp_path):
    monkeypatch.setattr("trainer.cli.main", lambda names: sys.stdout.write(names[0]) - 4)
    assert make_runner("here")(["caf\udce9"], tmp_path / "log.txt") == 0
    assert (tmp_path / "log.txt").read_text() == "caf\\udce9"


def test_a_launcher_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="--launcher begins with torchruns"):
        make_runner("torchruns -m trainer")


def test_one_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one of several processes"):
        make_runner("")


def test_wrong_options_are_one_mistake_in_words():
    with pytest.raises(ValueError, match=r"loop.epochs is many; it must be int"):
        read_options(["--loop.epochs=many"])
    with pytest.raises(ValueError, match=r"data.schema is nowhere.json"):
        read_run(["--data.schema=nowhere.json"])
