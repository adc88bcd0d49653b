"""Results as JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def finite(result: dict[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in result.items()
    }


def write_json(path: Path, content: Any) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")
