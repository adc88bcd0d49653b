"""What a run tells while it trains: log lines, a progress bar, JSON lines, TensorBoard, a profile.

Everything is written by rank 0 only, and a step costs no wait for the device between log points.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from trainer.telemetry.memory import peak_memory_bytes
from trainer.telemetry.metrics_file import METRICS_FILE, read_metrics
from trainer.telemetry.profiling import ProfileWindow
from trainer.telemetry.step_window import StepWindow
from trainer.telemetry.trackers import TrackerName, Trackers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """What is logged, and how often."""

    log_every: int = 20
    """Steps between two log points; rates and the loss are means over the steps between, the loss
    over the targets of rank 0."""

    tensorboard: bool = True
    """Write TensorBoard scalars to `tensorboard/` in the run folder."""

    progress: bool = True
    """Draw a progress bar where stderr is a terminal; elsewhere a log point is a log line."""

    trackers: list[TrackerName] = field(default_factory=list)
    """Where else rank 0 records the run, such as `[mlflow]`: `torchx`, the tracker of the job that
    `torchx run` has started; `mlflow`; `wandb`. Their own variables say where. One that fails is
    told of once, and training goes on."""

    phases: bool = False
    """Write the seconds a step of its phases, `train/phase_s/search` and the like, of rank 0."""

    exchange_step: int = 10
    """Step whose bytes from rank 0 to other ranks are counted, by what they carry, and written as
    `train/exchange_bytes/...`; that step is slower. 0 for none."""

    profile_start: int = -1
    """Finished steps after which a torch.profiler trace starts; -1 for none."""

    profile_steps: int = 5
    """Steps that the trace covers."""

    def __post_init__(self) -> None:
        for name, least in (
            ("log_every", 1),
            ("exchange_step", 0),
            ("profile_start", -1),
            ("profile_steps", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"telemetry.{name} is {value}; it must be at least {least}")


class Telemetry:
    """Counts steps and reports them; a context manager around the training loop.

    Args:
        config: what to report.
        folder: the run folder; `metrics.jsonl`, `tensorboard/` and `profile/` go there.
        rank: of this process; all ranks may make the same calls, only rank 0 writes.
        world: ranks that step together; rates are rank 0's times this.
        device: where training runs, for the memory figure.
        start_step: finished steps the run resumes from, 0 for a new one; what the files hold of
            later steps is cut.
        total_steps: steps after which training ends, None where unknown.
        window: of `window()`, where the run that it resumes had steps since its last log point.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        folder: Path,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
        start_step: int = 0,
        total_steps: int | None = None,
        window: Mapping[str, float] | None = None,
    ) -> None:
        self._config, self._folder, self._world = config, folder, world
        self._writes = rank == 0
        self._device = device or torch.device("cpu")
        self._step, self._total_steps = start_step, total_steps
        self._start, self._told = start_step, set[str]()
        self._tensorboard: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        self._profile = ProfileWindow(
            folder / "profile",
            start=config.profile_start,
            steps=config.profile_steps,
            device=self._device,
        )
        self._window, self._resumed = StepWindow(), window or {}
        self.trackers = Trackers((), folder)
        self._scalars: Callable[[], Mapping[str, float]] | None = None

    def __enter__(self) -> Telemetry:
        if not self._writes:
            return self
        config = self._config
        self._folder.mkdir(parents=True, exist_ok=True)
        self._told = _cut_metrics(self._folder, self._step)
        self._file = (self._folder / METRICS_FILE).open("a", encoding="utf-8", buffering=1)
        if config.tensorboard:
            # Imported here: it takes a second that runs without it should not pay.
            from torch.utils.tensorboard import SummaryWriter

            purge = self._step + 1 if self._step else None
            self._tensorboard = SummaryWriter(self._folder / "tensorboard", purge_step=purge)
        if config.progress and sys.stderr.isatty():
            self._bar = tqdm(total=self._total_steps, initial=self._step, unit="step")
        self.trackers = Trackers(config.trackers, self._folder)
        self._profile.after_step(self._step)
        self._window = StepWindow(self._resumed)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if not self._writes:
            return
        try:
            if kind is None and self._window.steps:
                self._log_window()
        finally:
            self._profile.close(self._step)
            if self._bar is not None:
                self._bar.close()
            if self._tensorboard is not None:
                self._tensorboard.close()
            self._file.close()
            self.trackers.__exit__(kind, *error)

    def step(
        self,
        step: int,
        *,
        loss: Tensor,
        weight: Tensor,
        samples: int,
        behaviours: int,
        data_wait_s: float,
        imbalance: float = 1.0,
        scalars: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Count a finished step; at a log point, write the means since the last one.

        Args:
            step: finished steps, 1 after the first.
            loss: summed over this rank's targets, a scalar on any device; summed there and read
                at log points only. `train/loss` is rank 0's: its loss over its weight.
            weight: of these targets, a scalar on the same device; 0 for a batch of padding.
            samples: targets of this rank's batch.
            behaviours: behaviours of this rank's batch.
            data_wait_s: seconds this step waited for its batch.
            imbalance: behaviours of the fullest rank's batch over the mean of all.
            scalars: called at log points only, for what is known then: `train/learning_rate_dense`.
        """
        if not self._writes:
            return
        self._step, self._scalars = step, scalars
        self._window.add(loss.detach(), weight, samples, behaviours, data_wait_s, imbalance)
        self._profile.after_step(step)
        if step % self._config.log_every == 0 or step == self._total_steps:
            self._log_window()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of a step at once, such as `eval/gauc`, and log them in one line.

        What the files tell of the step that the run resumes from is not told again.
        """
        known = step == self._start and scalars.keys() <= self._told
        if self._writes and not known:
            self._write(step, scalars)
            values = (f"{name} {value:.5g}" for name, value in scalars.items())
            logger.info("step %s  %s", f"{step:,}", "  ".join(values))

    def window(self) -> dict[str, float]:
        """What has been counted since the last log point, for a resume to go on counting."""
        return self._window.state()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what runs inside, such as an evaluation, out of the training rates."""
        # Steps still queued on the device belong to the window, not to the pause.
        if self._writes and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._window.started += time.perf_counter() - started

    def _log_window(self) -> None:
        window, self._window = self._window, StepWindow()
        scalars = window.scalars(self._world)
        scalars["train/memory_bytes"] = peak_memory_bytes(self._device)
        self._window.started = time.perf_counter()
        self._write(self._step, {**scalars, **(self._scalars() if self._scalars else {})})
        text = (
            f"loss {scalars['train/loss']:.4f}  {scalars['train/samples_per_s']:,.0f} samples/s  "
            f"data wait {scalars['train/data_wait_share']:.0%}"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._step - self._bar.n)
            return
        if self._total_steps is not None:
            remaining = (self._total_steps - self._step) * scalars["train/step_s"]
            text = f"of {self._total_steps:,}  {text}  {tqdm.format_interval(remaining)} left"
        logger.info("step %s  %s", f"{self._step:,}", text)

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        row: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        if self._total_steps is not None:
            row["total_steps"] = self._total_steps
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self.trackers.scalars(step, scalars)
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)


def _cut_metrics(folder: Path, step: int) -> set[str]:
    """Keep only whole rows of steps up to this one, so that no step is told twice.

    Returns:
        Names of what they tell of this step.
    """
    kept = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
    scratch = folder / f"{METRICS_FILE}.tmp"
    scratch.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    scratch.replace(folder / METRICS_FILE)
    return {name for row in kept if row["step"] == step for name in row}
