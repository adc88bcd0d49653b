"""Log lines of all commands."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from tqdm import tqdm


class _BarHandler(logging.StreamHandler[Any]):
    """Writes log lines to stderr above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except (OSError, ValueError, TypeError):  # What cannot be told ends nothing.
            self.handleError(record)


def configure_logging(rank: int) -> None:
    """Log to stderr, one line a message: this project at INFO on rank 0, all else at WARNING."""
    handler = _BarHandler()
    mark = "" if rank == 0 else f"rank {rank} "
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s {mark}%(levelname)-7s %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # What these libraries deprecate or would like configured is for this project, not for its user.
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu|trainer)\b")
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("trainer", "modules", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO if rank == 0 else logging.WARNING)
