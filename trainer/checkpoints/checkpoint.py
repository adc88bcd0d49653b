"""The checkpoints of a run: written by all ranks, complete or not there, read without code."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torchrec.distributed.model_parallel import DistributedModelParallel

from modules.norm import average_running_statistics
from trainer.checkpoints.config import CheckpointConfig
from trainer.checkpoints.manifest import DamagedCheckpointError, FileDigest, Manifest
from trainer.checkpoints.row_state import read_row_state, take_out_row_states
from trainer.checkpoints.snapshot import (
    copy_snapshot,
    set_generators,
    take_snapshot,
    without_absent_generators,
)
from trainer.checkpoints.store import Store
from trainer.checkpoints.tensor_files import TensorReader
from trainer.checkpoints.writer import CheckpointWriter, reason_of
from trainer.distributed import RunContext
from trainer.optim import Optimizers
from trainer.sharding import average_replicas, set_optimizer_step

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run; making it is a collective.

    A context manager around training: leaving it waits for a save that is still being written.

    Args:
        folder: a local path or a URL.
        config: which stay.
        context: of this process.
        run: name of the run, which its checkpoints tell.

    Raises:
        ValueError: the scheme of the URL is not known.
    """

    def __init__(
        self, folder: str, config: CheckpointConfig, context: RunContext, run: str = ""
    ) -> None:
        self.store, self.config, self.context, self.run = Store(folder), config, context, run
        # What is written beside training needs a group of its own: its collectives come in between.
        group = dist.new_group(backend="gloo") if config.asynchronous else context.control
        self._writer = CheckpointWriter(self.store, context, group, prune=self._prune)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except RuntimeError as error:
            if kind is None:
                raise
            logger.warning("%s", error)  # The error that ended training is told by who raised it.

    def complete(self) -> list[tuple[str, Manifest]]:
        """Names and manifests of complete checkpoints, oldest first; damaged ones are left out."""
        found = []
        for name in self.store.complete():
            try:
                found.append((name, self.store.manifest(name)))
            except DamagedCheckpointError as error:
                logger.warning("%s: it is left out", error)
        return found

    def latest(self) -> tuple[str, Manifest] | None:
        """The newest complete checkpoint; a collective."""
        return self.context.from_main(self._latest)

    def best(self) -> tuple[str, Manifest] | None:
        """The checkpoint with the highest validation AUC, the newest of equals; a collective."""
        return self.context.from_main(self._best)

    def _latest(self) -> tuple[str, Manifest] | None:
        complete = self.complete()
        return complete[-1] if complete else None

    def _best(self) -> tuple[str, Manifest] | None:
        scored = [(n, m) for n, m in self.complete() if m.metrics.get("auc", -1.0) >= 0]
        return max(scored, key=lambda entry: (entry[1].metrics["auc"], entry[1].step), default=None)

    def find(self, name: str) -> str:
        """The name of a checkpoint; a collective.

        Args:
            name: `best`, `last`, or the name itself.

        Raises:
            ValueError: there is none.
        """
        return self.context.from_main(lambda: self._find(name))

    def _find(self, name: str) -> str:
        known = {name: name for name, _ in self.complete()}
        latest = self._latest()
        for alias, entry in (("best", self._best() or latest), ("last", latest)):
            if entry is not None:
                known[alias] = entry[0]
        if name not in known:
            held = ", ".join(known) or "no checkpoint: train the run first, or give its config.yaml"
            raise ValueError(f"--at is {name}; {self.store.folder} has {held}")
        return known[name]

    def set_aside(self, name: str) -> None:
        """Let a damaged checkpoint count no more, without deleting it; a collective."""
        self.context.wait()  # A rank that still reads it must find its damage, not nothing.
        self.context.on_main(lambda: self.store.set_aside(name))

    def clear(self) -> None:
        """Remove all checkpoints; a collective.

        Raises:
            ValueError: one is another run's.
        """
        self.context.on_main(self._remove_all)

    def _remove_all(self) -> None:
        self._check_owner()
        for name in self.store.complete():
            self.store.remove(name)
        self.store.remove_incomplete()

    def save(
        self,
        model: DistributedModelParallel,
        optimizers: Optimizers,
        manifest: Manifest,
        beside: Mapping[str, str],
        *,
        prune: bool = True,
    ) -> None:
        """Write a checkpoint, or begin to; a collective.

        Args:
            model: sharded model.
            optimizers: whose state is saved.
            manifest: what to say of it; `files` is filled in here.
            beside: text files to write with it, by name; rank 0's count.
            prune: remove older ones that need not stay then; otherwise `set_metrics` does.

        Raises:
            RuntimeError: this save, or the asynchronous one before it, could not be written; what
                was complete before is as it was.
        """
        self.wait()
        with self.context.progress.phase("saving"):
            average_running_statistics(model)
            average_replicas(model)
            snapshot = take_snapshot(model, optimizers, self.context)
            if self.config.asynchronous:
                self._writer.start(copy_snapshot(snapshot), manifest, beside, prune=prune)
            else:
                self._writer.write(snapshot, manifest, beside, prune=prune)

    def wait(self) -> None:
        """Wait for the save that is being written, if there is one.

        Raises:
            RuntimeError: it could not be written.
        """
        with self.context.progress.phase("saving"):
            self._writer.wait()

    def _prune(self) -> None:
        """Remove checkpoints that need not stay."""
        try:
            best = self._best()
            for old in self.store.complete()[: -self.config.keep_last]:
                if best is None or old != best[0]:
                    self.store.remove(old)
        except (OSError, ValueError) as error:  # What is complete stays so all the same.
            logger.warning("old checkpoints stay behind: %s", error)

    def set_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Let a step's checkpoint tell its evaluation; remove what need not stay. A collective.

        Where it is still being written, that follows, and what goes wrong `wait` raises.

        Raises:
            RuntimeError: that could not be written.
        """
        finite = {metric: value for metric, value in metrics.items() if math.isfinite(value)}
        self._writer.write_scores(self.store.name_of(step), finite)

    def remove(self, step: int) -> None:
        """Remove the checkpoint of a step once it is written; a collective.

        Raises:
            RuntimeError: it could not be written.
        """
        self.wait()
        self.context.on_main(lambda: self.store.remove(self.store.name_of(step)))

    def restore(
        self, name: str, model: DistributedModelParallel, optimizers: Optimizers
    ) -> Manifest:
        """Read tables, dense weights, optimizer state and random generators; a collective.

        Any number of ranks and any plan may read what any other has written.

        Raises:
            DamagedCheckpointError: a file is missing, cut off or changed.
            ValueError: it is another run's, or holds something else than tensors; or the
                optimizers, or the model's tensors, have other names or shapes.
            RuntimeError: a file could not be read.
        """
        with self.context.progress.phase("restoring"):
            return self._restore(name, model, optimizers)

    def _restore(
        self, name: str, model: DistributedModelParallel, optimizers: Optimizers
    ) -> Manifest:
        path = self.store.path(name)
        manifest = self.context.from_main(lambda: self.store.manifest(name))
        self.check_run(name, manifest)
        for kind, here in optimizers.config.names().items():
            if manifest.optimizers[kind] != here:
                raise ValueError(
                    f"optim.{kind}.name is {here}, {path} was written with "
                    f"{manifest.optimizers[kind]}; resume with that, or start a new run"
                )
        self._check(name, manifest.files)
        optimizers.dense.init_state()
        reader = TensorReader(path)
        metadata = reader.read_metadata()  # Where DCP itself fails to, it tries another file.
        snapshot = without_absent_generators(
            take_snapshot(model, optimizers, self.context), set(metadata.state_dict_metadata)
        )
        row_states = take_out_row_states(snapshot, metadata)
        try:
            load(snapshot, storage_reader=reader, process_group=self.context.control)
            for state in row_states:
                read_row_state(state, metadata, path)
        except CheckpointException as failed:
            raise ValueError(
                f"{path} does not fit this config's model or is damaged: {reason_of(failed)}"
            ) from failed
        set_generators(snapshot, self.context)
        set_optimizer_step(model, manifest.step)
        return manifest

    def check_owner(self) -> None:
        """Refuse a folder with a checkpoint that says it is another run's; a collective.

        Raises:
            ValueError: one is another run's.
        """
        self.context.on_main(self._check_owner)

    def _check_owner(self) -> None:
        for name in self.store.complete():
            try:
                manifest = self.store.manifest(name)
            except ValueError:  # It does not say whose it is.
                continue
            self.check_run(name, manifest)

    def check_run(self, name: str, manifest: Manifest) -> None:
        """Refuse another run's checkpoint in a folder that the config names.

        The run's own folder is moved and renamed with what is in it.

        Raises:
            ValueError: it is of a run of another name.
        """
        if self.config.folder and manifest.run not in ("", self.run):
            raise ValueError(
                f"{self.store.path(name)} is of run {manifest.run!r}, this one is {self.run!r}: "
                f"choose another checkpoint.folder, or give --name {manifest.run} to go on with "
                "that run"
            )

    def _check(self, name: str, files: Mapping[str, FileDigest]) -> None:
        """Compare all files with their digests, each by one rank."""
        mine = sorted(files)[self.context.rank :: self.context.world]
        found, failed = {}, {}
        for file in mine:
            try:
                found[file] = self.store.check(name, file, files[file])
            except OSError as error:  # No damage: it may be read again.
                failed[self.store.path(name, file)] = str(error)
        for path, reason in self.context.gather(failed).items():
            raise RuntimeError(f"{path} could not be read: {reason}; see to its storage")
        for problem in self.context.gather(found).values():
            if problem:
                raise DamagedCheckpointError(f"{problem}: the checkpoint is damaged")
