"""What must hold at the end of a run of `tests.soak`, whatever has happened to it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.commands import rows_of
from tests.recorded import Start, starts_of, surviving
from tests.saved import tensors_of

WARM_UP_STEPS = 200
"""Steps until a process holds what it goes on holding: pools of memory, code that loads late."""


def last_checkpoint(run: Path) -> Path:
    """The newest complete one."""
    return max(path.parent for path in run.glob("checkpoints/step-????????/manifest.json"))


def problems_of(run: Path, records: Path, wanted: Counter[Any], straight: Path) -> list[str]:
    """What is wrong with a run that has ended, in words.

    Args:
        run: its folder.
        records: what its ranks have trained.
        wanted: what they must have trained, with how often.
        straight: the folder of a run that nothing happened to.
    """
    starts = [start for start in starts_of(records) if start.steps]
    trained = surviving(starts)
    result = json.loads((run / "result.json").read_text())
    found = []
    if trained != wanted:
        lost, twice = wanted - trained, trained - wanted
        found.append(f"{lost.total()} targets were not trained, {twice.total()} too often")
    if result["samples"] != wanted.total():
        found.append(f"the result tells {result['samples']} samples, not {wanted.total()}")
    if {start.world for start in starts} == {result["ranks"]}:
        found += _differences(run, straight)
    return found


def _differences(run: Path, straight: Path) -> list[str]:
    found = []
    if rows_of(run, "train/loss") != rows_of(straight, "train/loss"):
        found.append("its losses differ from those of the undisturbed run")
    ours, theirs = tensors_of(last_checkpoint(run)), tensors_of(last_checkpoint(straight))
    if ours.keys() != theirs.keys():
        return [*found, "its checkpoint holds other tensors than the undisturbed run's"]
    for name, tensor in ours.items():
        # Each save averages running statistics over ranks: other saves, other rounding.
        same = torch.allclose if ".running_" in name else torch.equal
        if not same(tensor, theirs[name]):
            worst = (tensor.double() - theirs[name].double()).abs().max()
            found.append(f"{name} differs from the undisturbed run's by {worst:.3g}")
    return found


def growth_per_1000_steps(starts: list[Start]) -> tuple[float, int]:
    """Bytes by which a rank's memory grows in 1,000 steps, and the steps that this is taken from.

    One slope through all ranks, each with a level of its own; the first steps of each are left out.
    """
    covariance = variance = 0.0
    steps = 0
    for rank in (rank for start in starts for rank in start.memory):
        warm = rank[WARM_UP_STEPS:]
        if len(warm) < 2:
            continue
        mean_x = math.fsum(step for step, _ in warm) / len(warm)
        mean_y = math.fsum(held for _, held in warm) / len(warm)
        covariance += math.fsum((step - mean_x) * (held - mean_y) for step, held in warm)
        variance += math.fsum((step - mean_x) ** 2 for step, _ in warm)
        steps += len(warm)
    return (1000 * covariance / variance if variance else 0.0), steps


def tracebacks_in(logs: Path) -> list[str]:
    """Last lines of tracebacks that ranks have shown, with their files."""
    found = []
    for path in sorted(logs.rglob("stderr.log")):
        text = path.read_text(errors="replace")
        if "Traceback (most recent call last)" in text:
            last = text.rpartition("Traceback (most recent call last)")[2].strip().splitlines()
            words = [line for line in last if line and not line.startswith(" ")]
            found.append(f"{path}: {words[-1] if words else last[-1]}"[:300])
    return found
