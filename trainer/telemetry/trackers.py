"""Where else a run is recorded: TorchX, MLflow, Weights & Biases, behind one interface.

Each tracker works in a process of its own, which is told by a pipe. So a server that is away, slow
or hanging costs training nothing, and what a tracker's package prints, patches or leaves running
stays there.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from trainer.reliability.stopping import Stopped

logger = logging.getLogger(__name__)

TrackerName = Literal["torchx", "mlflow", "wandb"]
TRACKERS_FOLDER = "trackers"
"""In a run's folder: `NAME.id`, what a tracker calls the run, and `NAME.log`, what it printed."""

_PACKAGES: dict[str, str] = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
_PATIENCE_S = 10.0
"""How long the end of a run waits for its trackers, all together."""
_WAITING = 10_000
"""Records that may wait for a tracker; later ones are dropped."""


class Tracker(Protocol):
    """What a tracker does; whatever it raises is told once, and training goes on."""

    def begin(self, run_id: str, config: Mapping[str, Any], folder: Path) -> str:
        """Begin a run, or go on with one; called again where it failed.

        Args:
            run_id: what this returned for an earlier part of the run; empty for a new one.
            config: of the run, by section.
            folder: of the run.

        Returns:
            What the tracker calls the run.
        """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of a step, such as `train/loss`."""

    def checkpoint(self, path: str, step: int) -> None:
        """Record where a checkpoint is."""

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        """End the run.

        Args:
            state: `finished`, `stopped`, `interrupted`, `failed`, or `killed` where the process of
                the run went without a word.
            result: what `result.json` holds; of a run that has not finished, what is known.
        """


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Look whether what is asked for is installed.

    Raises:
        ValueError: a package is not.
    """
    for name in names:
        package = _PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(name) is None:
            raise ValueError(
                f"telemetry.trackers asks for {name}, which is not installed: pip install {package}"
            )


class Trackers:
    """The trackers of one run, told by rank 0; none of the calls waits, but for the end.

    Args:
        names: which.
        folder: of the run; its `config.yaml` is told to them.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path) -> None:
        self._step = 0
        self._couriers = [_Courier(name, folder) for name in dict.fromkeys(names)]
        if self._couriers:
            path = folder / "config.yaml"
            config = yaml.safe_load(path.read_text()) if path.exists() else {}
            self._tell("begin", config=config, folder=str(folder.resolve()))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        """End the run where an exception ends the block; otherwise it goes on."""
        if error is not None:
            state = error.state if isinstance(error, Stopped) else "failed"
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else state
            self.end(state, {"step": self._step, "reason": str(error)})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars of a step; those that are not finite are left out."""
        self._step = step
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        self._tell("scalars", step=step, values=known)

    def checkpoint(self, path: str, step: int) -> None:
        """Record where a checkpoint of a step is."""
        self._step = step
        self._tell("checkpoint", path=path, step=step)

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        """End the run and wait for the trackers, seconds at most; once, later calls do nothing."""
        couriers, until = self._couriers, time.monotonic() + _PATIENCE_S
        self._tell("end", state=state, result=dict(result))
        self._couriers = []
        for courier in couriers:
            courier.close()
        for courier in couriers:
            courier.wait(until)

    def _tell(self, call: str, **what: Any) -> None:
        for courier in self._couriers:
            courier.tell(json.dumps({"call": call, **what}, default=str))


class _Courier:
    """Brings records to the process of one tracker, in a thread of its own."""

    def __init__(self, name: TrackerName, folder: Path) -> None:
        self._name, self._dropped = name, 0
        self._records: queue.Queue[str | None] = queue.Queue()
        self._log = folder / TRACKERS_FOLDER / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "trainer.telemetry.tracker_process", name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for training, which then ends it.
                )
        except OSError as error:
            self._warn(f"could not be started: {error}")
            return
        threading.Thread(target=self._bring, args=[self._process], daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=[self._process], daemon=True)
        self._listener.start()

    def tell(self, record: str) -> None:
        """Have a record brought; does not wait."""
        if self._process is None:
            return
        if self._records.qsize() < _WAITING:
            self._records.put(record)
        else:
            self._dropped += 1

    def close(self) -> None:
        """No record will follow."""
        self._records.put(None)

    def wait(self, until: float) -> None:
        """Wait for the tracker to have taken all; after that time, end it.

        Args:
            until: of the monotonic clock.
        """
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._warn(f"did not take all in {_PATIENCE_S:g} s; see {self._log}")
        self._listener.join(1)
        if self._dropped:
            self._warn(f"{self._dropped:,} records were dropped, since it was behind")

    def _bring(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        try:
            while (record := self._records.get()) is not None:
                process.stdin.write(record + "\n")
                process.stdin.flush()
            process.stdin.close()
        except OSError:  # It has ended; what it said is in the log.
            self._warn(f"has ended early; see {self._log}")
            self._process = None

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._warn(line.rstrip())

    def _warn(self, text: str) -> None:
        logger.warning("tracker %s: %s (training goes on)", self._name, text)
