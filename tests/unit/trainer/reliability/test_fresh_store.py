"""Ranks of one start find each other on a store that earlier starts have used."""

import datetime
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch._C._distributed_c10d import TCPStore

from trainer.reliability import fresh_store as module
from trainer.reliability.fresh_store import fresh_store

SOON = datetime.timedelta(seconds=20)


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, is_master=True, timeout=SOON, wait_for_workers=False)


def _start(store, world, order):
    """What each rank reads that rank 0 has written in its part; ranks come in this order."""
    written = threading.Event()

    def come(rank):
        mine = fresh_store(store.clone(), rank, world, SOON)
        if rank == 0:
            mine.set("address", uuid.uuid4().hex)
            written.set()
        written.wait()
        return mine.get("address")

    with ThreadPoolExecutor(world) as ranks:
        coming = []
        for rank in order:
            coming.append(ranks.submit(come, rank))
            time.sleep(0.15)
        return [future.result() for future in coming]


def test_ranks_of_a_start_share_a_part_whoever_comes_first(store):
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        assert len(set(_start(store, 3, order))) == 1


def test_nothing_of_an_earlier_start_is_there_also_with_more_ranks_or_fewer(store):
    """A rank that comes before rank 0 reads the earlier start's name, answer and confirmation."""
    (first,) = set(_start(store, 2, (0, 1)))
    for world, order in ((2, (1, 0)), (3, (2, 1, 0)), (2, (1, 0))):
        (later,) = set(_start(store, world, order))
        assert later != first
        first = later


def test_who_waits_in_vain_says_for_whom(store):
    brief = datetime.timedelta(seconds=0.3)
    with pytest.raises(RuntimeError, match=r"^ranks 1, 2 did not come within 0 s"):
        fresh_store(store, 0, 3, brief)
    with pytest.raises(RuntimeError, match=r"^rank 0 did not come within 0 s"):
        fresh_store(store, 1, 3, brief)


def test_who_waits_long_says_for_whom_before_it_gives_up(store, monkeypatch, caplog):
    monkeypatch.setattr(module, "NOTE_S", 0.1)
    brief = datetime.timedelta(seconds=0.5)
    for rank in (1, 2):  # Of those that wait for the same rank one says so.
        with pytest.raises(RuntimeError):
            fresh_store(store, rank, 3, brief)
    with pytest.raises(RuntimeError):
        fresh_store(store, 0, 3, brief)
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(";")[0] for text in told] == [
        "rank 1 of 3 has waited 0 s for rank 0 to gather all",
        "rank 0 of 3 has waited 0 s for ranks 1, 2 to come",
    ]
