"""What is measured inside a training step: seconds of its phases, bytes that it exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from trainer.distributed import RunContext
from trainer.telemetry.phases import PhaseTimer
from trainer.telemetry.telemetry import TelemetryConfig
from trainer.telemetry.traffic import TrafficCounter

_SENT = "train/exchange_bytes/"


class StepProbe:
    """Measures steps as the config asks; otherwise it does nothing.

    Args:
        config: `phases` and `exchange_step`.
        context: of this process.
        window: with what a run that it resumes had counted, of `window()`.
    """

    def __init__(
        self, config: TelemetryConfig, context: RunContext, window: Mapping[str, float]
    ) -> None:
        self._timer = PhaseTimer(context.device) if config.phases and context.is_main else None
        self._exchange_step = config.exchange_step if context.world > 1 else 0
        self._traffic: TrafficCounter | None = None
        self._resumed = {name: sent for name, sent in window.items() if name.startswith(_SENT)}
        self._steps = 0

    def step(self, number: int) -> ExitStack:
        """Measure what runs inside as the step of that number, from 1."""
        stack = ExitStack()
        self._steps += 1
        if self._timer is not None:
            stack.enter_context(self._timer)
        if number == self._exchange_step:
            self._traffic = TrafficCounter()
            stack.enter_context(self._traffic)
        return stack

    def scalars(self) -> dict[str, float]:
        """Seconds a step since the last call, and the bytes of a counted step, once."""
        found: dict[str, float] = {}
        if self._timer is not None:
            for phase, seconds in self._timer.take().items():
                found[f"train/phase_s/{phase}"] = seconds / self._steps
        found |= self.window()
        self._traffic, self._resumed = None, {}
        self._steps = 0
        return found

    def window(self) -> dict[str, float]:
        """Bytes that `scalars` has not told yet, for a resume to tell."""
        sent = self._traffic.sent_bytes if self._traffic is not None else {}
        counted = {f"{_SENT}{what.replace(' ', '_')}": float(sent[what]) for what in sorted(sent)}
        return self._resumed | counted
