"""Where the search of a model is done by kernels over jagged histories (`jagged_best`).

Its device and K decide. Products are of float32 in any autocast: a narrower copy of all rows costs
more than it saves, so that there scores are not rounded to bf16, as they are without the kernels.
"""

from __future__ import annotations

import functools
import importlib.util

import torch

from modules.attention import masked_softmax
from modules.history import RequestGrid
from modules.jagged_best import Best, keep_best
from modules.model_config import RankerConfig
from modules.representation import Kept, UnpooledDots
from modules.scorers import DotScorer
from modules.search import SearchUnit
from modules.views import Seen

MOST_KEPT = {"cuda": 1024, "cpu": 128}
"""K that the kernels hold beside each other, or in order; of more, torch is asked."""
LEAST_COLUMNS = {"cuda": 1, "cpu": 8}
"""Times K: in shorter histories so much is kept that choosing takes longer than torch's."""


def runs_on(device: torch.device) -> bool:
    """Whether the kernels can run there; never while a graph of the model is traced."""
    there = device.type == "cpu" or (device.type == "cuda" and _has_triton())
    return there and not torch.compiler.is_compiling()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def takes_over(config: RankerConfig, search: SearchUnit, grid: RequestGrid) -> bool:
    """Whether the kernels search a batch of a model.

    They do where they know the search, and nobody asks for the scores that are not kept: neither
    sums over whole histories, such as the auxiliary head's, nor hooks that look into the search.
    """
    device = grid.history_offset_R1.device
    return (
        not config.sums_whole_histories
        and not _is_watched(search)
        and knows(config, search, device, grid.num_history)
    )


def knows(config: RankerConfig, search: SearchUnit, device: torch.device, columns: int) -> bool:
    """Whether a search is one for the kernels of a device.

    Scores must be dot products of rows that were looked up, K not too large, histories long enough
    to be searched.

    Args:
        config: of the model.
        search: its search.
        device: where it runs.
        columns: behaviours of the longest history.
    """
    scorer = search.scorer
    return (
        isinstance(scorer, DotScorer)
        and isinstance(scorer.dots, UnpooledDots)
        and not config.search.cluster_size
        and runs_on(device)
        and search.top_k <= MOST_KEPT[device.type]
        and search.top_k < columns
        and search.top_k * LEAST_COLUMNS[device.type] <= columns
    )


def _is_watched(search: SearchUnit) -> bool:
    return any(
        part._forward_pre_hooks or part._forward_hooks
        for part in (search, *search.scorer.modules())
    )


def kept_of(search: SearchUnit, seen: Seen) -> Kept:
    """What a search that the kernels know keeps, weighed by its scores.

    Args:
        search: its scorer is a `DotScorer`.
        seen: a batch whose longest history is longer than K.

    Raises:
        ValueError: as `keep_best`.
    """
    index_RMK, valid_RMK = best_of(search, seen)
    score_RMK = _dots_of(search).kept(seen, index_RMK)
    return Kept(index_RMK, valid_RMK, masked_softmax(score_RMK, valid_RMK))


def best_of(search: SearchUnit, seen: Seen) -> Best:
    """What it keeps, best first; arguments and errors as in `kept_of`."""
    scorer = _dots_of(search)
    with torch.autocast(seen.grid.history_offset_R1.device.type, enabled=False):
        factor, position_L = scorer.linear(seen)
        return keep_best(
            seen.rows["attention_history"].parts,
            seen.target_RMD("attention_target"),
            position_L,
            seen.grid.history_offset_R1,
            factor=factor,
            top_k=search.top_k,
        )


def _dots_of(search: SearchUnit) -> DotScorer:
    assert isinstance(search.scorer, DotScorer)
    return search.scorer
