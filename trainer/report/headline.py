"""The numbers at the top of a run report, taken from a run's result and its history."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

History = list[dict[str, Any]]
"""Rows of `metrics.jsonl`, oldest first."""

_SPLITS = ("", "test/", "eval/", "val/")


@dataclass(frozen=True)
class Fact:
    """One headline number with its unit and what it means."""

    label: str
    value: str
    note: str = ""


def headline(result: dict[str, Any], history: History) -> list[Fact]:
    """The numbers at the top of the page; those that are not known are left out."""
    oracle, users = number(result, history, "oracle_auc"), number(result, history, "gauc_users")
    best = number(result, history, "best_step")
    rows = (
        ("AUC", "auc", "{:.4f}", f"best possible {oracle:.4f}" if oracle else "0.5 is chance"),
        ("GAUC", "gauc", "{:.4f}", f"{users:,.0f} users with both classes" if users else ""),
        ("Normalized entropy", "ne", "{:.4f}", "below 1 beats the base rate"),
        ("Log loss", "logloss", "{:.4f}", "nats a target"),
        ("Calibration", "calibration", "{:.3f}", "predicted over observed, 1 is perfect"),
        ("Throughput", "samples_per_s", "{:,.0f}", "samples/s"),
        ("Trained on", "samples", "{:,.0f}", "targets"),
        ("Steps", "steps", "{:,.0f}", f"best after {best:,.0f}" if best else ""),
        ("Time", "seconds", "", "evaluations left out"),
        ("Memory", "peak_memory_bytes", "", "peak on rank 0"),
        ("Ranks", "ranks", "{:,.0f}", f"on {result['device']}" if "device" in result else ""),
    )
    special = {"peak_memory_bytes": format_bytes, "seconds": format_seconds}
    facts = []
    for label, name, form, note in rows:
        value = number(result, history, name)
        if value is not None:
            text = special[name](value) if name in special else form.format(value)
            facts.append(Fact(label, text, note))
    return facts


def format_bytes(value: float) -> str:
    """Bytes as KiB, MiB, GiB or TiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_seconds(value: float) -> str:
    """Seconds as `42.0 s`, `3 min 12 s` or `2 h 05 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def split_name(result: dict[str, Any]) -> str:
    """The split that the AUC is of, empty where the result does not say."""
    if "split" in result:
        return str(result["split"])
    flat = _flat(result)
    known = (split for split in _SPLITS if finite([flat.get(f"{split}auc")]))
    return next(known, "").rstrip("/")


def finite(values: Iterable[Any]) -> list[float]:
    """The finite numbers among the values."""
    numbers = (v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    return [float(value) for value in numbers if math.isfinite(value)]


def number(result: dict[str, Any], history: History, name: str) -> float | None:
    """A finite number of the result by its name, of the test split first, None where unknown."""
    flat = _flat(result)
    found = finite(flat.get(f"{split}{name}") for split in _SPLITS)
    return found[0] if found else _from_history(history, name)


def _from_history(history: History, name: str) -> float | None:
    if name == "steps":
        return max(finite(row.get("step") for row in history), default=None)
    values = finite(row.get(f"train/{name.removeprefix('peak_')}") for row in history)
    if name == "samples_per_s" and values:
        return statistics.median(values)
    return max(values) if name == "peak_memory_bytes" and values else None


def oracle_share(result: dict[str, Any], history: History) -> float | None:
    """How far the AUC got from chance to the best possible, as a share of 1."""
    auc, oracle = number(result, history, "auc"), number(result, history, "oracle_auc")
    if auc is None or oracle is None or oracle <= 0.5:
        return None
    return (auc - 0.5) / (oracle - 0.5)
