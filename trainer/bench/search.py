"""`dare bench search`: time of the search alone, against the width of attention and the history.

Letters: R requests, M targets a request, L behaviours a request, K kept, N jagged total, D width of
item and category together.
"""

from __future__ import annotations

import functools
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from modules.embedding import USES
from modules.history import RequestGrid
from modules.model_config import Preset, RankerConfig
from modules.scorers import DotScorer
from pipelines.batch import Batch
from trainer.arguments import parse_config
from trainer.bench.data import uniform_batch, uniform_schema
from trainer.bench.floor import copy_speed, product_speed, seconds_a_call
from trainer.bench.machine import machine
from trainer.bench.search_model import SEARCH_USES, SearchModel
from trainer.bench.search_report import format_search, write_search
from trainer.bench.setting import CATEGORIES, check_least
from trainer.build import build
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.task import TrainTask
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


def bench_search(
    *,
    preset: Preset = "dare",
    widths: tuple[int, ...] = (8, 16, 32, 64, 128),
    history_lengths: tuple[int, ...] = (200, 2_000, 20_000),
    requests: int = 16,
    targets: int = 16,
    top_k: int = 20,
    rows: int = 1_000_000,
    repeats: int = 5,
    seed: int = 1,
    out: str = "runs/bench_search",
) -> dict[str, Any]:
    """Measure the search alone: scores of all behaviours, then the best of them.

    It is the model's own code on rows that its own tables looked up. The lookup of these rows is
    measured apart. The search by kernels over jagged histories, which trains and serves where only
    kept scores are asked for, stands beside torch's. Every repeat goes over all
    settings, so that what else the machine does meets all alike. Ids are uniform and histories
    full. The floor is what cannot be beaten where nothing is in a cache: bytes that must be read
    and written at the speed of a copy, or the products at that of a large matrix product, whichever
    is slower.

    Args:
        preset: the model whose search it is.
        widths: of item, category and position in attention, each; they share a table with the
            representation where the model has one.
        history_lengths: behaviours of every history.
        requests: at once.
        targets: of each request.
        top_k: behaviours kept.
        rows: of the item table.
        repeats: of all settings; medians count.
        seed: of ids and tables.
        out: folder of `search.json`, `search.md` and `search.png`.

    Returns:
        `cells`: a setting's seconds for all requests together, median, least and most, with their
        floors; the speeds of copy and product; what was run.

    Raises:
        ValueError: a number below 1, or a model whose search is not one score a behaviour.
    """
    setting: dict[str, Any] = {
        "preset": preset,
        "requests": requests,
        "targets": targets,
        "top_k": top_k,
        "rows": rows,
        "repeats": repeats,
        "seed": seed,
    }
    for name in ("requests", "targets", "top_k", "rows", "repeats"):
        check_least(name, setting[name])
    odd = [width for width in widths if width < 4 or width % 4]
    if odd:
        raise ValueError(f"--widths has {odd[0]}; a width is a multiple of 4, at least 4 (FBGEMM)")
    for name, values in (("widths", widths), ("history_lengths", history_lengths)):
        if not values or min(values) < 1:
            raise ValueError(f"--{name} is {list(values)}; give numbers of at least 1")
    if top_k > min(history_lengths):
        raise ValueError(
            f"--top_k is {top_k}, --history_lengths {list(history_lengths)}; a search keeps at "
            "most what there is"
        )
    shape = {"items": rows - 1, "categories": CATEGORIES, "requests": requests, "targets": targets}
    with run_context() as context:
        configure_logging(context.rank)
        models = {
            width: _build(width, max(history_lengths), setting, shape, context) for width in widths
        }
        batches = {
            length: uniform_batch(**shape, history_length=length, seed=seed).to(context.device)
            for length in history_lengths
        }
        cells, speeds = _measure(models, batches, repeats, context.device)
    figures = {**speeds, **setting, "device": context.device.type, **machine(), "cells": cells}
    write_search(figures, Path(out))
    logger.info("%s", format_search(figures))
    return figures


def _build(
    width: int,
    history_length: int,
    setting: dict[str, Any],
    shape: dict[str, int],
    context: RunContext,
) -> SearchModel:
    """The model at one width, its tables as in training."""

    def read(representation: int) -> TrainConfig:
        widths = {"attention": width, "representation": representation}
        given = [
            f"--data.history_length={history_length}",
            f"--model.preset={setting['preset']}",
            f"--model.search.top_k={setting['top_k']}",
            *(
                f"--model.embeddings.{kind}={{item: {w}, category: {w}, position: {w}}}"
                for kind, w in widths.items()
            ),
            # Of all optimizers the one with the least state: nothing is trained here.
            "--optim.sparse.name=rowwise_adagrad",
            f"--seed={setting['seed']}",
        ]
        return parse_config(given)[0]

    config = read(width)
    _check_model(config.model)
    embeddings = config.model.embeddings
    spaces = sorted({embeddings.space(use) for use in SEARCH_USES})
    if not any(embeddings.space(use) in spaces for use in USES if use not in SEARCH_USES):
        config = read(4)  # Tables that are not read here.
    run = build(config, uniform_schema(**shape, history_length=history_length), context)
    run.model.eval()
    task = cast(TrainTask, run.model.module)
    return SearchModel(task.ranker, [f"{space}_{width}" for space in spaces])


def _check_model(model: RankerConfig) -> None:
    """Refuse a search that is not one score a behaviour and target."""
    search, of_heads = model.search, model.search.by == "attention" and model.attention.sums > 1
    if search.by == "none" or search.cluster_size or of_heads:
        raise ValueError(
            f"--preset is {model.preset}, whose search is not one score a behaviour: it has none, "
            "or goes over heads or clusters"
        )


def _measure(
    models: dict[int, SearchModel], batches: dict[int, Batch], repeats: int, device: torch.device
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Cells, and the speeds of the machine; the first of all repeats is for warming up."""
    settings = [(length, width) for length in batches for width in models]
    times: dict[str, dict[tuple[int, int], list[float]]] = {
        "search": {setting: [] for setting in settings},
        "jagged": {
            (n, w): [] for n, w in settings if models[w].is_jagged(device, batches[n].num_history)
        },
        "lookup": {setting: [] for setting in settings},
    }
    copies, products = [], []
    with torch.no_grad():
        for repeat in range(repeats + 1):
            copies.append(copy_speed(device))
            products.append(product_speed(device))
            for length, width in settings:
                model, batch = models[width], batches[length]
                given = batch.features, _grid(batch), model.lookup(batch)
                calls: dict[str, Callable[[], Any]] = {
                    "lookup": functools.partial(model.lookup, batch),
                    "search": functools.partial(model.search, *given),
                    "jagged": functools.partial(model.search_jagged, *given),
                }
                for name, call in calls.items():
                    if (length, width) in times[name]:
                        times[name][length, width].append(seconds_a_call(call, device))
            if repeat:
                logger.info("repeat %d of %d", repeat, repeats)
    speeds = {
        "copy_bytes_per_s": statistics.median(copies[1:]),
        "product_flops_per_s": statistics.median(products[1:]),
    }
    cells = []
    for length, width in settings:
        work = _work(models[width], batches[length], width)
        cell: dict[str, Any] = {"history_length": length, "width": width}
        for name, of_setting in times.items():
            if (length, width) not in of_setting:
                continue
            found, needed = of_setting[length, width], work.get(name)
            cell |= {
                f"{name}_s": statistics.median(found[1:]),
                f"{name}_s_min": min(found[1:]),
                f"{name}_s_max": max(found[1:]),
                f"{name}_floor_s": needed
                and max(
                    needed[0] / speeds["copy_bytes_per_s"],
                    needed[1] / speeds["product_flops_per_s"],
                ),
            }
        cells.append(cell)
    return cells, speeds


def _work(model: SearchModel, batch: Batch, width: int) -> dict[str, tuple[int, int]]:
    """Bytes that must be read and written, and operations, of the lookup and of a dot product."""
    behaviours, shown = batch.num_behaviours, batch.label.numel()
    numbers, scores = 2 * width * (behaviours + shown), batch.num_targets * behaviours
    found = {"lookup": (8 * 2 * (behaviours + shown) + 4 * 2 * numbers, 0)}
    if isinstance(model.ranker.interaction.search.scorer, DotScorer):
        # Rows are read; scores are written, and read to find the best.
        products = 2 * scores * 2 * width
        found["search"] = 4 * (numbers + 2 * scores), products
        # No score is written; of what is kept a score, a column and whether it is one.
        kept = shown * model.ranker.interaction.search.top_k
        found["jagged"] = 4 * numbers + (4 + 8 + 1) * kept, products
    return found


def _grid(batch: Batch) -> RequestGrid:
    history, target = (
        torch.ops.fbgemm.asynchronous_complete_cumsum(batch.features[key].lengths()).long()
        for key in ("history_item", "target_item")
    )
    return RequestGrid(
        history_offset_R1=history,
        target_offset_R1=target,
        num_history=batch.num_history,
        num_targets=batch.num_targets,
        total_targets=batch.label.numel(),
    )
