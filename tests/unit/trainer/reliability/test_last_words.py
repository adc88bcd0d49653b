"""Exit codes say whether trying again may help, and one rank speaks for all."""

import os
import signal
import threading
from argparse import ArgumentError

import pytest
from torch._C._distributed_c10d import HashStore

from trainer.reliability import last_words as module
from trainer.reliability.ending import DivergedError, LostRankError, SaveError
from trainer.reliability.last_words import last_words


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (ArgumentError(None, "x"), 2),
        (FileNotFoundError(2, "no such file"), 2),
        (PermissionError(13, "denied"), 2),
        (OSError(5, "input/output error"), 1),
        (SaveError("disk full"), 1),
        (DivergedError("nan"), 2),
        (RuntimeError("x"), 1),
        (LostRankError("gone"), 1),
    ],
)
def test_a_mistake_is_2_and_what_may_go_well_the_next_time_is_1(error, code):
    assert last_words(error, str(error)) == (True, code)


@pytest.fixture
def store(monkeypatch):
    store = HashStore()
    monkeypatch.setattr(module, "_connect", lambda _: store)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    return store


def _rank(monkeypatch, rank, error):
    monkeypatch.setenv("RANK", str(rank))
    return last_words(error, str(error))


@pytest.mark.usefixtures("store")
def test_rank_0_tells_what_all_have_and_another_what_it_alone_has(monkeypatch):
    assert _rank(monkeypatch, 0, ValueError("of all")) == (True, 2)
    assert _rank(monkeypatch, 1, ValueError("of all")) == (False, 2)
    assert _rank(monkeypatch, 2, ValueError("its own")) == (True, 2)
    assert _rank(monkeypatch, 3, ValueError("its own")) == (False, 2)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("error", "code"), [(ValueError("x"), 2), (SaveError("x"), 1)])
def test_who_lost_a_rank_that_says_why_is_silent_and_ends_with_its_code(monkeypatch, error, code):
    assert _rank(monkeypatch, 1, error) == (True, code)
    assert _rank(monkeypatch, 0, LostRankError("gone")) == (False, code)


@pytest.mark.usefixtures("store")
def test_of_those_that_lost_a_rank_that_says_nothing_one_tells(monkeypatch):
    assert _rank(monkeypatch, 2, LostRankError("gone, says 2")) == (True, 1)
    assert _rank(monkeypatch, 0, LostRankError("gone, says 0")) == (False, 1)


@pytest.mark.usefixtures("store")
def test_who_is_asked_to_end_meanwhile_tells_at_once(monkeypatch):
    """torchrun does so as soon as one rank has ended."""
    monkeypatch.setattr(module, "_PATIENCE_S", 30)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert _rank(monkeypatch, 1, ValueError("its own")) == (True, 2)


@pytest.mark.usefixtures("store")
def test_hosts_that_count_restarts_differently_share_the_words_of_a_start(monkeypatch):
    """The agent of each host counts the failures of its own ranks."""
    monkeypatch.setattr(module._Start, "name", "")
    for number in ("first", "second"):
        module.met_as(number)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1" if number == "second" else "0")
        assert _rank(monkeypatch, 0, ValueError("of all")) == (True, 2)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
        assert _rank(monkeypatch, 1, ValueError("of all")) == (False, 2)
        assert _rank(monkeypatch, 2, LostRankError("gone")) == (False, 2)


@pytest.mark.usefixtures("store")
def test_words_are_shared_where_torchrun_keeps_no_store_but_its_agents_do(monkeypatch):
    """As in a job of `launch.components`; each start meets at a port of its own."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    monkeypatch.setenv("MASTER_ADDR", "host-0")
    error = ValueError("of all")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert [_rank(monkeypatch, rank, error)[0] for rank in range(3)] == [True] * 3
    monkeypatch.setenv(module.LAUNCHER, "host-0:29500")
    for port in ("1", "2"):
        monkeypatch.setenv("MASTER_PORT", port)
        assert [_rank(monkeypatch, rank, error)[0] for rank in range(3)] == [True, False, False]


@pytest.mark.usefixtures("store")
def test_a_rank_alone_tells_each_time(monkeypatch):
    """A sweep in one process ends several runs with the same words, each into its own file."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    for _ in range(2):
        assert _rank(monkeypatch, 0, ValueError("of all")) == (True, 2)


def test_a_launcher_that_is_gone_changes_nothing(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    assert last_words(ValueError("x"), "x") == (True, 2)
