"""Ranks that start again meet on a store that may still hold what those before them have left."""

from __future__ import annotations

import datetime
import logging
import time
import uuid

from torch._C._distributed_c10d import PrefixStore, Store

from trainer.reliability.last_words import met_as
from trainer.reliability.progress import NOTE_S

logger = logging.getLogger(__name__)

_NAME = "start/name"
_POLL_S = 0.1


def fresh_store(store: Store, rank: int, world: int, timeout: datetime.timedelta) -> Store:
    """A part of a store that the ranks of this start alone share; a collective.

    torchrun keeps its store when it starts ranks again, so they would connect to the addresses of
    those before. Its count of restarts does not tell starts apart: the agent of each host counts
    the failures of its own ranks. So rank 0 draws a name, the others answer to it with what they
    drew themselves, and it repeats their answers: who does not find its own there has read an
    earlier name and reads on.

    Args:
        store: of the launcher.
        rank: of this process.
        world: ranks of the job.
        timeout: for all ranks to come.

    Raises:
        RuntimeError: some have not come.
    """
    patience = _Patience(rank, world, timeout)
    if rank == 0:
        return _gather(store, world, patience)
    drawn = uuid.uuid4().hex
    while patience.is_left():
        name = ""
        if store.check([_NAME]):
            name = store.get(_NAME).decode()
            store.set(f"start/{name}/{rank}", drawn)
            answers_key = f"start/{name}/answers"
            if store.check([answers_key]) and drawn in store.get(answers_key).decode():
                return _begin(name, store)
        # One for all: hundreds may wait for the same rank.
        if patience.is_worn() and store.add(f"start/{name}/noted", 1) == 1:
            patience.note("rank 0 to gather all")
        time.sleep(_POLL_S)
    raise _nobody("rank 0", timeout)


def _gather(store: Store, world: int, patience: _Patience) -> Store:
    """Rank 0's part."""
    name = uuid.uuid4().hex
    store.set(_NAME, name)
    missing = set(range(1, world))
    while missing and patience.is_left():
        missing -= {other for other in missing if store.check([f"start/{name}/{other}"])}
        if missing and patience.is_worn():
            patience.note(f"{_ranks(missing)} to come")
        time.sleep(_POLL_S if missing else 0)
    if missing:
        raise _nobody(_ranks(missing), patience.timeout)
    answers = [store.get(f"start/{name}/{other}").decode() for other in range(1, world)]
    store.set(f"start/{name}/answers", ",".join(answers))
    return _begin(name, store)


def _begin(name: str, store: Store) -> Store:
    met_as(name)
    return PrefixStore(name, store)


class _Patience:
    """How long a rank waits, and when it first says so."""

    def __init__(self, rank: int, world: int, timeout: datetime.timedelta) -> None:
        self.timeout, self._who = timeout, f"rank {rank} of {world}"
        self._began, self._noted = time.monotonic(), False

    def is_left(self) -> bool:
        return time.monotonic() - self._began < self.timeout.total_seconds()

    def is_worn(self) -> bool:
        """Whether it is time to say so; once."""
        worn = not self._noted and time.monotonic() - self._began > NOTE_S
        self._noted = self._noted or worn
        return worn

    def note(self, what: str) -> None:
        logger.warning(
            "%s has waited %.0f s for %s; what they say themselves tells why, and the job ends "
            "after %.0f s",
            *(self._who, time.monotonic() - self._began, what, self.timeout.total_seconds()),
        )


def _ranks(ranks: set[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, sorted(ranks)))


def _nobody(who: str, timeout: datetime.timedelta) -> RuntimeError:
    return RuntimeError(
        f"{who} did not come within {timeout.total_seconds():.0f} s, though their launcher did; "
        "what they say themselves tells why"
    )
