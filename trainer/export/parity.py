"""Are served scores those of training? On rows of a split, and how far off they are.

The reference is the trained model itself, as it scores whole batches in an evaluation, over the
rows that these batches look up. Letters: T targets, K kept, N behaviours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from modules.ranker import Ranker
from modules.row_precision import RowPrecision
from modules.serving import Served, ServedRanker
from pipelines.batch import Batch
from pipelines.few_rows import looked_up, numbered_anew
from pipelines.loader import Split
from pipelines.schema import load_schema
from trainer.build import open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.export.artefact import Artefact, Rank
from trainer.metrics import SplitMetrics

ALLOWED = 1e-5
"""By how much a probability of fp32 tables may differ: rounding, since sums go in another order."""
_RARE = 1e-3
"""Share of targets that may differ by more: the edge of what a search keeps may fall elsewhere."""


_KERNELS: tuple[RowPrecision, ...] = ("bf16", "int8")
_ROADS = {
    "module": "config.yaml + ranker.safetensors",
    "program": "ranker.pt2",
    "search_bf16": "the same, searched in bf16",
    "search_int8": "the same, searched in 8 bits",
}


@dataclass
class Reference:
    """Real rows, and what of the tables they need."""

    split: Split
    batches: list[Batch]
    ids: dict[str, Tensor]
    """All ids by feature, ascending, and 0."""
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Rows of these ids by table."""

    def keep_rows(self, table: str, feature: str, whole: Tensor) -> None:
        """Remember what is needed of a table."""
        self.rows[table] = whole[self.ids[feature]]


def read_reference(
    config: TrainConfig, split: Split, requests: int, context: RunContext
) -> Reference:
    """Read so many requests of a split, in its order; 0 for all.

    Raises:
        ValueError: the data is not there, or does not fit the config.
    """
    schema = load_schema(config.data.schema)
    config.check(schema, 1)
    batches, left = [], requests or -1
    with_workers = replace(config, data=replace(config.data, workers=0))
    for batch in open_stream(with_workers, split, schema, context):
        batches.append(batch)
        left -= batch.features.stride()
        if requests and left <= 0:
            break
    if not batches:
        raise ValueError(f"data.{split}: {getattr(config.data, split)} holds no request")
    return Reference(split, batches, looked_up([batch.features for batch in batches]))


def score_reference(
    reference: Reference, config: TrainConfig, dense: Mapping[str, Tensor]
) -> Iterator[Scored]:
    """Score the batches with the trained model.

    Args:
        reference: with the rows of all tables.
        config: of the run.
        dense: weights of the interaction.
    """
    ranker = Ranker(
        config.model,
        rows={name: len(ids) for name, ids in reference.ids.items()},
        history_length=config.data.history_length,
        device=torch.device("cpu"),
        autocast=config.loop.autocast,
    )
    state = {f"interaction.{name}": value for name, value in dense.items()}
    for name in ranker.state_dict():
        if name.startswith("embeddings."):
            state[name] = reference.rows[name.split(".")[-2]]
    ranker.load_state_dict(state)
    ranker.eval()
    for batch in reference.batches:
        with torch.no_grad():
            output = ranker(
                numbered_anew(batch.features, reference.ids),
                batch.weight > 0,
                batch.num_history,
                batch.num_targets,
            )
        yield Scored(output.logit_T, list(output.kept_TK))


@dataclass(frozen=True)
class Scored:
    """Scores of a batch."""

    logit_T: Tensor
    kept_T: list[Tensor]
    """Columns of what was kept, of each target; any beyond its history's end."""


def score_served(artefact: Artefact, rank: Rank, batch: Batch) -> Scored:
    """Score a batch as it is served: request by request, from the artefact's tables."""
    logits: list[Tensor] = []
    kept: list[Tensor] = []
    for ids in _requests(batch.features):
        with torch.no_grad():
            logit_T, kept_TK, _ = rank(*artefact.inputs_of_rows(ids["target"], ids["history"]))
        logits.append(logit_T)
        kept.extend(kept_TK)
    return Scored(torch.cat(logits), kept)


def roads(artefact: Artefact) -> dict[str, Rank]:
    """The ways to rank from an artefact, by name."""
    found: dict[str, Rank] = {"module": artefact.ranker, "program": artefact.program()}
    if artefact.ranker.searches_by_dots:
        for precision in _KERNELS:
            found[f"search_{precision}"] = _by_kernel(artefact.ranker, precision)
    return found


def _by_kernel(ranker: ServedRanker, precision: RowPrecision) -> Rank:
    def rank(*inputs: Tensor) -> Served:
        target, history, representation_target, representation_history, *_, there = inputs
        found = ranker.find_by_kernel(precision, target, history, there)
        return ranker.predict(
            found, representation_target, representation_history[: int(there)], there
        )

    return rank


def compare(
    reference: Reference, trained: list[Scored], served: list[Scored]
) -> dict[str, float | int]:
    """How far served scores are from the trained model's.

    Returns:
        `score_error_max`, `_mean` and `_p99` of probabilities, `beyond` the share of targets whose
        error is above `ALLOWED`, `top_k_overlap` the share of kept behaviours that both keep,
        `auc` of what is served, and `auc_difference` from the trained model's.
    """
    error = (
        torch.cat([one.logit_T for one in served]).sigmoid()
        - torch.cat([one.logit_T for one in trained]).sigmoid()
    ).abs()
    both = kept = 0
    for batch, one, other in zip(reference.batches, trained, served, strict=True):
        lengths = torch.repeat_interleave(
            batch.features["history_item"].lengths(), batch.features["target_item"].lengths()
        )
        for length, kept_K, served_K in zip(
            lengths.tolist(), one.kept_T, other.kept_T, strict=True
        ):
            truth = {column for column in kept_K.tolist() if column < length}
            both += len(truth.intersection(served_K.tolist()))
            kept += len(truth)
    auc = _auc(reference, served)
    return {
        "score_error_max": float(error.max()),
        "score_error_mean": float(error.mean()),
        "score_error_p99": float(torch.quantile(error, 0.99)),
        "beyond": float((error > ALLOWED).float().mean()),
        "top_k_overlap": both / max(1, kept),
        "auc": auc,
        "auc_difference": auc - _auc(reference, trained),
    }


def format_parity(told: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    against = "the trained model"
    if told["changed"]:
        against = f"the trained weights with other {', '.join(told['changed'])} than in training"
    lines = [
        f"{told['targets']:,} targets of {told['requests']:,} requests of {told['split']}, against "
        f"{against}:"
    ]
    for name, what in _ROADS.items():
        if name not in told:
            continue
        one = told[name]
        lines.append(
            f"  {what}: probabilities off by {one['score_error_mean']:.1e} in the mean, "
            f"{one['score_error_p99']:.1e} for 99 %, {one['score_error_max']:.1e} at most; "
            f"{one['top_k_overlap']:.2%} of what is kept is the same; AUC {one['auc']:.5f} "
            f"({one['auc_difference']:+.1e})"
        )
    return "\n".join(lines)


def check_exact(figures: Mapping[str, Any]) -> None:
    """Refuse an artefact of fp32 tables that does not score as the trained model does.

    Raises:
        RuntimeError: too many targets differ by too much.
    """
    if figures["beyond"] > _RARE:
        raise RuntimeError(
            f"{figures['beyond']:.1%} of the targets are scored more than {ALLOWED} off the "
            f"trained model, by {figures['score_error_max']:.2g} at most; with fp32 tables "
            f"{_RARE:.1%} may be: nothing is exported"
        )


def _auc(reference: Reference, scored: list[Scored]) -> float:
    metrics = SplitMetrics()
    for batch, one in zip(reference.batches, scored, strict=True):
        metrics.update(one.logit_T, batch.label, batch.weight, batch.user)
    return metrics.compute()["auc"]


def _requests(features: KeyedJaggedTensor) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Ids of each request by side and feature."""
    parts = {
        key: torch.split(features[key].values(), features[key].lengths().tolist())
        for key in features.keys()  # noqa: SIM118 - no mapping
    }
    for place in range(features.stride()):
        ids: dict[str, dict[str, Tensor]] = {"target": {}, "history": {}}
        for key, of_requests in parts.items():
            side, _, name = key.partition("_")
            ids[side][name] = of_requests[place]
        yield ids
