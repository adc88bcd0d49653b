"""`dare bench exchange`: bytes a step between ranks, representation pooled and unpooled."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from trainer.arguments import parse_config
from trainer.bench.data import uniform_batch, uniform_schema
from trainer.bench.lanes import join_by_file
from trainer.build import build
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.telemetry.logs import configure_logging
from trainer.telemetry.traffic import TrafficCounter

logger = logging.getLogger(__name__)

ITEMS, CATEGORIES, ATTENTION_WIDTH = 50_000, 9_000, 16
_LOOKUPS = {
    "pooled": ["representation_lookup=pooled"],
    "unpooled": ["representation_lookup=unpooled"],
    "scored": ["representation_lookup=unpooled", "attention_lookup=scored"],
}
Sharding = Literal["table_wise", "row_wise", "column_wise"]


def bench_exchange(
    *,
    ranks: int = 2,
    sharding: Sharding = "table_wise",
    requests: int = 4,
    history_lengths: tuple[int, ...] = (200, 1_000, 10_000),
    top_k: tuple[int, ...] = (20, 100),
    targets: tuple[int, ...] = (1, 3, 16),
    widths: tuple[int, ...] = (16, 32, 64, 128),
) -> dict[str, Any]:
    """Count what the ranks send each other in one training step, forward and backward.

    Ranks are processes of this machine, ids are uniform and histories full. Attention is 16 numbers
    a feature; widths are those of the representation. With the auxiliary loss whole histories are
    summed, without it what the search keeps.

    Args:
        ranks: processes.
        sharding: of the tables.
        requests: requests a rank; the figures are a request's.
        history_lengths: behaviours of every history.
        top_k: behaviours kept; they matter without the auxiliary loss only.
        targets: targets a request.
        widths: of each feature's representation.

    Returns:
        `cells`: bytes a request that all ranks send together. A table of them goes to stderr.

    Raises:
        ValueError: fewer than two ranks, or a number below 1.
    """
    if ranks < 2:
        raise ValueError(f"--ranks is {ranks}; one rank sends nothing: give at least 2")
    if requests < 1:
        raise ValueError(f"--requests is {requests}; it must be at least 1")
    for name, values in (
        ("history_lengths", history_lengths),
        ("top_k", top_k),
        ("targets", targets),
        ("widths", widths),
    ):
        if not values or min(values) < 1:
            raise ValueError(f"--{name} is {list(values)}; give numbers of at least 1")
    whole = itertools.product(history_lengths, top_k[:1], targets, widths, [True])
    kept = itertools.product(history_lengths, top_k, targets, widths, [False])
    settings = [
        {
            "history_length": length,
            "top_k": k,
            "targets": shown,
            "width": width,
            "auxiliary": auxiliary,
        }
        for length, k, shown, width, auxiliary in (*whole, *kept)
        if k <= length
    ]
    with tempfile.TemporaryDirectory(prefix="dare-bench-") as folder:
        one_rank = functools.partial(_one_rank, ranks, folder, sharding, requests, settings)
        start_processes(one_rank, nprocs=ranks, start_method="spawn")  # type: ignore[no-untyped-call]
        cells = json.loads((Path(folder) / "cells.json").read_text())
    configure_logging(0)
    logger.info("bytes a request that %d ranks send together\n%s", ranks, format_cells(cells))
    return {"ranks": ranks, "sharding": sharding, "cells": cells}


def _one_rank(
    world: int,
    folder: str,
    sharding: Sharding,
    requests: int,
    settings: Sequence[dict[str, Any]],
    rank: int,
) -> None:
    join_by_file(rank, world, Path(folder))
    plan = Path(folder) / f"plan-{rank}.yaml"
    plan.write_text(f"tables: {{'*': {{sharding_types: [{sharding}]}}}}\n")
    cells = []
    with run_context() as context:
        configure_logging(rank)
        for number, setting in enumerate(settings):
            cells.append(_cell(setting, requests, str(plan), context))
            logger.info("%d of %d", number + 1, len(settings))
    if rank == 0:
        (Path(folder) / "cells.json").write_text(json.dumps(cells))
    dist.destroy_process_group()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(0)


def _cell(setting: dict[str, Any], requests: int, plan: str, context: RunContext) -> dict[str, Any]:
    """Bytes a request of one setting."""
    sent = {
        name: _step(setting, requests, plan, lookups, context) for name, lookups in _LOOKUPS.items()
    }
    attention = _sum(sent["pooled"], "unpooled")
    unpooled = _sum(sent["unpooled"], "unpooled") - attention
    return {
        **setting,
        "representation_unpooled": round(unpooled),
        "representation_pooled": round(_sum(sent["pooled"], "pooled")),
        "attention_unpooled": round(attention),
        "attention_scored": round(_sum(sent["scored"], "pooled")),
        "pooled_parts": {
            name.removeprefix("pooled "): round(number)
            for name, number in sorted(sent["pooled"].items())
            if name.startswith("pooled")
        },
    }


def format_cells(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| auxiliary | L | K | targets | width | representation unpooled | pooled | of it |"
        " attention unpooled | scored | of it |",
        "| --- |" + " ---: |" * 10,
    ]
    for cell in cells:
        whole = cell["auxiliary"]
        row = ["on" if whole else "off", f"{cell['history_length']:,}"]
        row += ["" if whole else str(cell["top_k"]), str(cell["targets"]), str(cell["width"])]
        for before, after in (
            ("representation_unpooled", "representation_pooled"),
            ("attention_unpooled", "attention_scored"),
        ):
            row += [f"{cell[before]:,}", f"{cell[after]:,}", f"{cell[after] / cell[before]:.1%}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _sum(sent: dict[str, float], kind: str) -> float:
    return sum(number for name, number in sent.items() if name.startswith(kind))


def _step(
    setting: dict[str, Any], requests: int, plan: str, lookups: Sequence[str], context: RunContext
) -> dict[str, float]:
    """Bytes a request that all ranks send in one step, by what they carry."""
    config = _config(setting, requests, plan, lookups)
    shape = {
        "items": ITEMS,
        "categories": CATEGORIES,
        "requests": requests,
        "targets": setting["targets"],
        "history_length": setting["history_length"],
    }
    run = build(config, uniform_schema(**shape), context)
    batch = uniform_batch(**shape, seed=context.rank)
    batch.total_weight.fill_(float(batch.label.numel() * context.world))
    with TrafficCounter() as traffic:
        loss, _ = run.model(batch.to(context.device))
        loss.backward()
    counts: list[Counter[str]] = [Counter() for _ in range(context.world)]
    dist.all_gather_object(counts, traffic.sent_bytes, group=context.control)
    total: Counter[str] = sum(counts, Counter())
    return {name: number / (requests * context.world) for name, number in total.items()}


def _config(
    setting: dict[str, Any], requests: int, plan: str, lookups: Sequence[str]
) -> TrainConfig:
    def widths(width: int) -> str:
        return f"{{item: {width}, category: {width}, position: {ATTENTION_WIDTH}}}"

    return parse_config(
        [
            f"--data.history_length={setting['history_length']}",
            # What the planner leaves room for.
            f"--data.batch_size={requests * setting['targets']}",
            f"--model.search.top_k={setting['top_k']}",
            f"--model.head.auxiliary_weight={float(setting['auxiliary'])}",
            f"--model.embeddings.attention={widths(ATTENTION_WIDTH)}",
            f"--model.embeddings.representation={widths(setting['width'])}",
            *(f"--model.embeddings.{option}" for option in lookups),
            f"--sharding.plan={plan}",
        ]
    )[0]
