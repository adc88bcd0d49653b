"""A Ctrl-C is told in a line and an exit code, whenever it comes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRESSED_AT_THE_END = """
import atexit, os, runpy, signal, sys, time
def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    print("the rest of the end", flush=True)
atexit.register(press)
sys.argv = ["dare", *sys.argv[1:]]
runpy.run_module("trainer", run_name="__main__")
"""

PRESSED_WHILE_TOLD = """
import os, signal
from trainer.start import leave_at_once
write = os.write
def write_and_press(*arguments):
    write(*arguments)
    signal.raise_signal(signal.SIGINT)
os.write = write_and_press
signal.signal(signal.SIGINT, leave_at_once)
signal.raise_signal(signal.SIGINT)
"""


def _listen():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Not as a job in the background has it.


def _begin(*arguments, world=1, text=True):
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(world)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=text,
        bufsize=-1 if text else 0,  # Bytes are read one by one, and none too many.
        preexec_fn=_listen,
    )


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("command", "code"), [("--help", 0), ("no-such-command", 2)])
def test_a_ctrl_c_while_python_ends_changes_neither_the_exit_code_nor_what_is_told(
    world, command, code
):
    process = _begin("-c", PRESSED_AT_THE_END, command, world=world)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert out.endswith("the rest of the end\n")


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.5])
def test_two_presses_while_python_loads_are_one_and_end_in_a_line(tmp_path, after_s):
    """As from a terminal and a launcher; printing the first one's traceback broke on the second."""
    process = _begin(
        "-X", "importtime", "-m", "trainer", "train", f"--out_dir={tmp_path}", text=False
    )
    assert process.stderr is not None
    while b"argparse" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    time.sleep(0.03)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # A full pipe cuts a line of Python's in two, between which the message may come.
    told = re.sub(r"import time:|.*\d \|.*\n", "", err.decode()).splitlines()
    assert process.returncode in (2, 130)  # 2: it was faster, and misses the data.
    assert not [line for line in told if not line.strip().startswith("dare")], told
    assert err.count(b"dare: interrupted") == 1 or process.returncode == 2


def test_a_press_while_another_one_is_told_is_told_no_second_time():
    process = _begin("-c", PRESSED_WHILE_TOLD)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "dare: interrupted; what is written stays\n")
