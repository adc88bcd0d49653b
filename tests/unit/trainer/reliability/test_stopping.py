"""A read that does not end is left some seconds after the wish to stop, whenever the wish comes."""

import os
import signal
import threading
import time

import pytest

from trainer.reliability import stopping as module
from trainer.reliability.stopping import StopRequest

HANDLERS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


@pytest.fixture
def stop(monkeypatch):
    monkeypatch.setattr(module, "READ_S", 0.1)
    before = [signal.getsignal(number) for number in HANDLERS]
    stop = StopRequest()
    with stop.listening(tells=False):
        yield stop
    assert [signal.getsignal(number) for number in HANDLERS] == before


def _wait(stop):
    """Seconds that a read of up to 5 s was waited for."""
    began = time.monotonic()
    with stop.waiting():
        time.sleep(5)
    return time.monotonic() - began


def test_a_wish_that_comes_in_a_read_leaves_it(stop):
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert 0.25 < _wait(stop) < 2


def test_a_wish_that_comes_just_before_a_read_leaves_it_too(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked()
    assert 0.05 < _wait(stop) < 2


def test_what_follows_a_read_is_not_left(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    with stop.waiting():
        pass
    time.sleep(0.3)
