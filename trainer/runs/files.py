"""The small files of a run's folder, read so that a damaged one is told of and ends nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from trainer.checkpoints.manifest import MANIFEST_FILE, Manifest
from trainer.checkpoints.store import Store
from trainer.reliability.ending import NOTE_FILE
from trainer.telemetry.metrics_file import METRICS_FILE

CONFIG, RESULT, ASKED, LOG = "config.yaml", "result.json", "asked.json", "log.txt"
MARKS = (CONFIG, RESULT, NOTE_FILE, ASKED, METRICS_FILE)
"""A folder that holds one of these is a run's."""
_TAIL_BYTES = 1 << 16
_MOST = 1 << 63


class RunFiles:
    """What the folder of one run holds.

    Args:
        folder: of the run.
        remote: look at checkpoints that are not on a disk of this machine too.
    """

    def __init__(self, folder: Path, *, remote: bool = False) -> None:
        self.folder, self._remote = folder, remote
        self.problems: list[str] = []
        """What could not be read, in words."""

    def config(self) -> dict[str, Any]:
        """The config by section; empty where there is none."""
        return self._mapping(CONFIG, yaml.safe_load)

    def object(self, name: str) -> dict[str, Any]:
        """A file of one JSON object; empty where there is none."""
        return self._mapping(name, json.loads)

    def last_row(self) -> dict[str, Any]:
        """The newest whole row of `metrics.jsonl`, of which the end alone is read."""
        try:
            with (self.folder / METRICS_FILE).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(METRICS_FILE, error)
            return {}
        for line in reversed(lines):
            row = parsed(line)
            if "step" in row:
                return row
        if lines:
            self.problems.append(f"{METRICS_FILE} holds no whole row")
        return {}

    def checkpoints(self, folder: str) -> tuple[int, list[Manifest]]:
        """How many complete checkpoints there are, and the manifests of sound ones, oldest first.

        Args:
            folder: `checkpoint.folder` of the config; empty for the run's own.
        """
        try:
            store = Store(folder or str(self.folder / "checkpoints"))
            if not store.is_local and not self._remote:
                self.problems.append(f"checkpoints at {folder} were not looked at (--remote does)")
                return 0, []
            names = store.complete()
        # A remote store raises what its package likes.
        except Exception as error:  # noqa: BLE001
            self._note("checkpoints", error)
            return 0, []
        sound, damaged = [], []
        for name in names:
            path = store.path(name, MANIFEST_FILE)
            try:
                sound.append(store.manifest(name))
            except Exception as error:  # noqa: BLE001
                damaged.append(f"{name} {str(error).removeprefix(path).strip()}")
        if damaged:
            self.problems.append(
                f"{len(damaged)} of {len(names)} checkpoints cannot be read: {damaged[0]}"
            )
        return len(names), sound

    def written(self) -> float | None:
        """When one of its files or its checkpoints was last written, in seconds of the epoch."""
        times = []
        for path in (self.folder, self.folder / "checkpoints"):
            try:
                times += [entry.stat().st_mtime for entry in path.iterdir()]
            except OSError:
                continue
        return max(times, default=None)

    def time_of(self, name: str) -> float:
        """When a file was last written; 0 where it is not there."""
        try:
            return (self.folder / name).stat().st_mtime
        except OSError:
            return 0.0

    def text(self, name: str) -> str:
        """A small file's text; empty where it is not there or cannot be read."""
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            self._note(name, error)
            return ""

    def _mapping(self, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            found = parse((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(name, error)
            return {}
        except (yaml.YAMLError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.problems.append(f"{name} is damaged")
            return {}
        return found

    def _note(self, name: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.problems.append(f"{name} cannot be read: {reason or type(error).__name__}")


def parsed(line: str | bytes) -> dict[str, Any]:
    """A row of `metrics.jsonl`; empty where it is damaged, without `step` where that is."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(row, dict):
        return {}
    step = row.get("step")
    whole = isinstance(step, int) and not isinstance(step, bool)
    return row if whole else {name: value for name, value in row.items() if name != "step"}


def number(section: dict[str, Any], name: str) -> float | None:
    """A finite number by its dotted name; None where there is none."""
    found = value_at(section, name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    # JSON has whole numbers that no float holds.
    return found if abs(found) < _MOST and math.isfinite(found) else None


def value_at(section: dict[str, Any], name: str) -> Any:
    """A value by its dotted name; None where there is none."""
    found: Any = section
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
