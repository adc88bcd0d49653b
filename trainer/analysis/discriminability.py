"""`dare analyze discriminability`: what clusters of representations tell about the click (Fig. 10).

Vectors are put into k clusters without looking at labels; the mutual information of cluster and
label, by k, says how much of the label lies in where vectors are.
Letters: T targets, D width of the representation, F width of the head's input.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    mutual_info_score,
    normalized_mutual_info_score,
)
from torch import Tensor, nn

from pipelines.loader import Split
from trainer.analysis.discriminability_figure import draw_discriminability
from trainer.analysis.options import BesideOptions, Findings, Job, ModelOptions, read_beside
from trainer.analysis.progress import told
from trainer.analysis.scoring import OpenedRun, open_run, scored

HEAD_INPUT, PRODUCT, CONCATENATED = "head input", "history * target", "[target, history]"
SCORES = {
    "mutual_information": mutual_info_score,
    "nmi": normalized_mutual_info_score,
    "adjusted": adjusted_mutual_info_score,
}
"""Nats; the same over the mean of both entropies; that less what chance alone would give."""


@dataclass(frozen=True, kw_only=True)
class DiscriminabilityOptions(ModelOptions, BesideOptions):
    """Options of `dare analyze discriminability`."""

    clusters: tuple[int, ...] = (2, 5, 10, 20, 30, 50, 100, 200)
    """Numbers of clusters."""
    cluster_seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seeds of the clustering; means over them are told, and their spread."""
    targets: int = 50_000
    """Targets that are clustered, about; of more, each is drawn with the same chance."""
    target_seed: int = 1
    """Of that draw."""

    def __post_init__(self) -> None:
        self.check_least(targets=1, target_seed=0)
        for name, values in (("clusters", self.clusters), ("cluster_seeds", self.cluster_seeds)):
            if not values or min(values) < (name == "clusters"):
                raise ValueError(f"--{name} is {list(values)}; give at least one, none below 1")


def discriminability(job: Job, options: DiscriminabilityOptions) -> Findings:
    """Cluster what the head sees, and compare clusters with labels."""
    others = read_beside(job.folder, options, "discriminability")
    opened = open_run(job.config, job.text, job.context, options.at)
    vectors, label_T = collect(opened, options)
    content: dict[str, Any] = {
        "checkpoint": opened.checkpoint,
        "step": opened.step,
        "split": options.split,
        "options": asdict(options),
        "targets": len(label_T),
        "clicked": float(label_T.mean()),
        "vectors": {
            name: cluster_scores(
                vector_TD, label_T, clusters=options.clusters, seeds=options.cluster_seeds
            )
            | {"width": vector_TD.shape[1]}
            for name, vector_TD in told(vectors.items(), "kinds of vectors clustered", len(vectors))
        },
    }
    return Findings(content, draw_discriminability({job.title: content, **others}))


def collect(
    opened: OpenedRun, options: DiscriminabilityOptions
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Vectors of a split's targets by kind, each [T, D] or [T, F], and whether each was clicked.

    Raises:
        ValueError: the split has no target.
    """
    told_of = opened.trainer.schema.splits.get(options.split)
    chance = options.targets / max(told_of.targets, options.targets) if told_of else 1.0
    rng = np.random.default_rng(options.target_seed)
    parts: dict[str, list[np.ndarray]] = {}
    labels = [np.zeros(0, bool)]
    for label_T, vectors in _seen_by_head(opened, options.split):
        drawn_T = torch.from_numpy(rng.random(label_T.numel()) < chance)
        labels.append(label_T[drawn_T].numpy() > 0.5)
        for name, vector_TD in vectors.items():
            parts.setdefault(name, []).append(vector_TD[drawn_T].numpy())
    clicked_T = np.concatenate(labels)
    if not clicked_T.size:
        raise ValueError(f"data.{options.split} holds no target")
    return {name: np.concatenate(some) for name, some in parts.items()}, clicked_T


def _seen_by_head(opened: OpenedRun, split: Split) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Labels and vectors of each batch, float32 on the CPU."""
    head, seen = opened.interaction.head, dict[str, Tensor]()

    def before_head(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        target_TD, history_TD = (value.float().cpu() for value in arguments[:2])
        # The same as the weighted sum of e * v, since v is one for all behaviours.
        seen[PRODUCT] = history_TD * target_TD
        seen[CONCATENATED] = torch.cat([target_TD, history_TD], dim=1)

    def before_norm(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[HEAD_INPUT] = arguments[0].float().cpu()

    handles = [
        head.register_forward_pre_hook(before_head),
        head.norm.register_forward_pre_hook(before_norm),
    ]
    try:
        for batch, _ in scored(opened, split):
            yield batch.label, dict(seen)
    finally:
        for handle in handles:
            handle.remove()


def cluster_scores(
    vector_TD: np.ndarray, clicked_T: np.ndarray, *, clusters: Sequence[int], seeds: Sequence[int]
) -> dict[str, Any]:
    """What clusters tell about the label.

    Args:
        vector_TD: to cluster, by mini-batch k-means.
        clicked_T: the label.
        clusters: numbers of clusters.
        seeds: of the clustering.

    Returns:
        Of each of `SCORES` the means over the seeds, one a number of clusters, and their sample
        standard deviations as `..._deviation`.

    Raises:
        ValueError: there are more clusters than vectors.
    """
    if max(clusters) > len(vector_TD):
        raise ValueError(
            f"--clusters has {max(clusters)}, there are {len(vector_TD)} targets to cluster"
        )
    value_SKM = np.zeros((len(seeds), len(clusters), len(SCORES)))
    for at, (seed, k) in enumerate(itertools.product(seeds, clusters)):
        means = MiniBatchKMeans(n_clusters=k, random_state=seed, n_init=3)
        cluster_T = means.fit_predict(vector_TD)
        value_SKM[divmod(at, len(clusters))] = [
            score(clicked_T, cluster_T) for score in SCORES.values()
        ]
    found: dict[str, Any] = {}
    for number, name in enumerate(SCORES):
        value_SK = value_SKM[:, :, number]
        found[name] = value_SK.mean(0)
        found[f"{name}_deviation"] = (
            value_SK.std(0, ddof=1) if len(seeds) > 1 else np.zeros(len(clusters))
        )
    return found
