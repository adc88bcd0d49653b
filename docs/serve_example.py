"""Rank targets for a user from what `dare export` has written, and tell how long that takes.

    python docs/serve_example.py ARTEFACT [TARGETS]

A service has the ids of the user's behaviours, newest first, and of the targets that are to be
ranked; here they are drawn. Letters: T targets, N behaviours, K kept.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from modules.search_kernel import find_best, make_keys
from trainer.export.artefact import load_artefact


def milliseconds(task: Callable[[], Any], calls: int = 50) -> str:
    """Median and 99th percentile of a task's time."""
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        task()
        taken.append(1e3 * (time.perf_counter() - started))
    return f"{statistics.median(taken):.2f} ms (99 %: {statistics.quantiles(taken, n=100)[98]:.2f})"


@torch.inference_mode()
def main(folder: str, targets: int = 100) -> None:
    """Load, rank, print."""
    torch.set_num_threads(1)
    artefact = load_artefact(folder)  # Compares digests, and runs no code of the folder.
    schema, rank = artefact.schema, artefact.ranker
    print(f"{schema.name} ({schema.preset}), step {schema.step}, {len(schema.tables)} tables")
    rows = {table.feature: table.rows for table in schema.tables.values()}
    history, ids = (
        {name: torch.randint(1, size, (number,)) for name, size in rows.items()}
        for number in (schema.history_length, targets)
    )
    inputs = artefact.inputs(ids, history)
    logit_T, kept_TK, weight_TK = rank(*inputs)
    for place in logit_T.topk(min(5, targets)).indices.tolist():
        newest = kept_TK[place, weight_TK[place].argmax()] + 1
        item, click = ids["item"][place], logit_T[place].sigmoid()
        print(f"  item {item}: click {click:.4f}, looks most at the behaviour {newest} ago")
    print(f"{targets} targets, {schema.history_length} behaviours, one thread:")
    print("  lookup of all rows   ", milliseconds(lambda: artefact.inputs(ids, history)))
    if rank.searches_by_dots:
        query_TC, key_NC = rank.search_vectors(inputs[0], inputs[1])
        keys, kept = make_keys(key_NC, "int8"), schema.top_k
        print("  search alone, 8 bits ", milliseconds(lambda: find_best(keys, query_TC, kept)))
    print("  search and prediction", milliseconds(lambda: rank(*inputs)))


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
