"""Ranks that start again meet on a store that may still hold what those before them have left."""

from __future__ import annotations

import datetime
import time
import uuid

from torch._C._distributed_c10d import PrefixStore, Store

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
    drawn = uuid.uuid4().hex
    deadline = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set(_NAME, drawn)
        missing = set(range(1, world))
        while missing and time.monotonic() < deadline:
            missing -= {other for other in missing if store.check([f"start/{drawn}/{other}"])}
            time.sleep(_POLL_S if missing else 0)
        if missing:
            raise _nobody("ranks " + ", ".join(map(str, sorted(missing))), timeout)
        answers = [store.get(f"start/{drawn}/{other}").decode() for other in range(1, world)]
        store.set(f"start/{drawn}/answers", ",".join(answers))
        return _part(store, drawn)
    while time.monotonic() < deadline:
        if store.check([_NAME]):
            name = store.get(_NAME).decode()
            store.set(f"start/{name}/{rank}", drawn)
            answers_key = f"start/{name}/answers"
            if store.check([answers_key]) and drawn in store.get(answers_key).decode():
                return _part(store, name)
        time.sleep(_POLL_S)
    raise _nobody("rank 0", timeout)


def _part(store: Store, name: str) -> Store:
    return PrefixStore(name, store)


def _nobody(who: str, timeout: datetime.timedelta) -> RuntimeError:
    return RuntimeError(
        f"{who} did not come within {timeout.total_seconds():.0f} s, though their launcher did; "
        "what they say themselves tells why"
    )
