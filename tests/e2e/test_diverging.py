"""A run whose numbers are no longer finite ends with a line, and leaves no checkpoint of them."""

import pytest

from tests.commands import dare

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
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_loss_that_was_not_finite_between_two_looks_is_seen(data, tmp_path, monkeypatch):
    """One bad step, and finite ones after it."""
    import trainer.loop
    from trainer.loop import make_pipeline

    class OneBadStep:
        def __init__(self, *arguments):
            self.inner, self.steps = make_pipeline(*arguments), 0

        def progress(self, batches):
            output, self.steps = self.inner.progress(batches), self.steps + 1
            return output._replace(loss=output.loss / 0) if self.steps == 2 else output

        def detach(self):
            self.inner.detach()

    monkeypatch.setattr(trainer.loop, "make_pipeline", OneBadStep)
    monkeypatch.setattr(trainer.loop, "check_overlap", lambda *_: None)
    outcome = dare("train", *data, f"--out_dir={tmp_path}", "--loop.check_loss_every=5")
    assert outcome.code == 2
    assert "the loss is inf by step 5" in outcome.err
