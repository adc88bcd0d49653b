"""The training loop: restore, step, log, save, evaluate, stop, report."""

from __future__ import annotations

import itertools
import logging
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pipelines.loader import Split
from pipelines.lockstep import BatchStream
from pipelines.overlap import attach_again, check_overlap, make_pipeline
from pipelines.schema import DatasetSchema, load_schema
from trainer.build import build, check_splits, describe_sizes, expected_steps, open_stream
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.manifest import Manifest
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.evaluate import Evaluation, evaluate
from trainer.outcome import leave_description, leave_result, make_result, told
from trainer.reliability.bad_batch import keep_batch
from trainer.reliability.divergence import LossWatch, check_scores
from trainer.reliability.ending import DivergedError
from trainer.report.attention_map import planted_beside
from trainer.saved_run import Resumed, load_best, resume_run, save_run
from trainer.sharding import average_replicas, set_optimizer_step
from trainer.task import StepOutput
from trainer.telemetry.step_probe import StepProbe
from trainer.telemetry.telemetry import Telemetry

logger = logging.getLogger(__name__)


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
            config.checkpoint.folder or str(self.folder / "checkpoints"),
            config.checkpoint,
            context,
            config.name,
        )
        self.resumed = Resumed(step=0, metrics={}, seconds=0.0, window={})
        self.step, self.seconds = 0, 0.0

    @cached_property
    def train_stream(self) -> BatchStream:
        """Batches of all epochs; scoring a split never opens them."""
        config = self.config
        return open_stream(config, "train", self.schema, self.context, epochs=config.loop.epochs)

    def check_data(self) -> None:
        """Look at what is read later: `open_stream`, `check_splits` and `planted_beside`."""
        assert self.train_stream.batches == 0
        check_splits(self.config, self.schema, self.context)
        planted_beside(self.config.data, self.schema)

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
            Stopped: a rank was asked to stop; what was trained is saved.
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
            window=self.resumed.window,
            total_steps=expected_steps(self.config, self.schema, self.context.world),
        )
        keep = partial(keep_batch, self.run.model, self.context, self.folder, self.config_yaml)
        losses = LossWatch(self.run.model, self.context, self.config.loop.check_loss_every, keep)
        with self.checkpoints, telemetry, losses:
            self._make_up_scores(telemetry)
            self._steps(telemetry, losses)
            if self.step == 0:
                raise ValueError(f"data.train: {self.config.data.train} holds no request")
            self._end(telemetry)
        with telemetry.trackers:
            return self._finish(telemetry)

    def _steps(self, telemetry: Telemetry, losses: LossWatch) -> None:
        config, started = self.config, time.perf_counter()
        limit = max(0, config.loop.steps - self.step) if config.loop.steps else None
        batches = itertools.islice(self.train_stream, limit)
        pipeline = make_pipeline(
            self.run.model, self.run.optimizers.combined, self.context.device, config.loop.overlap
        )
        self.probe = probe = StepProbe(config.telemetry, self.context, self.resumed.window)
        self.run.model.train()
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
            self.context.progress.finish_step(self.step)
            if self._due(self.run.placement.figures.sync_every):
                average_replicas(self.run.model)
            telemetry.step(
                self.step,
                loss=output.loss,
                weight=output.weight_T.sum(),
                samples=output.label_T.numel(),
                behaviours=output.num_behaviours,
                data_wait_s=self.train_stream.waited_s - waited,
                imbalance=self.train_stream.imbalance_of(self.step),
                scalars=lambda rates=rates: {  # type: ignore[misc]
                    **{f"train/learning_rate_{kind}": rate for kind, rate in rates.items()},
                    **probe.scalars(),
                },
            )
            waited = self.train_stream.waited_s
            if self._due(config.loop.evaluate_every) or self._due(config.checkpoint.every):
                self.seconds += time.perf_counter() - started
                pipeline.detach()
                losses.check(self.step)
                with telemetry.paused():
                    scores = self._due(config.loop.evaluate_every)
                    self._save(telemetry, prune=not scores)
                    if scores:
                        self._evaluate(telemetry)
                attach_again(pipeline, self.run.model)
                waited, started = self.train_stream.waited_s, time.perf_counter()
        pipeline.detach()
        losses.check(self.step)
        self.seconds += time.perf_counter() - started
        if self.train_stream.stopped:
            self._save_stopped(telemetry)
            raise self.context.stop.stopped()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _evaluate(self, telemetry: Telemetry) -> None:
        """Score the step, which is saved or being saved: what goes wrong costs no training."""
        try:
            metrics = self.evaluate("val").metrics
            check_scores(metrics, self.step)
        except DivergedError:
            self.checkpoints.remove(self.step)
            raise
        except BaseException:
            self.checkpoints.wait()  # Who ends here says that the step is saved.
            raise
        self.checkpoints.set_metrics(self.step, metrics)
        telemetry.log(self.step, told(metrics, "eval/"))
        telemetry.trackers.checkpoint(self.checkpoints.store.path_of(self.step), self.step)

    def _make_up_scores(self, telemetry: Telemetry) -> None:
        """Tell the scores of the resumed step, or make them, where an end came before that."""
        if self.resumed.metrics:
            telemetry.log(self.step, told(self.resumed.metrics, "eval/"))
        elif self.step and self._due(self.config.loop.evaluate_every):
            with telemetry.paused():
                self._evaluate(telemetry)

    def _end(self, telemetry: Telemetry) -> None:
        """Leave a checkpoint of the last step, with its evaluation."""
        self.checkpoints.wait()
        latest = self.checkpoints.latest()
        step, metrics = (latest[1].step, latest[1].metrics) if latest else (0, {})
        saved = step == self.step
        scored = saved and bool(metrics)
        if not saved:
            self._save(telemetry, prune=False)
        if not scored:
            self._evaluate(telemetry)

    def _save_stopped(self, telemetry: Telemetry) -> None:
        """Save a step that was not due to be saved, unless it is saved already."""
        self.checkpoints.wait()
        latest = self.checkpoints.latest()
        if self.step and (latest is None or latest[1].step < self.step):
            self._save(telemetry, prune=True)
            self.checkpoints.wait()

    def _save(self, telemetry: Telemetry, *, prune: bool) -> None:
        """Save; without pruning where the step is scored next, after which older ones may go."""
        beside = {}
        if self.context.is_main:
            plan = (self.folder / "plan.json").read_text()
            beside = {"config.yaml": self.config_yaml, "plan.json": plan}
        save_run(
            self.checkpoints,
            self.run,
            self.train_stream,
            step=self.step,
            seconds=self.seconds,
            window=telemetry.window() | self.probe.window(),
            beside=beside,
            prune=prune,
        )
        if prune:
            telemetry.trackers.checkpoint(self.checkpoints.store.path_of(self.step), self.step)

    def evaluate(self, split: Split) -> Evaluation:
        """Score a split with the model as it was saved or loaded, alike on all ranks; a collective.

        Raises:
            Stopped: a rank was asked to stop.
        """
        config = self.config
        try:
            return evaluate(
                self.run,
                open_stream(config, split, self.schema, self.context),
                self.context,
                config.loop,
                history_length=config.data.history_length,
                planted=planted_beside(config.data, self.schema),
            )
        finally:
            # FBGEMM's CUDA lookups count a step each time they run forward, Adam corrects by it.
            set_optimizer_step(self.run.model, self.step)

    def _resume(self) -> None:
        resumed = resume_run(self.checkpoints, self.run, self.train_stream)
        if resumed is None:
            logger.info("%s has no checkpoint yet: training starts at step 0", self.folder)
            return
        self.resumed, self.step, self.seconds = resumed, resumed.step, resumed.seconds
        self.context.progress.resume_at(self.step)

    def load(self, name: str) -> Manifest:
        """Read a checkpoint into the model and its optimizers; a collective."""
        return self.checkpoints.restore(name, self.run.model, self.run.optimizers)

    def _describe(self) -> None:
        """Write what the run is before it starts, and log its sizes."""
        logger.info("%s: %s", self.folder, describe_sizes(self.run, self.schema, self.context))
        if self.context.is_main:
            leave_description(self.folder, self.config_yaml, self.run.placement)

    def _finish(self, telemetry: Telemetry) -> dict[str, Any]:
        """Score the test split with the best checkpoint, and write result and report."""
        best = load_best(self.checkpoints, self.run, self.step)
        split: Split = "test" if self.config.data.test else "val"
        evaluation = self.evaluate(split)
        result = make_result(
            self.config,
            self.context,
            split,
            evaluation.metrics,
            oracle_auc=self.schema.best_auc(split, self.config.data.history_length),
            best=best,
            step=self.step,
            samples=self.train_stream.samples,
            seconds=self.seconds,
        )
        with self.context.progress.phase("reporting"):
            if self.context.is_main:
                yaml, placement = self.config_yaml, self.run.placement
                leave_result(self.folder, result, evaluation, placement, config_yaml=yaml)
            self.context.wait()
        telemetry.trackers.end("finished", result)
        return result
