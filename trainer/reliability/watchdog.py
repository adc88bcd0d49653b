"""Ends a job in which a rank hangs, and says which, and where.

A rank that hangs takes all others with it: they wait for it in a collective, for half an hour by
gloo's and NCCL's own timeouts, which then name a collective and not the rank. Here each rank tells
the others through the job's store what it does; who has waited too long reads what they told.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch._C._distributed_c10d import Store

from trainer.reliability.ending import leave_note
from trainer.reliability.progress import CONNECTING, NOTE_S, STARTING, Doing, Progress
from trainer.telling import tell_at_once

_NAMED_RANKS = 8
EXIT_CODE = 124
"""Of a job that was ended so, as of `timeout`."""
_WAITING = (CONNECTING, STARTING, "training", "waiting for the batches of other ranks")
"""Where a rank may stand because another one hangs."""
_BEAT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """When a run that makes no progress is ended, with the rank and the phase that hang."""

    hang_s: float = 600.0
    """Seconds that a step, or the reading of a batch, may take; 0 for any time."""
    slow_s: float = 1800.0
    """Seconds that the start with its first step, a restore, a save and the report may take. Of a
    start, waiting for all ranks to be there is 300 s at most."""

    def __post_init__(self) -> None:
        for name in ("hang_s", "slow_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"watchdog.{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True)
class Heard:
    """What one rank has told of itself."""

    rank: int
    host: str
    step: int
    phase: str
    seconds: float
    """In this phase, when it told so."""
    beats: int
    """How often it has told."""


class Watchdog:
    """A thread that looks at this rank's progress; a context manager around all collectives.

    Args:
        config: how long is too long.
        progress: of this rank.
        folder: of the run; `stacks/rank-N.txt` shows where each rank stood.
        store: of the ranks of this start.
        rank: of this process.
        world: ranks of the job.
    """

    def __init__(
        self,
        config: WatchdogConfig,
        progress: Progress,
        folder: Path,
        *,
        store: Store,
        rank: int,
        world: int,
    ) -> None:
        self._config, self._progress, self._folder = config, progress, folder
        self._whole_store: Any = store  # Its stub lacks `clone`.
        self._rank, self._world = rank, world
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beats = 0

    def __enter__(self) -> Watchdog:
        if self._config.hang_s:
            # A connection of its own: one that waits for a key holds up all others of its store.
            self._store = self._whole_store.clone()
            self._tell()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        beat_s, noted = min(_BEAT_S, self._config.hang_s / 4), 0.0
        while not self._over.wait(beat_s):
            self._tell()
            doing = self._progress.now
            limit = self._config.hang_s
            if doing.slow:
                limit = max(limit, self._config.slow_s)
            waited = time.monotonic() - doing.since
            if waited > limit:
                self._end(limit, beat_s)
            quick = not doing.slow or doing.phase == STARTING
            if quick and waited > NOTE_S and doing.since != noted:
                noted = doing.since
                self._note(doing, limit, beat_s)

    def _note(self, doing: Doing, limit: float, beat_s: float) -> None:
        """Say that it takes long, and where all stand, if nobody has and it still does."""
        before = self._hear()
        for _ in range(3):
            if self._over.wait(beat_s):
                return
            self._tell()
        try:
            first = self._store.add(f"watchdog/noted/{doing.step}", 1) == 1
        except RuntimeError:
            first = True
        if first and self._progress.now == doing:
            _write_line(
                f"warning: no progress for {time.monotonic() - doing.since:.0f} s: "
                f"{standing(before, self._hear(), self._world)}; the job ends after {limit:g} s "
                "(watchdog.hang_s, .slow_s)"
            )

    def _tell(self) -> None:
        doing, self._beats = self._progress.now, self._beats + 1
        told = {
            "host": socket.gethostname(),
            "step": doing.step,
            "phase": doing.phase,
            "seconds": time.monotonic() - doing.since,
            "beats": self._beats,
        }
        try:
            self._store.set(f"watchdog/{self._rank}", json.dumps(told))
        except RuntimeError:  # The store's host is gone; what this rank sees is told all the same.
            return

    def _hear(self) -> list[Heard]:
        try:
            ranks = list(range(self._world))
            if not self._store.check([f"watchdog/{rank}" for rank in ranks]):
                ranks = [rank for rank in ranks if self._store.check([f"watchdog/{rank}"])]
            told = self._store.multi_get([f"watchdog/{rank}" for rank in ranks])
            return [Heard(rank, **json.loads(text)) for rank, text in zip(ranks, told, strict=True)]
        except RuntimeError:
            return []

    def _end(self, limit: float, beat_s: float) -> None:
        """Say who hangs, show where this rank stands, and leave."""
        before = self._hear()
        self._write_stacks()
        self._go_on_telling(beat_s)
        try:
            first = self._store.add("watchdog/told", 1) == 1
        except RuntimeError:
            first = True
        if first:
            text = diagnose(before, self._hear(), self._world)
            text = (
                f"no progress for {limit:g} s (watchdog.hang_s, .slow_s): {text}; where each rank "
                f"stood is in {self._folder / 'stacks'}"
            )
            _write_line(f"error: {text}")
            leave_note(self._folder, "failed", self._progress.now.step, text)
        else:
            self._go_on_telling(beat_s)  # The others still listen.
        os._exit(EXIT_CODE)  # The main thread may never return.

    def _go_on_telling(self, beat_s: float) -> None:
        for _ in range(3):
            time.sleep(beat_s)
            self._tell()

    def _write_stacks(self) -> None:
        try:
            folder = self._folder / "stacks"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"rank-{self._rank}.txt").open("w") as file:
                faulthandler.dump_traceback(file)
        except OSError as error:
            _write_line(f"error: {error}")


def _write_line(text: str) -> None:
    """Not through the logger, whose lock the main thread may hold."""
    tell_at_once(f"dare train: {text}")


def standing(before: list[Heard], after: list[Heard], world: int) -> str:
    """Where all ranks stand, from what they have told at two times, without blame.

    Args:
        before: what was heard first.
        after: what was heard later.
        world: ranks of the job.
    """
    ranks: dict[str, list[int]] = {}
    for rank in (silent := _silent(before, after, world)):
        ranks.setdefault("not to be heard", []).append(rank)
    for heard in after:
        if heard.rank not in silent:
            ranks.setdefault(heard.phase, []).append(heard.rank)
    return ", ".join(f"{_counted(some)} {phase}" for phase, some in ranks.items())


def _counted(ranks: list[int]) -> str:
    if len(ranks) > _NAMED_RANKS:
        return f"{len(ranks)} ranks"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _silent(before: list[Heard], after: list[Heard], world: int) -> list[int]:
    """Ranks that have told nothing between two times."""
    told = {heard.rank: heard.beats for heard in after}
    beats = {heard.rank: heard.beats for heard in before}
    return [rank for rank in range(world) if told.get(rank) == beats.get(rank)]


def diagnose(before: list[Heard], after: list[Heard], world: int) -> str:
    """Which ranks hang, from what all have told at two times, some beats apart.

    A rank that tells nothing any more hangs as a whole (stopped, swapped out, its host gone);
    otherwise those that do something of their own, such as reading; otherwise those with the
    fewest steps.

    Args:
        before: what was heard first.
        after: what was heard later.
        world: ranks of the job.
    """
    told = {heard.rank: heard for heard in after}
    if silent := _silent(before, after, world):
        return f"{_ranks(silent, told)} no longer to be heard; the others wait for it"
    working = [heard.rank for heard in after if heard.phase not in _WAITING]
    fewest = min(heard.step for heard in after)
    behind = [heard.rank for heard in after if heard.step == fewest]
    guilty = working or behind
    text = ", ".join(_where(told[rank]) for rank in guilty)
    if len(guilty) == world:
        return text if world == 1 else f"{text}: all hang, in a collective or on what they share"
    return f"{text}; the others wait for it"


def _ranks(ranks: list[int], told: dict[int, Heard]) -> str:
    known = [_where(told[rank]) if rank in told else f"rank {rank}" for rank in ranks]
    return f"{', '.join(known)}: {'is' if len(ranks) == 1 else 'are'}"


def _where(heard: Heard) -> str:
    return (
        f"rank {heard.rank} on {heard.host} is {heard.phase} after step {heard.step:,} "
        f"(for {heard.seconds:.0f} s)"
    )
