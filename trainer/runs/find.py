"""Where runs are: below a folder, those of sweeps too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.reliability.lock import LOCK_FILE
from trainer.runs.files import MARKS

DEFAULT_FOLDER = "runs"
_MANY = "runs"
"""A sweep's folder has its runs in one of this name, and a lock of its own."""

_MLFLOW = "meta.yaml"
"""In each folder of an MLflow store, which may keep configs and results of runs that are here."""


def find_runs(folders: Sequence[str]) -> Iterator[Path]:
    """The folders of all runs below some folders, or that these are, each once.

    Folders that cannot be looked into are passed over; a run's own is not looked through.

    Args:
        folders: that have to be there.

    Raises:
        ValueError: one is not there.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is no folder; give one that holds runs, or a run's own")
    seen: set[str] = set()
    for folder in folders:
        for place, below, files in os.walk(folder, followlinks=True):
            below.sort()
            real = os.path.realpath(place)
            if real in seen:  # A link back, or a folder given within another.
                below.clear()
                continue
            seen.add(real)
            if _MLFLOW in files:
                below.clear()
                continue
            if is_run(files, below):
                below.clear()
                yield Path(place)


def is_run(files: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether a folder that holds these files and folders is a run's."""
    begun = LOCK_FILE in files and _MANY not in folders
    return begun or any(mark in files for mark in MARKS)


def find_run(given: str) -> Path:
    """The folder of a run.

    Args:
        given: its path, its path below `runs`, or a name that only one run below `runs` has.

    Raises:
        ValueError: there is none, or more than one.
    """
    for path in (Path(given), Path(DEFAULT_FOLDER, given)):
        if path.is_dir() and next(find_runs([str(path)]), None) == path:
            return path
    known = list(find_runs([DEFAULT_FOLDER])) if Path(DEFAULT_FOLDER).is_dir() else []
    named = [path for path in known if path.name == given]
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(f"{given} is the name of {', '.join(map(str, named))}; give the path")
    raise ValueError(
        f"{given} is no run: neither a run's folder nor the name of one below {DEFAULT_FOLDER}/; "
        "`dare runs` lists them"
    )
