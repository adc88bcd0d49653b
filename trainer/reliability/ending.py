"""What a run that did not finish says of its end, and what it calls a broken connection."""

from __future__ import annotations

import datetime
import logging
import re
from pathlib import Path
from typing import Literal

from trainer.json_files import write_json

logger = logging.getLogger(__name__)

NOTE_FILE = "ended.json"
_BROKEN = re.compile(r"third_party/gloo|(closed|reset) by peer|TCPStore|remote process exited")


class SaveError(RuntimeError):
    """A checkpoint could not be written."""


class DivergedError(RuntimeError):
    """Training has left the finite numbers; from its newest checkpoint it would do so again."""


class LostRankError(RuntimeError):
    """The connection to another rank broke."""


State = Literal["failed", "stopped", "interrupted"]


def leave_note(folder: Path, state: State, step: int, reason: str) -> None:
    """Write `ended.json` beside a run, with the time; a folder that is not there is not made.

    Args:
        folder: of the run.
        state: `stopped` by SIGTERM, `interrupted` by Ctrl-C, or `failed`.
        step: finished steps.
        reason: in one line.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"state": state, "step": step, "reason": reason.partition("\n")[0], "time": now}
    try:
        if folder.is_dir():
            write_json(folder / NOTE_FILE, note)
    except OSError as error:
        logger.warning("%s could not be written: %s", folder / NOTE_FILE, error)


def is_broken_connection(error: BaseException) -> bool:
    """Whether an error of one of several ranks only says that another rank is gone."""
    told_by_us = isinstance(error, SaveError)
    return isinstance(error, RuntimeError) and not told_by_us and bool(_BROKEN.search(str(error)))


def broken_connection(error: RuntimeError) -> LostRankError:
    """What to tell in its place."""
    first = re.sub(r"\[/[^\]]*\]", "", str(error).partition("\n")[0]).strip()
    return LostRankError(
        "the connection to another rank broke: it has ended, or its host is gone, and its own "
        f"message says why; --resume goes on from the newest checkpoint ({first})"
    )
