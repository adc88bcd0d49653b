"""The training loop: restore, step, log, save, evaluate, stop, report."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from modules.norm import average_running_statistics
from pipelines.loader import Split
from pipelines.lockstep import BatchStream
from pipelines.overlap import attach_again, check_overlap, make_pipeline
from pipelines.schema import DatasetSchema, load_schema
from trainer.build import build, describe_sizes, expected_steps, open_stream
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.manifest import Manifest
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.evaluate import Evaluation, evaluate
from trainer.outcome import finite, leave_result, make_result, told, write_json
from trainer.reliability.divergence import LossWatch, check_scores
from trainer.report.attention_map import planted_beside
from trainer.sharding import average_replicas, set_optimizer_step
from trainer.task import StepOutput
from trainer.telemetry.step_probe import StepProbe
from trainer.telemetry.telemetry import Telemetry

logger = logging.getLogger(__name__)

_PLACE_FILE, _WINDOW_FILE = "loader.json", "telemetry.json"


class Trainer:
    """One run, from its config to its result.

    Args:
        config: of the run.
        context: of this process.
        config_yaml: the whole config, as it is written beside the results.

    Raises:
        ValueError: the config does not fit the data.
    """

    def __init__(self, config: TrainConfig, context: RunContext, config_yaml: str) -> None:
        self.config, self.context, self.config_yaml = config, context, config_yaml
        self.schema: DatasetSchema = load_schema(config.data.schema)
        config.check(self.schema, context.world)
        self.folder = Path(config.out_dir) / config.name
        self.run = build(config, self.schema, context)
        self.checkpoints = Checkpoints(
            config.checkpoint.folder or str(self.folder / "checkpoints"), config.checkpoint, context
        )
        self.telemetry_window: dict[str, float] = {}
        self.step, self.seconds = 0, 0.0
        self.metrics: dict[str, float] = {}

    @functools.cached_property
    def train_stream(self) -> BatchStream:
        """Batches of all epochs; scoring a split never opens them."""
        config = self.config
        return open_stream(config, "train", self.schema, self.context, epochs=config.loop.epochs)

    def check_data(self) -> None:
        """Look for the files of every split, so that none is missed after hours of training.

        Raises:
            ValueError: a split has none, or their columns do not fit the layout.
        """
        assert self.train_stream.batches == 0
        for split in ("val", "test") if self.config.data.test else ("val",):
            open_stream(self.config, split, self.schema, self.context)

    def train(self, *, resume: bool) -> dict[str, Any]:
        """Train to the end and leave `result.json` and `report.html`; a collective.

        Args:
            resume: go on from the newest checkpoint, where there is one.

        Returns:
            What `result.json` holds.

        Raises:
            ValueError: `resume` is not set, and the folder of checkpoints is not empty.
            RuntimeError: a loss or a score is not finite, a collection lost its overlap, or a
                checkpoint could not be written.
        """
        if resume:
            self._resume()
        elif self.checkpoints.latest() is not None:
            raise ValueError(
                f"{self.checkpoints.store.folder} holds checkpoints; --resume goes on with them, "
                "--overwrite deletes them, or choose another checkpoint.folder"
            )
        self._describe()
        telemetry = Telemetry(
            self.config.telemetry,
            folder=self.folder,
            rank=self.context.rank,
            world=self.context.world,
            device=self.context.device,
            start_step=self.step,
            window=self.telemetry_window,
            total_steps=expected_steps(self.config, self.schema, self.context.world),
        )
        with self.checkpoints, telemetry:
            self._steps(telemetry)
            if self.step == 0:
                raise ValueError(f"data.train: {self.config.data.train} holds no request")
            self._end(telemetry)
        return self._finish(telemetry)

    def score(self, split: Split, checkpoint: str) -> dict[str, Any]:
        """Score a split with a checkpoint of this run; a collective.

        Args:
            split: which.
            checkpoint: `best` by validation AUC, `last`, or the name of a checkpoint's folder.

        Raises:
            ValueError: there is no such checkpoint.
        """
        found = self.checkpoints.find(checkpoint)
        manifest = self.load(found)
        metrics = self.evaluate(split).metrics
        scored = {"name": self.config.name, "split": split, "checkpoint": found, **metrics}
        scored |= {"oracle_auc": self.schema.oracle.get(split), "steps": manifest.step}
        return finite(scored)

    def _steps(self, telemetry: Telemetry) -> None:
        config, started = self.config, time.perf_counter()
        limit = max(0, config.loop.steps - self.step) if config.loop.steps else None
        batches = itertools.islice(self.train_stream, limit)
        pipeline = make_pipeline(
            self.run.model, self.run.optimizers.combined, self.context.device, config.loop.overlap
        )
        probe = StepProbe(config.telemetry, self.context)
        self.run.model.train()
        losses = LossWatch(self.context.device)
        first, waited = True, self.train_stream.waited_s
        while True:
            rates = self.run.optimizers.set_learning_rates(self.step)
            try:
                with probe.step(self.step + 1):
                    output: StepOutput = pipeline.progress(batches)
            except StopIteration:
                break
            if first:
                check_overlap(pipeline, self.run.model)
                first = False
            self.step += 1
            if self._due(self.run.placement.figures.sync_every):
                average_replicas(self.run.model)
            losses.add(output.loss + output.auxiliary_loss)
            if self._due(config.loop.check_loss_every):
                losses.check(self.step)
            telemetry.step(
                self.step,
                loss=output.loss,
                weight=output.weight_T.sum(),
                samples=output.label_T.numel(),
                behaviours=output.num_behaviours,
                data_wait_s=self.train_stream.waited_s - waited,
                scalars=lambda rates=rates: {  # type: ignore[misc]
                    **{f"train/learning_rate_{kind}": rate for kind, rate in rates.items()},
                    "train/behaviour_imbalance": self.train_stream.take_imbalance(),
                    **probe.scalars(),
                },
            )
            waited = self.train_stream.waited_s
            if self._due(config.loop.evaluate_every) or self._due(config.checkpoint.every):
                self.seconds += time.perf_counter() - started
                pipeline.detach()
                losses.check(self.step)
                with telemetry.paused():
                    if self._due(config.loop.evaluate_every):
                        self._evaluate(telemetry)
                    self._save(telemetry)
                attach_again(pipeline, self.run.model)
                waited, started = self.train_stream.waited_s, time.perf_counter()
        pipeline.detach()
        losses.check(self.step)
        self.seconds += time.perf_counter() - started

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _evaluate(self, telemetry: Telemetry) -> None:
        self.metrics = self.evaluate("val").metrics
        check_scores(self.metrics, self.step)
        telemetry.log(self.step, {f"eval/{k}": value for k, value in told(self.metrics).items()})

    def _end(self, telemetry: Telemetry) -> None:
        """Leave a checkpoint of the last step, with its evaluation."""
        self.checkpoints.wait()
        latest = self.checkpoints.latest()
        if latest is None or latest[1].step < self.step:
            self._evaluate(telemetry)
            self._save(telemetry)
        elif not latest[1].metrics:
            self._evaluate(telemetry)
            self.checkpoints.set_metrics(latest[0], self._finite_metrics())

    def _finite_metrics(self) -> dict[str, float]:
        return {name: value for name, value in self.metrics.items() if math.isfinite(value)}

    def _save(self, telemetry: Telemetry) -> None:
        """Save; the checkpoint carries the metrics of this step's evaluation, if there was one."""
        place = self.train_stream.place_after(self.step)
        manifest = Manifest(
            step=self.step,
            samples=int(place["samples"]),
            world=self.context.world,
            seconds=self.seconds,
            optimizers=self.config.optim.names(),
            metrics=self._finite_metrics(),
        )
        beside = {}
        if self.context.is_main:
            beside = {
                _PLACE_FILE: json.dumps(place),
                _WINDOW_FILE: json.dumps(telemetry.window()),
                "config.yaml": self.config_yaml,
                "plan.json": (self.folder / "plan.json").read_text(),
            }
        self.checkpoints.save(self.run.model, self.run.optimizers, manifest, beside)
        telemetry.trackers.checkpoint(self.checkpoints.store.path_of(self.step), self.step)
        self.metrics = {}

    def evaluate(self, split: Split) -> Evaluation:
        """Score a split with the model as it is; a collective."""
        average_running_statistics(self.run.model)
        average_replicas(self.run.model)
        config = self.config
        evaluation = evaluate(
            self.run,
            open_stream(config, split, self.schema, self.context),
            self.context,
            config.loop,
            history_length=config.data.history_length,
            # What is planted goes by category id, which hashing changes.
            planted=planted_beside(config.data.schema) if config.data.ids == "check" else None,
        )
        # FBGEMM's CUDA lookups count a step each time they run forward, and Adam corrects by it.
        set_optimizer_step(self.run.model, self.step)
        return evaluation

    def _resume(self) -> None:
        latest = self.checkpoints.latest()
        if latest is None:
            logger.info("%s has no checkpoint yet: training starts at step 0", self.folder)
            return
        name, store = latest[0], self.checkpoints.store
        manifest = self.load(name)  # First, because it compares all files with their digests.
        self.train_stream.restore(json.loads(store.read(name, _PLACE_FILE)))
        self.telemetry_window = json.loads(store.read(name, _WINDOW_FILE))
        self.step, self.seconds = manifest.step, manifest.seconds
        logger.info("resumed %s at step %s", store.path(name), f"{self.step:,}")

    def load(self, name: str) -> Manifest:
        """Read a checkpoint into the model and its optimizers; a collective."""
        return self.checkpoints.restore(name, self.run.model, self.run.optimizers)

    def _describe(self) -> None:
        """Write what the run is before it starts, and log its sizes."""
        logger.info("%s: %s", self.folder, describe_sizes(self.run, self.schema, self.context))
        if self.context.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(self.config_yaml)
            write_json(self.folder / "plan.json", self.run.placement.rows)

    def _finish(self, telemetry: Telemetry) -> dict[str, Any]:
        """Score the test split with the best checkpoint, and write result and report."""
        best = self.checkpoints.best() or self.checkpoints.latest()
        if best is not None and best[1].step != self.step:
            self.load(best[0])
        split: Split = "test" if self.config.data.test else "val"
        evaluation = self.evaluate(split)
        result = make_result(
            self.config,
            self.context,
            split,
            evaluation.metrics,
            oracle_auc=self.schema.oracle.get(split),
            best=best[1] if best else None,
            step=self.step,
            samples=self.train_stream.samples,
            seconds=self.seconds,
        )
        if self.context.is_main:
            leave_result(
                self.folder, result, evaluation, self.run.placement, config_yaml=self.config_yaml
            )
        telemetry.trackers.end("finished", result)
        return result
