"""What the command line makes of errors before anything has started."""

import pytest

from trainer import commands
from trainer.cli import main


def _no_driver(_arguments):
    try:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file")
    except OSError as error:
        raise OSError("Could not load this library: /venv/fbgemm_gpu_py.so") from error


def _no_torchrec(_arguments):
    raise ModuleNotFoundError("No module named 'torchrec'")


@pytest.mark.parametrize(
    ("command", "reason"), [(_no_driver, "libnvidia-ml.so.1"), (_no_torchrec, "'torchrec'")]
)
def test_a_stack_that_does_not_load_is_told_with_its_cause_and_leads_to_the_doctor(
    monkeypatch, capsys, command, reason
):
    monkeypatch.setattr(commands, "train", command)
    assert main(["train"]) == 2
    said, advice = capsys.readouterr().err.splitlines()
    assert said.startswith("dare train: error: ")
    assert reason in said
    assert advice == "dare train: error: `dare doctor` says what does not fit, and what to do"


@pytest.mark.parametrize(
    ("said", "told"),
    [("", ""), ("Unable to allocate 44.7 GiB", ": Unable to allocate 44.7 GiB")],
)
def test_memory_that_is_not_there_is_a_failure_told_in_a_line(monkeypatch, capsys, said, told):
    def full(_arguments):
        raise MemoryError(*filter(None, [said]))

    monkeypatch.setattr(commands, "train", full)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == f"dare train: error: not enough memory{told}\n"


def test_other_errors_are_their_own_words(monkeypatch, capsys):
    def full(_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "train", full)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "dare train: error: [Errno 28] No space left on device\n"
