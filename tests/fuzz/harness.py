"""How every fuzz test runs: few examples, always the same, or as many as `EXAMPLES` says.

A wrong input may end in a `ValueError`, an `OSError` or an `ArgumentError` whose lines a person can
read; nothing else, and within seconds.
"""

from __future__ import annotations

import os
import signal
from argparse import ArgumentError
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

from trainer.parsing import in_one_line

MANY = int(os.environ.get("EXAMPLES", "0"))
SECONDS_AN_INPUT = 30
LONGEST_LINE = 2000
tried: Counter[str] = Counter()
"""Inputs, and how many of them were accepted, by test."""


def examples(few: int) -> settings:
    """Settings of a test: so many examples in `make test`, `EXAMPLES` in `make fuzz`."""
    return settings(
        max_examples=MANY or few,
        derandomize=not MANY,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def _within_seconds() -> Iterator[None]:
    def too_long(*_: Any) -> None:
        raise AssertionError(f"no answer in {SECONDS_AN_INPUT} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS_AN_INPUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def accepted(name: str, function: Callable[[], Any]) -> Any:
    """What a function makes of an input; None where it refuses it in lines one can read."""
    tried[name] += 1
    try:
        with _within_seconds():
            found = function()
    except ArgumentError as error:
        _check_lines(in_one_line(error))
        return None
    except (ValueError, OSError) as error:
        _check_lines(str(error))
        return None
    tried[f"{name}, accepted"] += 1
    return found


def _check_lines(text: str) -> None:
    lines = text.splitlines()
    assert lines, "a message says something"
    for line in lines:
        assert line.strip()
        assert len(line) <= LONGEST_LINE, line
        assert "Traceback" not in line
        assert "object at 0x" not in line, "an address tells nobody anything"
