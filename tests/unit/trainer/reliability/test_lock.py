"""Who may make runs in a folder, and what of a file is left when its writer is ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.json_files import read_object, write_json
from trainer.reliability.lock import locked

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
