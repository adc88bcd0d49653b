"""What counts as slow: the start with its first reads, restoring, saving, reporting."""

from trainer.reliability.progress import CONNECTING, Progress


def test_what_belongs_to_something_slow_is_slow():
    progress = Progress()
    with progress.phase("reading data"):
        assert (progress.now.phase, progress.now.slow) == ("reading data", True)
    progress.finish_step(1)
    with progress.phase("reading data"):
        assert not progress.now.slow
    with progress.phase("saving"), progress.phase("waiting for the batches of other ranks"):
        assert progress.now.slow
    assert (progress.now.phase, progress.now.slow, progress.now.step) == ("training", False, 1)


def test_connecting_is_quick_though_it_belongs_to_the_start():
    progress = Progress()
    with progress.phase(CONNECTING):
        assert not progress.now.slow
    assert progress.now.slow


def test_a_resumed_run_starts_with_its_steps():
    progress = Progress()
    progress.resume_at(7)
    assert (progress.now.phase, progress.now.step, progress.now.slow) == ("starting", 7, True)
