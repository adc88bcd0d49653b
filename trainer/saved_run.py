"""A run in its checkpoints: what they hold besides the model, and the newest that can be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.lockstep import BatchStream
from trainer.build import ShardedRun
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.manifest import DamagedCheckpointError, Manifest

logger = logging.getLogger(__name__)

_PLACE_FILE, _WINDOW_FILE = "loader.json", "telemetry.json"


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    step: int
    metrics: dict[str, float]
    """Of the step's evaluation; empty where none was due, or an end came before it was written."""
    seconds: float
    """Spent training before."""
    window: dict[str, float]
    """Of telemetry: the steps since its last log point."""


def save_run(
    checkpoints: Checkpoints,
    run: ShardedRun,
    stream: BatchStream,
    *,
    step: int,
    seconds: float,
    window: Mapping[str, float],
    beside: Mapping[str, str],
    prune: bool,
) -> None:
    """Write a checkpoint, or begin to; a collective.

    Args:
        checkpoints: of the run.
        run: what is saved.
        stream: whose place is saved.
        step: finished steps.
        seconds: spent training.
        window: of telemetry.
        beside: further text files by name; rank 0's count.
        prune: remove older checkpoints that need not stay then.

    Raises:
        RuntimeError: it could not be written; what was complete before is as it was.
    """
    place = stream.place_after(step)
    manifest = Manifest(
        run=checkpoints.run,
        step=step,
        samples=int(place["samples"]),
        world=checkpoints.context.world,
        seconds=seconds,
        optimizers=run.optimizers.config.names(),
        metrics={},
    )
    files = {_PLACE_FILE: json.dumps(place), _WINDOW_FILE: json.dumps(window), **beside}
    checkpoints.save(run.model, run.optimizers, manifest, files, prune=prune)


def resume_run(checkpoints: Checkpoints, run: ShardedRun, stream: BatchStream) -> Resumed | None:
    """Read the newest checkpoint that is whole; damaged ones are set aside. A collective.

    Args:
        checkpoints: of the run.
        run: what is read into.
        stream: which goes on at the checkpoint's place.

    Returns:
        Where the run goes on, None where it has no checkpoint yet.

    Raises:
        ValueError: all checkpoints are damaged, or one does not fit the run, or is another run's.
    """
    store = checkpoints.store
    checkpoints.check_owner()
    names = checkpoints.context.from_main(store.complete)
    for name in reversed(names):
        try:
            manifest = checkpoints.restore(name, run.model, run.optimizers)
        except DamagedCheckpointError as error:
            logger.warning("%s; it is set aside, the checkpoint before it is tried", error)
            checkpoints.set_aside(name)
            continue
        # Last, because restoring compares all files with their digests.
        stream.restore(json.loads(store.read(name, _PLACE_FILE)))
        window = json.loads(store.read(name, _WINDOW_FILE))
        logger.info("resumed %s at step %s", store.path(name), f"{manifest.step:,}")
        return Resumed(manifest.step, manifest.metrics, manifest.seconds, window)
    if names:
        raise ValueError(
            f"{store.folder}: every checkpoint is damaged ({len(names)}, set aside as damaged-*); "
            "--overwrite starts the run anew"
        )
    return None


def load_best(checkpoints: Checkpoints, run: ShardedRun, step: int) -> Manifest | None:
    """Read the best checkpoint, or the newest where none is scored; a collective.

    Args:
        checkpoints: of the run.
        run: what is read into.
        step: which it holds. It keeps that one where the best is that, or damaged.

    Returns:
        What the checkpoint says of itself, None where there is none.
    """
    best = checkpoints.best() or checkpoints.latest()
    if best is not None and best[1].step != step:
        try:
            checkpoints.restore(best[0], run.model, run.optimizers)
        except DamagedCheckpointError as error:
            logger.warning("%s; the last step is scored instead", error)
            best = checkpoints.latest()
    return best[1] if best else None
