"""A lost overlap is an error; TorchRec would only warn, and be slower."""

from unittest import mock

import pytest

from pipelines.overlap import check_overlap, make_pipeline
from tests.small_run import batches, small_config, small_schema
from trainer.build import build
from trainer.distributed import run_context
from trainer.task import TrainTask


def _changing_its_input(task, batch):
    # Keys in the order they have already: a change all the same.
    features = batch.features.permute([0, 1, 2, 3])
    output = task.ranker(features, batch.weight > 0, batch.num_history, batch.num_targets)
    losses = task.objective(output, batch.label, batch.weight, batch.total_weight)
    return losses[0], output.logit_T.detach()


def _step(overlap):
    with run_context() as context:
        run = build(small_config("--model.head.norm=layer"), small_schema(), context)
        optimizer = run.optimizers.combined
        pipeline = make_pipeline(run.model, optimizer, context.device, overlap)
        run.model.train()
        pipeline.progress(batches(0, 1, 2))
        check_overlap(pipeline, run.model)


def test_tables_that_lost_their_overlap_are_named():
    with (
        mock.patch.object(TrainTask, "forward", _changing_its_input),
        pytest.raises(RuntimeError, match="2 of 2 collections are not overlapped") as failed,
    ):
        _step("sparse_dist")
    for table in ("attention_item", "attention_category", "representation_item"):
        assert table in str(failed.value)
    assert "loop.overlap plain" in str(failed.value)


def test_without_overlap_there_is_none_to_lose():
    with mock.patch.object(TrainTask, "forward", _changing_its_input):
        _step("plain")
