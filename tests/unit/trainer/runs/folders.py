"""Folders as runs leave them, made by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

CONFIG = {"name": "run", "model": {"preset": "dare"}, "loop": {"steps": 0}}
RESULT = {"name": "run", "preset": "dare", "split": "test", "auc": 0.71, "val_auc": 0.73}
RESULT |= {"steps": 40, "ranks": 2}


def make_run(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    result: dict[str, Any] | None = None,
    ended: dict[str, Any] | None = None,
    checkpoints: dict[int, dict[str, float]] | None = None,
) -> Path:
    """A run's folder with these files, each a second newer than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG if config is None else config))
    files = {
        "metrics.jsonl": None if rows is None else "".join(json.dumps(row) + "\n" for row in rows),
        "result.json": None if result is None else json.dumps(result),
        "ended.json": None if ended is None else json.dumps(ended),
    }
    for age, (name, text) in enumerate(files.items()):
        if text is not None:
            (folder / name).write_text(text)
            os.utime(folder / name, (1_000_000 + age, 1_000_000 + age))
    for step, metrics in (checkpoints or {}).items():
        add_checkpoint(folder / "checkpoints", step, metrics)
    return folder


def add_checkpoint(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """A complete checkpoint of two ranks, as far as a listing looks at one."""
    place = folder / f"step-{step:08d}"
    place.mkdir(parents=True)
    manifest = {"step": step, "samples": 10 * step, "world": 2, "seconds": 1.0}
    manifest |= {"optimizers": {"sparse": "adam", "dense": "adam"}, "metrics": metrics}
    manifest |= {"files": {"loader.json": {"bytes": 2, "sha256": "0" * 64}}, "format": 2}
    (place / "manifest.json").write_text(json.dumps(manifest))
