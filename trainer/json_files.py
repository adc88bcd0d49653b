"""Small JSON files of a run: written whole or not at all, read as far as they are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write a file of one JSON value: all of it, or what was there before stays."""
    # Ranks that fail together leave their notes at once.
    aside = path.with_name(f"{path.name}.part{os.environ.get('RANK', '')}")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a file of one JSON object; None where it is not there, or not whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
