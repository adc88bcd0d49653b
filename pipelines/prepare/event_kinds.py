"""Which kinds of event count as a click."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prepare.rows import Rows


def check_events(events: Sequence[str], known: Sequence[str]) -> None:
    """Check `--events` against what the log can hold.

    Raises:
        ValueError: none is named, or one does not exist.
    """
    strange = [name for name in events if name not in known]
    if strange or not events:
        raise ValueError(
            f"--events is {list(events)}; name one or more of {', '.join(known)}, those that count"
        )


def select_events(
    rows: Rows, name: str, events: Sequence[str], known: Sequence[str] = ()
) -> np.ndarray:
    """Drop the rows of other events.

    Args:
        rows: the block.
        name: the column with the event.
        events: those that count.
        known: all that may occur, any other is damage; empty: anything may occur.

    Returns:
        Number of the event in `events`, [N] int8.
    """
    text = rows.text(name)
    for other in known:
        if other not in events:
            rows.drop(pc.equal(text, other).to_numpy(zero_copy_only=False), f"event {other}")
    number = pc.index_in(text, pa.array(list(events), pa.string())).fill_null(-1)
    kinds: np.ndarray = number.to_numpy(zero_copy_only=False).astype(np.int8)
    if known:
        rows.damage(kinds < 0, f"{name} is none of {', '.join(known)}")
    else:
        rows.drop(kinds < 0, "other event")
    return kinds
