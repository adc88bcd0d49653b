"""What readers in processes of their own raise, in words for people."""

from __future__ import annotations


def told(error: Exception, workers: int) -> Exception:
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
    return RuntimeError(
        f"one of the processes that read ahead was killed or ended ({reason}); where memory is "
        f"short, lower data.workers ({workers}), data.shuffle_requests or data.shuffle_behaviours, "
        "then go on with --resume"
    )
