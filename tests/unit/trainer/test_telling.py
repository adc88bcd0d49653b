"""What cannot be told ends nothing; what should have been printed and is not, is a failure."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.telemetry.logs import configure_logging

ROOT = Path(__file__).parents[3]
TRAINS = """
import json, sys
from pathlib import Path
from trainer import cli, start
from trainer.telling import print_result
cli.commands.train = lambda _: print_result(json.dumps("x" * 9), Path("result.json")) or 0
cli.load_torch = lambda: None
sys.argv = ["dare", "train"]
start.run()
"""
FULL = Path("/dev/full")


def _gone():
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


def _dare(*arguments, stdout, stderr):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_messages_that_nobody_reads_leave_the_exit_code(arguments):
    told = ["-m", "trainer", *arguments]
    with _gone() as stderr:
        done = _dare(*told, stdout=subprocess.PIPE, stderr=stderr)
    assert done.returncode == (2 if arguments else 0)
    assert bool(done.stdout) == (not arguments)


@pytest.mark.skipif(not FULL.exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("arguments", [["runs", "."], ["runs", "--help"], ["--help"]])
def test_what_a_full_disk_does_not_take_of_stdout_is_a_failure_in_one_line(arguments):
    with FULL.open("w") as stdout:
        done = _dare("-m", "trainer", *arguments, stdout=stdout, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == (
        "dare: error: stdout does not take what is printed: [Errno 28] No space left on device\n"
    )


def test_a_result_that_nobody_reads_is_no_failure_of_training():
    with _gone() as stdout:
        done = _dare("-c", TRAINS, stdout=stdout, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (
        0,
        "stdout does not take the result, which is in result.json: [Errno 32] Broken pipe\n",
    )
    done = _dare("-c", TRAINS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, json.loads(done.stdout)) == (0, "x" * 9)


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_result_is_no_failure_where_stdout_was_closed_before_the_start(monkeypatch, ranks):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    done = _dare(
        "-c",
        f"import os, sys\nos.close(1)\nsys.stdout = None\n{TRAINS}",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr) == (0, "")


class _Gone(io.StringIO):
    def write(self, _):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_line_that_cannot_be_written_is_lost(capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(0)
        with contextlib.redirect_stderr(_Gone()):
            logging.getLogger("trainer").info("step 1")
        logging.getLogger("trainer").info("step 2")
    finally:
        root.handlers[:], root.level = before
    assert capsys.readouterr().err.endswith("step 2\n")
