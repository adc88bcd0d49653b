"""Writes a checkpoint from all ranks: complete or not there; at once, or beside training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.checkpoints.manifest import MANIFEST_FILE, Manifest
from trainer.checkpoints.snapshot import Snapshot
from trainer.checkpoints.store import Store
from trainer.checkpoints.tensor_files import TensorWriter
from trainer.distributed import RunContext
from trainer.reliability.ending import SaveError

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes one checkpoint at a time.

    Args:
        store: where to.
        context: of this process.
        group: a gloo group of all ranks, which nothing else uses meanwhile; None for one rank.
        prune: removes checkpoints that need not stay; for rank 0.
    """

    def __init__(
        self,
        store: Store,
        context: RunContext,
        group: dist.ProcessGroup | None,
        *,
        prune: Callable[[], None],
    ) -> None:
        self._store, self._context, self._group, self._prune = store, context, group, prune
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def start(
        self, snapshot: Snapshot, manifest: Manifest, beside: Mapping[str, str], *, prune: bool
    ) -> None:
        """Begin to write, after the one before has been waited for; the arguments of `write`."""
        assert self._writing is None
        self._writing = self._thread.submit(self.write, snapshot, manifest, beside, prune=prune)

    def write_scores(self, name: str, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint's scores, then remove what need not stay; a collective.

        Where something is being written this follows, and `wait` raises what it raises.

        Args:
            name: of the checkpoint, which is complete by then.
            metrics: all finite.

        Raises:
            SaveError: they could not be written.
        """
        before = self._writing
        if before is None:
            self._write_scores(name, metrics)
        else:
            self._writing = self._thread.submit(self._follow, before, name, metrics)

    def _follow(self, before: Future[None], name: str, metrics: Mapping[str, float]) -> None:
        before.result()  # Without a checkpoint there is nothing to score.
        self._write_scores(name, metrics)

    def _write_scores(self, name: str, metrics: Mapping[str, float]) -> None:
        try:
            self._context.on_main(lambda: self._store.write_scores(name, metrics), self._group)
        except OSError as error:
            raise SaveError(
                f"the evaluation of {self._store.path(name)} could not be written: {error}; "
                "free space, then --resume"
            ) from error
        self._context.on_main(self._prune, self._group)

    def wait(self) -> None:
        """Wait for what `start` has begun and what follows it, and raise what it raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def write(
        self, snapshot: Snapshot, manifest: Manifest, beside: Mapping[str, str], *, prune: bool
    ) -> None:
        """Write a checkpoint; a collective.

        Args:
            snapshot: which nobody changes meanwhile.
            manifest: what to say of it; `files` is filled in here.
            beside: text files to write with it, by name; rank 0's count.
            prune: remove what need not stay then.

        Raises:
            SaveError: it could not be written; what was complete before is as it was.
        """
        started, store, context = time.perf_counter(), self._store, self._context
        name = store.name_of(manifest.step)
        aside = store.aside(name)
        try:
            context.on_main(lambda: self._make_room(name), self._group)
            writer = TensorWriter(store.path(aside), sync=store.is_local)
            save(snapshot, storage_writer=writer, process_group=self._group)
            files = context.gather(writer.written, self._group)
            whole = replace(manifest, files=files)
            context.on_main(lambda: self._finish(name, whole, beside), self._group)
        except (CheckpointException, OSError) as error:  # The first is no Exception.
            self._discard(aside)
            if context.stop.at_once:  # DCP takes a second Ctrl-C for a failure of its own.
                raise KeyboardInterrupt from error
            raise SaveError(self._failure(name, error)) from error
        logger.info("checkpoint %s in %.1f s", store.path(name), time.perf_counter() - started)
        if prune:
            context.on_main(self._prune, self._group)

    def _make_room(self, name: str) -> None:
        self._store.remove_incomplete()
        self._store.make(name)

    def _finish(self, name: str, manifest: Manifest, beside: Mapping[str, str]) -> None:
        """Write the small files, the manifest last."""
        aside = self._store.aside(name)
        written = {file: self._store.write(aside, file, text) for file, text in beside.items()}
        manifest = replace(manifest, files={**manifest.files, **written})
        self._store.write(aside, MANIFEST_FILE, manifest.to_json())
        self._store.publish(name)

    def _discard(self, aside: str) -> None:
        """Free what a failed save has taken; it would be ignored anyway."""
        if self._context.is_main:
            try:
                self._store.remove(aside)
            except OSError as error:
                logger.warning("%s stays behind: %s", self._store.path(aside), error)

    def _failure(self, name: str, error: BaseException) -> str:
        complete = self._store.complete()
        left = f"{complete[-1]} is the newest complete one" if complete else "there is no other yet"
        return (
            f"checkpoint {self._store.path(name)} could not be written: {reason_of(error)}; "
            f"{left}; free space or set checkpoint.folder, then --resume"
        )


def reason_of(error: BaseException) -> str:
    """The first line of what went wrong, on the first rank where DCP gathered several."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return str(error).partition("\n")[0]
