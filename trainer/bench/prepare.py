"""`dare bench prepare`: time and memory of preparing a file in Taobao's format."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import torch

from pipelines.prepare.event_store import Resources
from pipelines.prepare.taobao import prepare_taobao
from trainer.bench.machine import machine
from trainer.bench.setting import check_least
from trainer.telemetry.logs import configure_logging
from trainer.telemetry.memory import peak_memory_bytes

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 1_000_000
_FIRST_DAY_S = 1_511_539_200  # 2017-11-25 00:00 in China
_DAYS_S = 9 * 86_400
_KINDS = np.array(["pv", "cart", "fav", "buy"])
_SHARES = (0.895, 0.055, 0.03, 0.02)


def bench_prepare(
    *,
    rows: int = 20_000_000,
    items: int = 4_000_000,
    categories: int = 9_400,
    rows_a_user: int = 100,
    memory_gb: float = 3.0,
    threads: int = 0,
    folder: str = "",
    seed: int = 1,
) -> dict[str, Any]:
    """Write a file in Taobao's format and measure `dare prepare taobao` on it.

    Users are together, their times are not sorted, items follow a power law; lives have a long
    tail, so that only some users have the paper's 210 clicks.

    Args:
        rows: of the file.
        items: different items at most.
        categories: different categories at most.
        rows_a_user: mean.
        memory_gb: what DuckDB may take.
        threads: of the preparation; 0 takes all cores.
        folder: where the file and the dataset go and are deleted again; empty: the system's.
        seed: of everything.

    Returns:
        Seconds, rows/s, peak memory of the process, bytes of the file and of the dataset.

    Raises:
        ValueError: an option is out of range.
    """
    options = {"rows": rows, "items": items, "categories": categories, "rows_a_user": rows_a_user}
    for name, value in options.items():
        check_least(name, value)
    configure_logging(0)
    work = Path(tempfile.mkdtemp(prefix="dare-bench-", dir=folder or None))
    try:
        raw = work / "UserBehavior.csv"
        _write_log(raw, rows, items, categories, rows_a_user, seed)
        started = time.perf_counter()
        schema = prepare_taobao(
            raw=str(raw),
            out=str(work / "data"),
            seed=seed,
            resources=Resources(memory_gb=memory_gb, threads=threads),
        )
        seconds = time.perf_counter() - started
        written = sum(file.stat().st_size for file in (work / "data").rglob("*.parquet"))
        return {
            "seconds": round(seconds, 1),
            "rows_per_s": round(rows / seconds),
            "peak_memory_bytes": int(peak_memory_bytes(torch.device("cpu"))),
            "rows": rows,
            "rows_kept": schema.counts["kept"],
            "raw_bytes": raw.stat().st_size,
            "dataset_bytes": written,
            "threads": threads,
            **machine(),
        }
    finally:
        shutil.rmtree(work)


def _write_log(
    path: Path, rows: int, items: int, categories: int, rows_a_user: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    options = pc.WriteOptions(include_header=False, quoting_style="none")
    first_user = 1
    with path.open("wb") as stream:
        for done in range(0, rows, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, rows - done)
            length = 1 + rng.exponential(rows_a_user, 2 * count // rows_a_user + 1).astype(np.int64)
            user = first_user + np.searchsorted(np.cumsum(length), np.arange(count), side="right")
            first_user = int(user[-1]) + 1
            item = 1 + (items * rng.random(count) ** 3).astype(np.int64)
            table = pa.table(
                {
                    "user": user,
                    "item": item,
                    "category": 1 + item * 7919 % categories,
                    "kind": _KINDS[rng.choice(len(_KINDS), count, p=_SHARES)],
                    "time": _FIRST_DAY_S + rng.integers(0, _DAYS_S, count),
                }
            )
            pc.write_csv(table, stream, options)
            if (done + count) % (10 * _CHUNK_ROWS) == 0:
                logger.info("wrote %s of %s rows", f"{done + count:,}", f"{rows:,}")
