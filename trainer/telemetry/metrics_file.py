"""The file of a run's scalars, for all who read it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's `metrics.jsonl`, oldest first; a last line cut off by a crash is left out."""
    path = folder / METRICS_FILE
    rows = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: left out a damaged line: %.60s", path, line)
    return rows
