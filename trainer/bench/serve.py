"""`dare bench serve`: the search of one request as it is served, against width and precision.

Letters: T targets, N behaviours, A width of a vector, K kept.
"""

from __future__ import annotations

import functools
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.row_precision import RowPrecision
from modules.search_kernel import Keys, find_best, largest, make_keys
from trainer.bench.floor import copy_speed, product_speed, seconds_a_call
from trainer.bench.machine import machine
from trainer.bench.serve_report import format_serve, write_serve
from trainer.bench.setting import check_least
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

_TYPES: dict[RowPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}


_SETS = 16
_LEARNT = 1 << 22


class _Cell(NamedTuple):
    """A request: behaviours, targets, width of its vectors, and how they are multiplied."""

    behaviours: int
    targets: int
    width: int
    precision: RowPrecision


def bench_serve(
    *,
    widths: tuple[int, ...] = (8, 16, 32, 64, 128),
    behaviours: tuple[int, ...] = (200, 2_000, 20_000),
    targets: tuple[int, ...] = (1, 10, 100, 500),
    precisions: tuple[RowPrecision, ...] = ("fp32", "bf16", "int8"),
    top_k: int = 20,
    repeats: int = 5,
    threads: int = 1,
    seed: int = 1,
    out: str = "runs/bench_serve",
) -> dict[str, Any]:
    """Measure the search of one request: from vectors to the best behaviours of each target.

    Vectors are drawn from a normal distribution; they have been looked up, and brought to their
    precision once for the request, which is timed apart. Every repeat goes over all settings, so
    that what else the machine does meets all alike. Of one thread on a CPU the processor's time
    is taken, which is the wall's where nothing else runs; of several, or on a GPU where there is
    one, the wall's.

    Args:
        widths: K_A, numbers of a vector that is scored, of all its features together.
        behaviours: of the request.
        targets: of the request.
        precisions: fp32, bf16 or int8 vectors.
        top_k: behaviours kept.
        repeats: of all settings; medians count.
        threads: of this process; a service mostly answers one request a core.
        seed: of the vectors.
        out: folder of `serve.json`, `serve.md` and `serve.png`.

    Returns:
        `cells`: a setting's seconds, median, least and most, with its floor and the share of
        behaviours that fp32 keeps too; `choices`: of the choice alone, ours and a plain top-K; the
        speeds of copy and products; what was run.

    Raises:
        ValueError: a number below 1, or more kept than there are behaviours.
    """
    for name, value in (("top_k", top_k), ("repeats", repeats), ("threads", threads)):
        check_least(name, value)
    for name, values in (("widths", widths), ("behaviours", behaviours), ("targets", targets)):
        if not values or min(values) < 1:
            raise ValueError(f"--{name} is {list(values)}; give numbers of at least 1")
    if not precisions:
        raise ValueError("--precisions is empty; give some of fp32, bf16, int8")
    if top_k > min(behaviours):
        raise ValueError(
            f"--top_k is {top_k}, --behaviours {list(behaviours)}; a search keeps at most what "
            "there is"
        )
    configure_logging(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cells = [
        _Cell(n, t, a, p) for n in behaviours for t in targets for a in widths for p in precisions
    ]
    of_thread = device.type == "cpu" and threads == 1
    clock = time.thread_time if of_thread else time.perf_counter
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        figures = _measure(cells, top_k, repeats, seed, (device, clock))
        figures["clock"] = "processor" if of_thread else "wall"
        figures |= {"device": device.type, "top_k": top_k, "repeats": repeats, "seed": seed}
        figures |= machine()
    finally:
        torch.set_num_threads(before)
    write_serve(figures, Path(out))
    logger.info("%s", format_serve(figures))
    return figures


def _measure(
    cells: Sequence[_Cell],
    top_k: int,
    repeats: int,
    seed: int,
    timing: tuple[torch.device, Callable[[], float]],
) -> dict[str, Any]:
    """All settings, repeat by repeat; the first of all repeats is for warming up."""
    device, clock = timing
    times: dict[tuple[object, ...], list[float]] = {}
    speeds: dict[str, list[float]] = {}
    same: dict[_Cell, float] = {}

    def timed(name: tuple[object, ...], task: Callable[[], Any]) -> None:
        task()  # Its memory is new, and its kernels may not be chosen yet.
        times.setdefault(name, []).append(seconds_a_call(task, device, clock))

    for repeat in range(repeats + 1):
        speeds.setdefault("copy_bytes_per_s", []).append(copy_speed(device, clock))
        for precision in dict.fromkeys(cell.precision for cell in cells):
            found = product_speed(device, _TYPES[precision], clock)
            speeds.setdefault(f"product_{precision}_per_s", []).append(found)
        for cell in cells:
            queries, key_NA = _request(cell, seed, device)
            keys = make_keys(key_NA, cell.precision)
            timed((cell, "search"), _in_turn(find_best, [(keys, q, top_k) for q in queries]))
            timed((cell, "keys"), functools.partial(make_keys, key_NA, cell.precision))
            if not repeat:
                same[cell] = _same(keys, queries[0], key_NA, top_k)
        for number, targets in dict.fromkeys((cell.behaviours, cell.targets) for cell in cells):
            queries, key_NA = _request(_Cell(number, targets, 16, "fp32"), seed, device)
            scores = [query_TA @ key_NA.T for query_TA in queries[: _held(number * targets)]]
            for name, choice in (("choice", largest), ("topk", _plain)):
                given = [(score_TN, top_k) for score_TN in scores]
                timed((number, targets, name), _in_turn(choice, given))
        if repeat:
            logger.info("repeat %d of %d", repeat, repeats)
    rates = {name: statistics.median(values[1:]) for name, values in speeds.items()}
    told = [
        {
            **cell._asdict(),
            **_spread("search", times[cell, "search"]),
            **_spread("keys", times[cell, "keys"]),
            "floor_s": _floor(cell, top_k, rates),
            "same_as_fp32": same[cell],
        }
        for cell in cells
    ]
    choices = [
        {
            "behaviours": number,
            "targets": targets,
            **_spread("choice", times[number, targets, "choice"]),
            **_spread("topk", times[number, targets, "topk"]),
        }
        for number, targets in dict.fromkeys((cell.behaviours, cell.targets) for cell in cells)
    ]
    return {"cells": told, "choices": choices, **rates}


def _request(cell: _Cell, seed: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Vectors of several sets of targets and of the behaviours; the same for all precisions."""
    generator = torch.Generator().manual_seed(seed)
    queries = [
        torch.randn(cell.targets, cell.width, generator=generator).to(device) for _ in range(_SETS)
    ]
    return queries, torch.randn(cell.behaviours, cell.width, generator=generator).to(device)


def _in_turn(task: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> Callable[[], Any]:
    """A task that takes other arguments at each call: a processor learns repeated choices."""
    turns = itertools.cycle(given)
    return lambda: task(*next(turns))


def _held(scores: int) -> int:
    """Sets of so many scores that are held; of many, none is learnt."""
    return max(2, min(_SETS, _LEARNT // scores))


def _plain(score_TN: Tensor, top_k: int) -> Tensor:
    return score_TN.topk(top_k, dim=1, sorted=False).indices


def _same(keys: Keys, query_TA: Tensor, key_NA: Tensor, top_k: int) -> float:
    """Share of the behaviours kept that float32 keeps too."""
    found = find_best(keys, query_TA, top_k)
    truth = _plain(query_TA @ key_NA.T, top_k)
    equal = found.unsqueeze(2) == truth.unsqueeze(1)
    return float(equal.any(2).float().mean())


def _floor(cell: _Cell, top_k: int, rates: dict[str, float]) -> float:
    """Seconds that cannot be beaten where nothing is in a cache.

    Vectors are read and indices written at the speed of a copy; products are as fast as large ones;
    whichever is slower.
    """
    vectors = (cell.behaviours + cell.targets) * cell.width * _TYPES[cell.precision].itemsize
    moved = vectors + 8 * cell.targets * top_k
    operations = 2 * cell.targets * cell.behaviours * cell.width
    return max(
        moved / rates["copy_bytes_per_s"], operations / rates[f"product_{cell.precision}_per_s"]
    )


def _spread(name: str, found: Sequence[float]) -> dict[str, float]:
    counted = found[1:]
    return {
        f"{name}_s": statistics.median(counted),
        f"{name}_s_min": min(counted),
        f"{name}_s_max": max(counted),
    }
