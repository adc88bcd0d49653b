"""Who may make runs in a folder, and what of a file is left when its writer is ended."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from trainer.json_files import read_object, write_json
from trainer.reliability.lock import holder, locked

HOLD = """
import sys
from pathlib import Path
from trainer.reliability.lock import locked
with locked(Path(sys.argv[1]), "go"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_whose_id_the_others_are_told(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"{out} is held by process {other.pid} on "):
            locked(out, "give another --out").__enter__()
        other.kill()
    with locked(out, "give another --out"):
        pass


def break_after_a_fork(folder, pipe):
    """Leave the block by an error, and behind it a process that waits for a byte: its id."""
    with contextlib.suppress(RuntimeError), locked(folder, "go"):
        child = os.fork()
        if child == 0:
            os.read(pipe, 1)
            os._exit(0)
        raise RuntimeError("it broke")
    return child


def test_a_folder_is_free_again_after_an_error_even_where_a_fork_lives_on(tmp_path):
    reading, writing = os.pipe()
    child = break_after_a_fork(tmp_path, reading)
    try:
        with locked(tmp_path, "go"), pytest.raises(ValueError, match=f"process {os.getpid()} on "):
            locked(tmp_path, "go").__enter__()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_writer_that_is_ended_leaves_the_whole_file_of_before(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"auc": 0.7})
    whole = Path.write_text

    def ended(self, text):
        whole(self, text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", ended)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"auc": 0.8})
    monkeypatch.undo()
    assert read_object(path) == {"auc": 0.7}
    write_json(path, {"auc": 0.9})
    assert read_object(path) == {"auc": 0.9}
    assert list(tmp_path.iterdir()) == [path]


def test_who_holds_a_folder_is_told_without_holding_it(tmp_path):
    out = tmp_path / "out"
    assert holder(out) is None
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert holder(out) == f"{other.pid} on {socket.gethostname()}"
        other.kill()
    assert (out / ".lock").read_text()  # Killed, it has left its word.
    assert holder(out) is None
    with locked(out, "go"):
        assert holder(out) == f"{os.getpid()} on {socket.gethostname()}"
    assert holder(out) is None


def test_words_of_another_host_or_a_process_id_used_anew_hold_nothing(tmp_path):
    for words in ("1 on elsewhere", f"{os.getpid()} on {socket.gethostname()}", "nonsense", "\0"):
        (tmp_path / ".lock").write_text(words)
        assert holder(tmp_path) is None
        with locked(tmp_path, "go"):
            pass


def test_looking_never_makes_a_starting_process_find_the_folder_held(tmp_path):
    """A look at a folder that was left in order, or by a process that is gone, takes no lock."""
    path = tmp_path / ".lock"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    for words in ("", f"{gone.stdout.strip()} on {socket.gethostname()}\n"):
        path.write_text(words)
        with mock.patch("fcntl.flock", side_effect=AssertionError("it was locked")):
            assert holder(tmp_path) is None


WRITE_OFTEN = """
import sys
from pathlib import Path
from trainer.json_files import write_json
for _ in range(300):
    write_json(Path(sys.argv[1]), {"reason": sys.argv[2]})
"""


def test_ranks_that_write_a_file_at_once_leave_one_of_theirs_whole(tmp_path):
    path, reasons = tmp_path / "ended.json", ["a" * 9000, "b"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_OFTEN, str(path), reason],
            env={**os.environ, "RANK": str(rank)},
        )
        for rank, reason in enumerate(reasons)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert read_object(path) in [{"reason": reason} for reason in reasons]
