"""The process of one tracker: takes records as lines of JSON, hands them on, outlives its failures.

What it prints on stdout is for the log of the run; what packages print goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.telemetry.trackers import TRACKERS_FOLDER, Tracker

_PAUSE_S = 30.0
"""How long a tracker that has failed is left alone; its records of that time are lost."""


class Delivery:
    """Hands records to a tracker, which may fail.

    Args:
        name: of the tracker.
        tracker: that takes them.
        say: tells the user a line.
    """

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._name, self._tracker, self._say = name, tracker, say
        self._begin: dict[str, Any] | None = None
        self._ended = False
        self._failed_at: float | None = None
        self.taken = self.lost = 0

    def take(self, record: dict[str, Any]) -> None:
        """Hand on one record."""
        call = record.pop("call")
        if call == "begin":
            self._begin = {**record, "folder": Path(record["folder"])}
        self._ended = self._ended or call == "end"
        if self._is_away() and call != "end":
            self.lost += 1
            return
        try:
            if self._begin is not None:
                self._start(self._begin)
                self._begin = None
            if call != "begin":
                getattr(self._tracker, call)(**record)
        # Whatever its package raises, or its server answers.
        except Exception as error:  # noqa: BLE001
            self.lost += 1
            if self._failed_at is None:
                self._say(f"{_line(error)}; tried again every {_PAUSE_S:g} s")
                sys.stderr.write(_without_secrets(traceback.format_exc()))
            self._failed_at = time.monotonic()
        else:
            self.taken += 1

    def close(self) -> None:
        """End the run, where its process went without a word, and tell what was lost."""
        if not self._ended:
            self.take({"call": "end", "state": "killed", "result": {}})
        if self.lost:
            self._say(f"{self.lost:,} of {self.lost + self.taken:,} records were not taken")

    def _is_away(self) -> bool:
        return self._failed_at is not None and time.monotonic() < self._failed_at + _PAUSE_S

    def _start(self, begin: dict[str, Any]) -> None:
        """Begin, and note what the tracker calls the run, for its next part."""
        path = begin["folder"] / TRACKERS_FOLDER / f"{self._name}.id"
        known = path.read_text().strip() if path.exists() else ""
        run_id = self._tracker.begin(run_id=known, **begin)
        if run_id != known:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(run_id + "\n")


def _line(error: Exception) -> str:
    """The first line of what an error says, as far as it is short."""
    lines = _without_secrets(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _without_secrets(text: str) -> str:
    """The text without users and passwords in addresses."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def make_tracker(name: str) -> Tracker:
    """The tracker of that name; its package is imported here."""
    if name == "torchx":
        from trainer.telemetry.torchx_tracker import TorchXTracker

        return TorchXTracker()
    if name == "mlflow":
        from trainer.telemetry.mlflow_tracker import MLflowTracker

        return MLflowTracker()
    from trainer.telemetry.wandb_tracker import WandbTracker

    return WandbTracker()


def main(name: str) -> None:
    """Take records until there are no more."""
    # Packages print to stdout as they like; only what is said on purpose goes there.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(text: str) -> None:
        out.write(text + "\n")

    delivery = Delivery(name, make_tracker(name), say)
    for line in sys.stdin:
        delivery.take(json.loads(line))
    delivery.close()


if __name__ == "__main__":
    main(sys.argv[1])
