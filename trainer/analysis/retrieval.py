"""`dare analyze retrieval`: whether the search finds what matters (Fig. 9 of the paper).

What matters is the mutual information of a behaviour's cell with the click, counted over train;
where the data's true attention is known, also that. Letters: T targets, L behaviours, K ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.planted import Planted
from trainer.analysis.cases import Cases
from trainer.analysis.options import BesideOptions, Findings, Job, ModelOptions, read_beside
from trainer.analysis.ranking import Quality, rank_quality
from trainer.analysis.retrieval_figure import draw_retrieval
from trainer.analysis.scoring import Searched, open_run, planted_weights, searched_batches
from trainer.analysis.tables import TableScores, table_scores
from trainer.analysis.truth import GroundTruth, count_truth

INFORMATION, PLANTED = "mutual information", "planted attention"
SEARCH, TABLES, NEWEST, ANY = "search", "tables only", "newest first", "any order"


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(ModelOptions, BesideOptions):
    """Options of `dare analyze retrieval`; the defaults are the paper's."""

    depth: int = 20
    """Ranks that are judged."""
    min_samples: int = 700
    """Train targets that a category needs, else its targets are left out."""
    rare_below: int = 50
    """A cell that was clicked, or was not, fewer times than this in train is rare."""
    max_rare: int = 20
    """Behaviours of rare cells that a history may have, else its target is left out."""
    cases: int = 4
    """Targets to show one by one, drawn among all that count."""
    case_seed: int = 1
    """Of that draw."""

    def __post_init__(self) -> None:
        self.check_least(depth=1, min_samples=0, rare_below=0, max_rare=0, cases=0, case_seed=0)


class Curve:
    """Mean quality of one order over targets.

    Args:
        depth: K.
    """

    def __init__(self, depth: int) -> None:
        self._sum = {name: np.zeros(depth) for name in Quality._fields}
        self._squares, self._targets = np.zeros(depth), 0

    def add(self, quality: Quality) -> None:
        """Add targets; those without any gain do not count."""
        counts_T = quality.ndcg_TK[:, -1].isfinite()
        for name, value_TK in quality._asdict().items():
            self._sum[name] += value_TK[counts_T].sum(0).numpy()
        self._squares += quality.ndcg_TK[counts_T].square().sum(0).numpy()
        self._targets += int(counts_T.sum())

    def means(self) -> dict[str, Any]:
        """Means by k = 1 ... K, and the standard error of NDCG."""
        targets = max(1, self._targets)
        mean = {name.removesuffix("_TK"): total / targets for name, total in self._sum.items()}
        variance = np.maximum(self._squares / targets - mean["ndcg"] ** 2, 0)
        return {**mean, "ndcg_error": np.sqrt(variance / targets), "targets": self._targets}


def retrieval(job: Job, options: RetrievalOptions) -> Findings:
    """Judge the order in which the search ranks histories.

    Raises:
        ValueError: the model has no search, or the rules leave no target.
    """
    if job.config.model.search.by == "none":
        raise ValueError(f"{job.title} keeps whole histories: there is no search to judge")
    others = read_beside(job.folder, options, "retrieval")
    opened = open_run(job.config, job.text, job.context, options.at)
    train, judged = opened.log("train"), opened.log(options.split)
    truth = count_truth(train, judged, job.config.data.history_length, options.min_samples)
    content = {
        "checkpoint": opened.checkpoint,
        "step": opened.step,
        "split": options.split,
        "options": asdict(options),
        **judge(
            searched_batches(opened, options.split),
            truth,
            options,
            planted=opened.planted,
            tables=table_scores(opened),
        ),
    }
    title = f"{job.title}, {opened.checkpoint}"
    return Findings(content, draw_retrieval(content, title, others))


def judge(
    batches: Iterable[Searched],
    truth: GroundTruth,
    options: RetrievalOptions,
    *,
    planted: Planted | None,
    tables: TableScores | None,
) -> dict[str, Any]:
    """Judge the order of each target's history.

    Args:
        batches: targets with what the search ranks by.
        truth: what train tells of their cells.
        options: ranks, and which targets count.
        planted: the true attention, where it is known.
        tables: of the model, where they make a score.

    Raises:
        ValueError: the rules leave no target.
    """
    curves: dict[str, dict[str, Curve]] = {}
    cases, outcome = Cases(options.cases, options.case_seed), Counter[str]()
    for searched in batches:
        bits_TL, rarer_TL = truth.information(searched)
        gains = {INFORMATION: bits_TL}
        if planted is not None:
            gains[PLANTED] = planted_weights(planted, searched)
        orders = _orders(searched, tables)
        counts_T = _sort_out(searched, truth.samples(searched), bits_TL, rarer_TL, options, outcome)
        for gain, gain_TL in gains.items():
            for order, score_TL in orders.items():
                curve = curves.setdefault(gain, {}).setdefault(order, Curve(options.depth))
                some = [value[counts_T] for value in (score_TL, gain_TL, searched.valid_TL)]
                curve.add(rank_quality(some[0], some[1], some[2], options.depth))
        cases.add(searched, {**gains, SEARCH: searched.score_TL}, counts_T)
    if not outcome["judged"]:
        raise ValueError(
            f"no target of {options.split} is left to judge: "
            + ", ".join(f"{many:,} have {why}" for why, many in outcome.items() if why != "judged")
            + "; lower --min_samples or --rare_below, or raise --max_rare"
        )
    return {
        "targets": dict(outcome),
        "curves": {
            gain: {order: curve.means() for order, curve in of_gain.items()}
            for gain, of_gain in curves.items()
        },
        "cases": cases.chosen(),
    }


def _orders(searched: Searched, tables: TableScores | None) -> dict[str, Tensor]:
    """Scores whose orders are judged: the search's own, and what it has to be better than."""
    column_TL = torch.arange(searched.score_TL.size(1)).expand_as(searched.score_TL)
    orders = {
        # What cannot be found comes last.
        SEARCH: searched.score_TL.masked_fill(~searched.findable_TL, -torch.inf),
        # Equal scores share their gains, so that a constant is the mean over all orders.
        NEWEST: -column_TL,
        ANY: torch.zeros_like(searched.score_TL),
    }
    if tables is not None:
        orders[TABLES] = tables.scores(searched.target_T, searched.category_TL)
    return orders


def _sort_out(
    searched: Searched,
    samples_T: Tensor,
    bits_TL: Tensor,
    rarer_TL: Tensor,
    options: RetrievalOptions,
    outcome: Counter[str],
) -> Tensor:
    """Which targets count, by the paper's rules; the reasons of the others are counted."""
    rare_T = ((rarer_TL < options.rare_below) & searched.valid_TL).sum(1)
    infrequent_T = samples_T < options.min_samples
    rare_T = ~infrequent_T & (rare_T > options.max_rare)
    useless_T = ~infrequent_T & ~rare_T & ~((bits_TL > 0) & searched.valid_TL).any(1)
    counts_T = ~infrequent_T & ~rare_T & ~useless_T
    for why, those_T in (
        ("judged", counts_T),
        ("an infrequent category", infrequent_T),
        ("rare cells", rare_T),
        ("no informative behaviour", useless_T),
    ):
        outcome[why] += int(those_T.sum())
    return counts_T
