"""Processes that read ahead: how they start, and how their errors are told."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import signal
from multiprocessing.context import BaseContext


def forkserver() -> BaseContext:
    """Workers by fork from a small server, not from a process with GPU threads.

    The server imports the reader once; otherwise each worker would spend seconds on it. Ctrl-C and
    SIGTERM reach all processes of a job; the server and its workers inherit that they are blocked,
    so that this process can end training in order.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.stream"])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def without_traceback(error: ValueError | OSError) -> ValueError | OSError:
    """What a worker raised; torch's loader wraps it into the text of the worker's traceback."""
    _, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
    return type(error)(message.strip()) if message and "Traceback" in str(error) else error
