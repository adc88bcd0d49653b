"""Processes that do not find each other say so."""

import datetime
import socket

import pytest

from trainer import distributed
from trainer.distributed import run_context
from trainer.reliability.watchdog import WatchdogConfig


@pytest.mark.parametrize(
    "watch",
    [
        distributed.UNWATCHED,
        WatchdogConfig(hang_s=1e15),
        WatchdogConfig(hang_s=1, slow_s=1e30),
    ],
)
def test_an_address_where_nobody_answers_is_told_with_what_to_do(monkeypatch, watch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(port)),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "RENDEZVOUS_TIMEOUT", datetime.timedelta(seconds=1))
    told = f"rank 1 of 2 found nobody at 127.0.0.1:{port} .* within 1 s; start all hosts"
    with pytest.raises(RuntimeError, match=told), run_context(watch):
        pass


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"])
def test_a_launcher_that_does_not_say_where_ranks_meet_is_told_what_is_missing(
    monkeypatch, missing
):
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    told = f"environment variable {missing} expected.*; start several ranks with torchrun"
    with pytest.raises(ValueError, match=told), run_context():
        pass


def test_a_number_of_ranks_without_a_rank_is_told_and_not_waited_for(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = "WORLD_SIZE is 2, and RANK is not set; start several ranks with torchrun"
    with pytest.raises(ValueError, match=told), run_context():
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with run_context() as context:
        assert (context.rank, context.world) == (0, 1)
