"""Where a step spends its time, from the names that TorchRec and our model give its parts."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from torch.autograd.profiler import record_function

PHASES = {
    "next_batch": "data",
    "copy_batch_to_gpu": "copy",
    "start_sparse_data_dist": "id_exchange",
    "wait_sparse_data_dist": "id_exchange",
    "sharded_module_prefetch": "prefetch",
    "lookup": "lookup",
    "search": "search",
    "pool": "pool",
    "dense": "dense",
    "backward": "backward",
    "zero_grad": "optimizer",
    "optimizer": "optimizer",
}
"""By the first word of a `record_function`'s name. `data` waits for the reader; `lookup` waits for
unpooled rows; backward holds the tables' optimizers."""
_ON_HOST = ("data", "copy", "id_exchange", "prefetch")


class PhaseTimer:
    """Sums the seconds of each phase of the steps that run inside `with timer:`.

    A phase within another is counted for itself only. On CUDA, what the host does ahead is in the
    host's time and the rest in the device's, from events that are read in `take` alone; so nothing
    waits for the device meanwhile. Off, a step does nothing more than without it.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._running: list[tuple[str | None, Any, float]] = []
        """Phases that are running, innermost last: name, what was noted at the start, and seconds
        of the phases inside."""

    def __enter__(self) -> PhaseTimer:
        enter, leave = record_function.__enter__, record_function.__exit__
        self._originals = enter, leave

        def timed_enter(mark: record_function) -> record_function:
            self._start(mark.name)
            return enter(mark)  # type: ignore[no-untyped-call]

        def timed_leave(mark: record_function, *error: Any) -> None:
            leave(mark, *error)
            self._stop()

        # TorchRec marks its phases with this class and offers no other hook.
        record_function.__enter__ = timed_enter  # type: ignore[method-assign]
        record_function.__exit__ = timed_leave  # type: ignore[method-assign]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        record_function.__enter__, record_function.__exit__ = self._originals  # type: ignore[method-assign]
        self._running.clear()

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call; waits for the device on CUDA."""
        for phase, start, end in self._events:
            end.synchronize()
            self._add(phase, start.elapsed_time(end) / 1000)
        self._events.clear()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _start(self, name: str) -> None:
        words = name.strip("# ").split()
        phase = PHASES.get(words[0]) if words else None
        if phase is None or phase in _ON_HOST or not self._cuda:
            self._running.append((phase, time.perf_counter(), 0.0))
        else:
            self._running.append((phase, _event(), 0.0))

    def _stop(self) -> None:
        if not self._running:
            return
        phase, started, inside = self._running.pop()
        if not isinstance(started, float):
            if phase is not None:
                self._events.append((phase, started, _event()))
            return
        seconds = time.perf_counter() - started
        if phase is not None:
            self._add(phase, seconds - inside)
        if self._running:
            outer, note, before = self._running[-1]
            self._running[-1] = (outer, note, before + (seconds if phase else inside))

    def _add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
