"""The training loop: restore, step, log, save, evaluate, stop, report."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from pathlib import Path
from typing import Any

from modules.norm import average_running_statistics
from pipelines.loader import BatchStream, Split
from pipelines.overlap import check_overlap, make_pipeline
from pipelines.schema import DatasetSchema, load_schema
from trainer.attention_map import planted_beside
from trainer.build import build, open_stream
from trainer.checkpoint import Checkpoints, Manifest
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.divergence import LossWatch, check_scores
from trainer.evaluate import Evaluation, evaluate
from trainer.report import ReportData, write_report
from trainer.result import finite, write_json
from trainer.sharding import average_replicas, set_optimizer_step
from trainer.task import StepOutput
from trainer.telemetry import Telemetry, peak_memory_bytes, read_metrics

logger = logging.getLogger(__name__)

_RESULT_KEYS = ("auc", "gauc", "gauc_users", "ne", "logloss", "calibration")


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
        config.check(self.schema)
        self.folder = Path(config.out_dir) / config.name
        self.run = build(config, self.schema, context)
        checkpoints, rows = self.folder / "checkpoints", self.run.placement.rows
        self.checkpoints = Checkpoints(checkpoints, config.checkpoint, context, plan=rows)
        self.step = 0
        self.seconds = 0.0
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
            RuntimeError: a loss or a score is not finite, or a collection lost its overlap.
        """
        if resume:
            self._resume()
        self._describe()
        telemetry = Telemetry(
            self.config.telemetry,
            folder=self.folder,
            rank=self.context.rank,
            world=self.context.world,
            device=self.context.device,
            start_step=self.step,
            total_steps=self._total_steps(),
        )
        with telemetry:
            self._steps(telemetry)
            if self.step == 0:
                raise ValueError(f"data.train: {self.config.data.train} holds no request")
            latest = self.checkpoints.latest()
            if latest is None or latest[1].step < self.step or not latest[1].metrics:
                self._evaluate(telemetry)
                self._save()
        return self._finish()

    def score(self, split: Split, checkpoint: str) -> dict[str, Any]:
        """Score a split with a checkpoint of this run; a collective.

        Args:
            split: which.
            checkpoint: `best` by validation AUC, `last`, or the name of a checkpoint's folder.

        Raises:
            ValueError: there is no such checkpoint.
        """
        path = self.checkpoints.find(checkpoint)
        manifest = self.load(path)
        metrics = self.evaluate(split).metrics
        scored = {"name": self.config.name, "split": split, "checkpoint": path.name, **metrics}
        return finite(
            scored | {"oracle_auc": self.schema.oracle.get(split), "steps": manifest.step}
        )

    def _steps(self, telemetry: Telemetry) -> None:
        config, started = self.config, time.perf_counter()
        limit = max(0, config.loop.steps - self.step) if config.loop.steps else None
        batches = itertools.islice(self.train_stream, limit)
        pipeline = make_pipeline(self.run.model, self.run.optimizers.combined, self.context.device)
        self.run.model.train()
        losses = LossWatch(self.context.device)
        first, waited = True, self.train_stream.waited_s
        while True:
            rates = self.run.optimizers.set_learning_rates(self.step)
            try:
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
                    f"train/learning_rate_{kind}": rate for kind, rate in rates.items()
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
                    self._save()
                waited, started = self.train_stream.waited_s, time.perf_counter()
        pipeline.detach()
        losses.check(self.step)
        self.seconds += time.perf_counter() - started

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _evaluate(self, telemetry: Telemetry) -> None:
        self.metrics = self.evaluate("val").metrics
        check_scores(self.metrics, self.step)
        telemetry.log(self.step, {f"eval/{name}": self.metrics[name] for name in _RESULT_KEYS})

    def _save(self) -> None:
        """Save; the checkpoint carries the metrics of this step's evaluation, if there was one."""
        place = self.train_stream.place_after(self.step)
        manifest = Manifest(
            step=self.step,
            samples=int(place["samples"]),
            world=self.context.world,
            seconds=self.seconds,
            metrics={n: v for n, v in self.metrics.items() if math.isfinite(v)},
            files={},
        )
        self.checkpoints.save(self.run.model, self.run.optimizers, place, manifest)
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
        path, manifest = latest
        self.train_stream.restore(self.checkpoints.place(path))
        self.load(path)
        self.step, self.seconds = manifest.step, manifest.seconds
        logger.info("resumed %s at step %s", path, f"{self.step:,}")

    def load(self, path: Path) -> Manifest:
        """Read a checkpoint into the model and its optimizers; a collective."""
        return self.checkpoints.restore(path, self.run.model, self.run.optimizers)

    def _total_steps(self) -> int | None:
        """Steps this run will have; an estimate where requests differ in their targets."""
        config, train = self.config, self.schema.splits["train"]
        targets = train.targets / max(1, train.requests)
        batch = max(1.0, targets, config.data.batch_size // max(1.0, targets) * targets)
        steps = config.loop.epochs * math.ceil(train.targets / self.context.world / batch)
        return min(steps, config.loop.steps) if config.loop.steps else steps

    def _describe(self) -> None:
        """Write what the run is before it starts, and log its sizes."""
        rows, train = self.run.placement.rows, self.schema.splits["train"]
        logger.info(
            "%s: %s targets in %s requests, tables of %s bytes on %d ranks (%s)",
            self.folder,
            f"{train.targets:,}",
            f"{train.requests:,}",
            f"{sum(int(row['bytes']) for row in rows):,}",
            self.context.world,
            self.context.device.type,
        )
        if self.context.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(self.config_yaml)
            write_json(self.folder / "plan.json", rows)

    def _finish(self) -> dict[str, Any]:
        """Score the test split with the best checkpoint, and write result and report."""
        best = self.checkpoints.best() or self.checkpoints.latest()
        if best is not None and best[1].step != self.step:
            self.load(best[0])
        split: Split = "test" if self.config.data.test else "val"
        evaluation, samples = self.evaluate(split), self.train_stream.samples
        result: dict[str, Any] = {
            "name": self.config.name,
            "preset": self.config.model.preset,
            "split": split,
            **{name: evaluation.metrics[name] for name in _RESULT_KEYS},
            "oracle_auc": self.schema.oracle.get(split),
            "val_auc": best[1].metrics.get("auc", math.nan) if best else math.nan,
            "best_step": best[1].step if best else self.step,
            "steps": self.step,
            "samples": int(samples),
            "seconds": round(self.seconds, 3),
            "samples_per_s": round(samples / max(self.seconds, 1e-9), 1),
            "peak_memory_bytes": int(peak_memory_bytes(self.context.device)),
            "ranks": self.context.world,
            "device": self.context.device.type,
        }
        result = finite(result)
        if self.context.is_main:
            write_json(self.folder / "result.json", result)
            write_report(
                ReportData(
                    name=self.config.name,
                    result=result,
                    history=read_metrics(self.folder),
                    calibration=evaluation.calibration,
                    attention=evaluation.attention,
                    plan=self.run.placement.rows,
                    memory=self.run.placement.figures.memory,
                    config_yaml=self.config_yaml,
                ),
                self.folder / "report.html",
            )
            logger.info("report: %s", self.folder / "report.html")
        return result
