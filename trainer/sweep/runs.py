"""Runs one after the other: those that are finished stay, those begun go on, the others are made.

A run is one call of `dare train`, in a process of its own or in this one. What was asked for is
written beside it, so that a later call sees whether it still is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import signal
import time
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from pipelines import storage
from pipelines.schema import load_schema
from trainer.arguments import parse_config
from trainer.checkpoints.store import Store
from trainer.config import TrainConfig
from trainer.json_files import read_object, write_json
from trainer.parsing import in_one_line
from trainer.sweep.inputs import files_of, version
from trainer.sweep.launch import Runner, last_error

logger = logging.getLogger(__name__)

_ASKED, _RESULT, _LOG = "asked.json", "result.json", "log.txt"
_VERSION = "version"
_PLACES = ("name", "out_dir", *(f"data.{name}" for name in ("train", "val", "test", "schema")))
_NEUTRAL = ("telemetry.", "watchdog.", "checkpoint.", "loop.check_loss_every")
"""Beginnings of fields that do not decide a result."""
_NEEDED = {"auc", "best_step"}
"""What every result has."""
_INTERRUPTED = (130, -signal.SIGINT)
_TERMINATED = (143, -signal.SIGTERM)

Keep = Literal["best", "none", "all"]


@dataclass(frozen=True)
class Run:
    """One call of `dare train`."""

    name: str
    """Of its folder."""
    options: tuple[str, ...]
    """All but its name and its folder."""
    asked: dict[str, Any]
    """What decides its result, by name."""


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    run: Run
    result: dict[str, Any] | None
    """What `result.json` holds; None where the run failed."""
    error: str
    """The last error line of a failed run."""
    log: Path
    """What it told."""


def read_options(options: Sequence[str]) -> tuple[TrainConfig, str]:
    """The config of a run and its YAML.

    Raises:
        ValueError: a field has a value it does not take, or that several runs cannot share.
    """
    try:
        config, text = parse_config(options)
    except ArgumentError as error:
        raise ValueError(in_one_line(error)) from error
    if config.checkpoint.folder:
        raise ValueError(
            f"checkpoint.folder is {config.checkpoint.folder}; several runs keep their checkpoints "
            "in their own folders: leave it empty"
        )
    return config, text


def read_run(options: Sequence[str]) -> dict[str, Any]:
    """What decides the result of a run, which is checked against its data.

    Returns:
        By dotted name all fields but places and logging, for those of the splits their files as
        `files_of` tells them; the digest of the data's `schema.json` as `dataset`, and this
        package's `version`.

    Raises:
        ValueError: a field has a value it does not take, or that does not fit the data.
    """
    config, text = read_options(options)
    # How many ranks a launcher starts, its runs will see.
    schema = load_schema(config.data.schema)
    config.check(schema, world=1)
    with storage.open_file(config.data.schema, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    asked = {
        name: value
        for name, value in _flat(yaml.safe_load(text))
        if name not in _PLACES and not name.startswith(_NEUTRAL)
    }
    files = files_of(config.data, schema)
    return {**asked, **files, "dataset": digest, _VERSION: version()}


def _flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def run_all(
    runs: Sequence[Run], folder: Path, runner: Runner, keep: Keep = "best"
) -> Iterator[Ended]:
    """Make the runs that are not there as asked, one after the other, and tell of each.

    Args:
        runs: in this order; names are unique.
        folder: of all their folders.
        runner: starts one.
        keep: which checkpoints of a finished run stay.

    Yields:
        A run that is over, kept ones too.

    Raises:
        KeyboardInterrupt: a run was interrupted.
    """
    kept = [_is_finished(folder / run.name, run.asked) for run in runs]
    left = kept.count(False)
    logger.info("%d runs, %d of them finished before", len(runs), len(runs) - left)
    best, best_auc, started, made = "none", -math.inf, time.monotonic(), 0
    for number, (run, finished) in enumerate(zip(runs, kept, strict=True), 1):
        title = f"run {number} of {len(runs)}: {run.name}"
        if finished:
            ended = _ended(folder / run.name, run, 0)
        else:
            logger.info("%s begins", title)
            ended = _make(folder / run.name, run, runner)
            made, left = made + 1, left - 1
        if ended.result is None:
            told = f"failed: {ended.error} ({ended.log})"
        else:
            _drop_checkpoints(folder / run.name, ended.result, keep)
            # JSON has no NaN.
            auc = math.nan if ended.result["auc"] is None else ended.result["auc"]
            told = f"AUC {auc:.5f}"
            if auc > best_auc:
                best, best_auc = f"{run.name} {auc:.5f}", auc
        ahead = f"{left} to make"
        if left and made:
            ahead += f", {tqdm.format_interval((time.monotonic() - started) / made * left)} left"
        logger.info("%s: %s; best so far %s; %s", title, told, best, ahead)
        yield ended


def _drop_checkpoints(folder: Path, result: dict[str, Any], keep: Keep) -> None:
    """Remove checkpoints that a finished run needs no more."""
    store = Store(str(folder / "checkpoints"))
    best = store.name_of(result["best_step"])
    for name in store.complete() if keep != "all" else ():
        if keep == "none" or name != best:
            store.remove(name)


def _is_finished(folder: Path, asked: dict[str, Any]) -> bool:
    return (folder / _RESULT).exists() and not _why_anew(folder, asked)


def _why_anew(folder: Path, asked: dict[str, Any]) -> str:
    """Why what this folder holds is of no use; empty where it is, or where there is no folder."""
    path, result = folder / _ASKED, folder / _RESULT
    if not path.exists():
        return f"{folder} has no {_ASKED}" if folder.exists() else ""
    before = read_object(path)
    if before is None:
        return f"{path} cannot be read"
    # Through JSON, as the other was: it knows no tuples.
    now = json.loads(json.dumps(asked))
    other = sorted(
        name
        for name in before.keys() | now
        if before.get(name) != now.get(name) and not name.startswith(_NEUTRAL)
    )
    if _VERSION in other:
        versions = f"{before.get(_VERSION) or 'none'}, this is {now.get(_VERSION) or 'none'}"
        other[other.index(_VERSION)] = f"{_VERSION} ({versions})"
    if other:
        return f"{folder} was run with another {', '.join(other)}"
    if result.exists() and _read_result(result) is None:
        return f"{result} cannot be read"
    return ""


def _read_result(path: Path) -> dict[str, Any] | None:
    """A run's result; None where it is not there, or not whole."""
    result = read_object(path)
    return None if result is None or not result.keys() >= _NEEDED else result


def _make(folder: Path, run: Run, runner: Runner) -> Ended:
    """Train: from the newest checkpoint, unless the folder holds a run of another config."""
    why = _why_anew(folder, run.asked)
    if why:
        logger.info("%s; run anew", why)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _ASKED, run.asked)
    place = [f"--out_dir={folder.parent}", f"--name={folder.name}", "--resume"]
    code = runner(["train", *run.options, *place], folder / _LOG)
    if code in _INTERRUPTED:
        raise KeyboardInterrupt
    if code in _TERMINATED:
        raise SystemExit(143)  # As for the sweep itself: a scheduler wants its machine back.
    return _ended(folder, run, code)


def _ended(folder: Path, run: Run, code: int) -> Ended:
    result, log = _read_result(folder / _RESULT), folder / _LOG
    if code == 0 and result is not None:
        return Ended(run, result, "", log)
    return Ended(run, None, last_error(log, code), log)
