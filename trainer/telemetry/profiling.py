"""A torch.profiler trace of a few steps of a run."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


class ProfileWindow:
    """Traces the asked steps and says where the trace is.

    Args:
        folder: where the trace goes; made when there is one.
        start: finished steps after which the trace starts, -1 for none.
        steps: steps it covers.
        device: where training runs; CUDA kernels are traced where it is a GPU.
    """

    def __init__(self, folder: Path, *, start: int, steps: int, device: torch.device) -> None:
        self._folder, self._start, self._stop = folder, start, start + steps
        self._cuda = device.type == "cuda"
        self._profiler: torch.profiler.profile | None = None

    def after_step(self, step: int) -> None:
        """Start or stop where this is the last step before the trace, or its last step."""
        if step == self._start:
            kinds = torch.profiler.ProfilerActivity
            activities = [kinds.CPU, kinds.CUDA] if self._cuda else [kinds.CPU]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif step == self._stop:
            self.close(step)

    def close(self, step: int) -> None:
        """Write the trace, where one is running, as ending with this step."""
        if self._profiler is not None:
            self._profiler.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"steps_{self._start + 1}_to_{step}.json.gz"
            self._profiler.export_chrome_trace(str(path))
            self._profiler = None
            logger.info("profile: %s (open it at ui.perfetto.dev)", path)
