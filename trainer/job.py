"""A training job as a scheduler sees it: one folder, one lock, one ending, one exit code."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from trainer.checkpoints.writable import check_writable
from trainer.config import TrainConfig
from trainer.distributed import run_context
from trainer.loop import Trainer
from trainer.reliability.ending import NOTE_FILE, is_broken_connection, leave_note
from trainer.reliability.lock import LOCK_FILE, locked_by_main
from trainer.reliability.stopping import Stopped
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


def train_job(
    config: TrainConfig, config_yaml: str, *, resume: bool, overwrite: bool
) -> dict[str, Any]:
    """Train a run in its folder.

    Args:
        config: of the run.
        config_yaml: the same, as it is written beside the results.
        resume: go on from the newest checkpoint, where there is one.
        overwrite: delete what the folder holds first.

    Returns:
        What `result.json` holds.

    Raises:
        Stopped: it was asked to, and has saved its step.
        ValueError: a mistake in the config or the data, or the folder is in use.
        RuntimeError: training failed.
    """
    folder = Path(config.out_dir) / config.name
    with (
        run_context(config.watchdog, folder) as context,
        context.stop.listening(tells=context.is_main),
    ):
        configure_logging(context.rank)
        _check_folder(folder, resume=resume, overwrite=overwrite)
        trainer = Trainer(config, context, config_yaml)
        trainer.check_data()
        check_writable(trainer.checkpoints.store, context)
        return _in_folder(trainer, folder, resume=resume, overwrite=overwrite)


def _in_folder(trainer: Trainer, folder: Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """Hold the folder, and a local one of checkpoints, and train; a collective."""
    context, store = trainer.context, trainer.checkpoints.store
    with contextlib.ExitStack() as held:
        held.enter_context(locked_by_main(folder, "choose another --name", context))
        if store.is_local and Path(store.folder).resolve() != folder.resolve():
            kept, otherwise = Path(store.folder), "choose another checkpoint.folder"
            held.enter_context(locked_by_main(kept, otherwise, context))
        # Only now: a mistake in the config must not cost the old run.
        if overwrite:
            trainer.checkpoints.clear()
            context.on_main(lambda: _empty(folder))
        context.on_main(lambda: (folder / NOTE_FILE).unlink(missing_ok=True))
        try:
            result = _train(trainer, folder, resume=resume)
        except Stopped as stopped:
            _tell_stopped(trainer, folder, stopped)
            raise
        context.wait()  # A rank that leaves early could end the job before the report is written.
    return result


def _train(trainer: Trainer, folder: Path, *, resume: bool) -> dict[str, Any]:
    """Train, and leave a note beside the run if it fails."""
    try:
        return trainer.train(resume=resume)
    except KeyboardInterrupt:
        leave_note(folder, "interrupted", trainer.step, "Ctrl-C twice: left without a save")
        raise
    except (ValueError, RuntimeError, OSError) as error:
        if trainer.context.world == 1 or not is_broken_connection(error):
            leave_note(folder, "failed", trainer.step, str(error))
        elif not (folder / NOTE_FILE).exists():  # The rank that has failed knows more.
            leave_note(folder, "failed", trainer.step, "the connection to another rank broke")
        raise


def _tell_stopped(trainer: Trainer, folder: Path, stopped: Stopped) -> None:
    at = f"at step {trainer.step:,}, which is saved" if trainer.step else "before its first step"
    if trainer.context.is_main:
        leave_note(folder, stopped.state, trainer.step, f"{stopped} {at}")
        logger.warning("%s %s; --resume goes on", stopped, at)
    trainer.context.wait()


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a run, unless it is said what to do with it."""
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    for link in (folder, folder / "checkpoints"):
        if overwrite and link.is_symlink():
            raise ValueError(
                f"{link} is a link; --overwrite deletes what is in a folder of its own: remove the "
                "link, or choose another --name"
            )
    if (folder / "config.yaml").exists() and not resume and not overwrite:
        raise ValueError(
            f"{folder} holds a run; --resume goes on with it, --overwrite deletes it, "
            "or choose another --name"
        )


def _empty(folder: Path) -> None:
    """Delete the run that a folder holds, nothing else, and not the locks that are held."""
    if (folder / "config.yaml").exists():
        _empty_but_for_locks(folder)


def _empty_but_for_locks(folder: Path) -> None:
    """Delete what a folder holds but locks: another file of the name would be another lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _empty_but_for_locks(path)
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name != LOCK_FILE:
            path.unlink()
