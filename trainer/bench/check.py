"""`dare bench check`: ratios that hold on any machine, for CI."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.bench.exchange import bench_exchange
from trainer.bench.growth import history_settings
from trainer.bench.lanes import measure_in_turn, open_lane
from trainer.bench.machine import machine
from trainer.bench.series import ratio
from trainer.bench.setting import Effort, TrainSetting
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

_ITEMS, _BEHAVIOURS = 1_000_000, 60_000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A ratio and the least that it may be."""

    name: str
    ratio: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether it is enough."""
        return self.ratio >= self.least


def bench_check(*, seconds: float = 0.5, repeats: int = 5) -> dict[str, Any]:
    """Check the ratios that this project is built on; exit code 1 where one is below its least.

    Two trainings are measured in turns and the median of their ratios counts, so that neither the
    machine nor what else it does matters much. The least allowed is well below what is measured on
    a quiet machine: it finds what broke, not what became a little slower.

    Args:
        seconds: of a repeat of one training, about.
        repeats: of each pair.

    Returns:
        `checks`: name, ratio, least allowed; `failed`: names of those below it.

    Raises:
        ValueError: nothing to measure.
    """
    effort = Effort(seconds=seconds, repeats=repeats)
    configure_logging(0)
    short, long = history_settings((200, 10_000), _ITEMS, _BEHAVIOURS)
    one_target = replace(short, data=replace(short.data, targets=1), batch_size=short.requests)
    checks: Sequence[Callable[[], Checked]] = (
        lambda: Checked(
            name="samples/s, three targets a request against one",
            ratio=_rates(short, one_target, effort),
            least=1.4,
        ),
        lambda: Checked(
            name="behaviours/s, histories of 10,000 against 200",
            ratio=_rates(long, short, effort) * short.batch_size / long.batch_size,
            least=2 / 3,
        ),
        lambda: Checked(
            name="bytes between two ranks, representation unpooled against pooled",
            ratio=_bytes(auxiliary=True),
            least=7.0,
        ),
        lambda: Checked(
            name="the same without the auxiliary loss",
            ratio=_bytes(auxiliary=False),
            least=100.0,
        ),
    )
    found = []
    for check in checks:
        found.append(check())
        word = "holds" if found[-1].holds else "TOO LOW"
        logger.info("%s: %.2f, at least %.2f: %s", *asdict(found[-1]).values(), word)
    return {
        "checks": [asdict(one) for one in found],
        "failed": [one.name for one in found if not one.holds],
        **machine(),
    }


def _rates(one: TrainSetting, other: TrainSetting, effort: Effort) -> float:
    with open_lane(one) as first, open_lane(other) as second:
        found = measure_in_turn([first, second], effort, "check")
        return ratio(*(series.rates for series in found))["ratio"]


@functools.cache
def _sent() -> list[dict[str, Any]]:
    figures = bench_exchange(history_lengths=(1_000,), top_k=(20,), targets=(3,), widths=(64,))
    cells: list[dict[str, Any]] = figures["cells"]
    return cells


def _bytes(*, auxiliary: bool) -> float:
    cell = next(cell for cell in _sent() if cell["auxiliary"] == auxiliary)
    return float(cell["representation_unpooled"] / cell["representation_pooled"])
