"""How a command that fails ends: an exit code that says whether trying again may help, one message.

Of several ranks one tells what all have met, and one whose connection broke because another has
failed leaves it to that one to say why, and ends with its exit code.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from trainer.reliability.ending import DivergedError, LostRankError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

MISTAKE, FAILURE = 2, 1
"""Exit codes: trying again is of no use, or may help."""
LAUNCHER = "DARE_LAUNCHER"
"""HOST:PORT of a store that outlives the ranks, as `launch.torchrun` names it to them."""
_PATIENCE_S = 5.0
_POLL_S = 0.05
_OF_NO_USE = (  # To try again.
    ArgumentError,
    DivergedError,
    ValueError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def does_not_load(error: Exception) -> bool:
    """Whether a package is missing, or a library of FBGEMM's, of which torch says so."""
    return isinstance(error, ImportError) or str(error).startswith("Could not load this library")


def last_words(error: Exception, text: str) -> tuple[bool, int]:
    """Whether this process is the one to tell an error, and the exit code.

    Args:
        error: what has ended it.
        text: as it would be told.
    """
    code = MISTAKE if isinstance(error, _OF_NO_USE) or does_not_load(error) else FAILURE
    known = _known_of_launcher()
    if known is None or os.environ.get("WORLD_SIZE") == "1":
        return True, code
    with _asked_to_end() as asked:
        try:
            store = _store(*known)
            if isinstance(error, LostRankError):
                return _leave_it_to_others(store, code, asked)
            store.set("code", str(code))
            key = hashlib.sha256(text.encode()).hexdigest()
            if os.environ["RANK"] != "0":
                _wait_for(store, key, asked)
            return store.add(key, 1) == 1, code
        except RuntimeError:  # The launcher's host is gone, or ends.
            return True, code


def met_as(name: str) -> None:
    """Note the name that the ranks of this start have on a store which later ones have too."""
    _Start.name = name


class _Start:
    name = ""


def _leave_it_to_others(store: Store, code: int, asked: list[int]) -> tuple[bool, int]:
    _wait_for(store, "code", asked)
    if store.check(["code"]):
        return False, int(store.get("code"))
    return store.add("lost", 1) == 1, code


def _wait_for(store: Store, key: str, asked: list[int]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not asked and time.monotonic() < deadline and not store.check([key]):
        time.sleep(_POLL_S)


def _known_of_launcher() -> tuple[str, str] | None:
    """Address of a store that outlives the ranks, and this start's name there; None for neither."""
    meeting = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Hosts may count restarts differently, but what all meet before they meet, each counts.
        return meeting, _Start.name or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if LAUNCHER in os.environ:
        return os.environ[LAUNCHER], meeting  # Where no store is kept, each start meets elsewhere.
    return None


def _store(address: str, start: str) -> Store:
    """The part of a launcher's store that belongs to one start; connected anew."""
    from torch._C._distributed_c10d import PrefixStore

    return PrefixStore(f"ended/{start}", _connect(address))


def _connect(address: str) -> Store:
    from torch._C._distributed_c10d import TCPStore

    host, _, port = address.rpartition(":")
    return TCPStore(
        host,
        int(port),
        is_master=False,
        timeout=timedelta(seconds=_PATIENCE_S),
        wait_for_workers=False,
    )


@contextmanager
def _asked_to_end() -> Iterator[list[int]]:
    """SIGTERM, which torchrun sends to all ranks once one has ended: patience is over."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
