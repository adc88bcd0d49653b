"""A run whose numbers are no longer finite ends with a line, and leaves no checkpoint of them."""

import pytest

from tests.commands import dare, dare_without_report
from trainer.reliability.divergence import check_scores
from trainer.task import TrainTask

TOO_FAST = ["--optim.sparse.learning_rate=1e30", "--optim.dense.learning_rate=1e30"]


@pytest.mark.parametrize(
    "options", [[], ["--checkpoint.every=4"], ["--loop.evaluate_every=4"], ["--loop.steps=1"]]
)
def test_what_is_not_finite_ends_the_run_before_anything_is_saved(data, tmp_path, options):
    outcome = dare("train", *data, f"--out_dir={tmp_path}", *TOO_FAST, *options)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "lower optim.sparse.learning_rate" in line
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*step-*"))


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_scores_that_are_not_finite_leave_the_checkpoint_before_them(
    data, tmp_path, monkeypatch, asynchronous
):
    """It goes only once the step that replaces it has been scored."""

    def not_finite(metrics, step):
        check_scores(metrics | ({"logloss": float("nan")} if step == 4 else {}), step)

    monkeypatch.setattr("trainer.loop.check_scores", not_finite)
    options = [*data, f"--out_dir={tmp_path}", f"--checkpoint.asynchronous={asynchronous}"]
    options += ["--loop.evaluate_every=4", "--checkpoint.every=3", "--checkpoint.keep_last=1"]
    outcome = dare_without_report("train", *options)
    assert outcome.code == 2
    assert "the model after step 4 gives scores that are not finite" in outcome.err
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert saved == ["step-00000003"]


@pytest.fixture
def one_bad_step(monkeypatch):
    """The loss is infinite in the first step (TorchRec calls it once before, to trace it)."""
    whole, steps = TrainTask.forward, []

    def forward(task, batch):
        loss, output = whole(task, batch)
        steps.extend([1] if task.training else [])
        return loss, output._replace(loss=output.loss / 0) if len(steps) == 2 else output

    monkeypatch.setattr(TrainTask, "forward", forward)


def test_after_a_resume_the_step_is_counted_on(data, tmp_path, request):
    options = [*data, f"--out_dir={tmp_path}", "--checkpoint.every=4"]
    assert dare("train", *options, "--loop.steps=4").code == 0
    request.getfixturevalue("one_bad_step")
    outcome = dare("train", *options, "--resume", "--loop.check_loss_every=1")
    assert outcome.code == 2
    assert "the loss of rank 0 is inf at step 5; `dare replay" in outcome.err
    (file,) = (tmp_path / "run" / "bad_batches").iterdir()
    assert file.name == "step-00000005-rank-0.safetensors"


@pytest.mark.usefixtures("one_bad_step")
def test_a_loss_that_was_not_finite_between_two_looks_is_seen(data, tmp_path):
    outcome = dare("train", *data, f"--out_dir={tmp_path}", "--loop.check_loss_every=5")
    assert outcome.code == 2
    assert "the loss of rank 0 is inf at step 1; --resume --loop.check_loss_every 1" in outcome.err
