"""Processes that read ahead: how they start, and how their errors are told."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext


def forkserver() -> BaseContext:
    """Workers by fork from a small server, not from a process with GPU threads.

    The server imports the reader once; otherwise each worker would spend seconds on it. Ctrl-C and
    SIGTERM reach all processes of a job; the server and its workers inherit that they are blocked,
    so that this process can end training in order.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.stream"])
    resource_tracker.ensure_running()  # It unblocks what is blocked, so it must come first.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_reader(_: int) -> None:
    """What a reader does first: it sees to it that no kill of training leaves it behind.

    Torch's own watch over a worker's parent sees the server that it was forked from, which lives as
    long as any of its workers. Torch's advice to programmers is not for a run's user.
    """
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    training = multiprocessing.parent_process()
    assert training is not None
    training.join()
    os._exit(1)


def kill_readers(iterator: object) -> None:
    """End the workers of a loader's iterator at once, where it has any.

    They would finish what they read first, which on slow storage may take minutes: Python waits for
    them at its end.
    """
    for worker in getattr(iterator, "_workers", ()):
        worker.kill()


def in_words(error: Exception, workers: int) -> Exception:
    """What a worker raised; torch's loader wraps it into the text of the worker's traceback.

    Args:
        error: that asking the loader for a batch raised.
        workers: of the loader.

    Returns:
        The error without that text; where it is none that a reader raises, one that says that a
        worker is gone.
    """
    _, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
    if message and "Traceback" in str(error):
        return type(error)(message.strip())
    if isinstance(error, ValueError) or not workers:
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    return ChildProcessError(
        f"one of the processes that read ahead was killed or ended ({reason}); where memory is "
        f"short, lower data.workers ({workers}), data.shuffle_requests or data.shuffle_behaviours, "
        "then go on with --resume"
    )
