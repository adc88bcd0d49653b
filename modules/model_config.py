"""The config of a ranker: which of the family's parts make the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from modules.attention import AttentionConfig
from modules.embedding import EmbeddingsConfig, Use
from modules.head import HeadConfig
from modules.projection import ProjectionConfig, feature_widths
from modules.search import SearchConfig

Preset = Literal[
    "dare",
    "twin",
    "dare_no_tr",
    "twin_no_tr",
    "twin_hard",
    "twin_proj",
    "twin_proj_concat",
    "twin_4e",
    "three_tables",
    "din",
    "sim_hard",
    "sim_soft",
    "eta",
    "sdim",
    "twin_v2",
    "twin_kdd23",
    "mirrn",
    "item_linear",
    "category_linear",
    "position_linear",
    "category_position_linear",
    "two_linear",
    "larger_embedding",
    "mlp_projection",
    "avoid_domination",
]


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Values a model starts from."""

    std: float = 0.01
    """Standard deviation of embeddings and linear weights, mean 0."""
    released_blanket: bool = False
    """Draw the weights of batch norms and PReLUs from the same distribution, as the released code
    does, instead of starting them from 1 and 0.1."""

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise ValueError(f"model.init.std is {self.std}; it must be finite and 0 or more")


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """A long-sequence ranking model."""

    preset: Preset = "dare"
    """The model by name; `modules/presets.py` has the equations of each. Sets which space each use
    reads, projections, scorer, search and the head's inputs where you do not; given after a config
    file of another preset, it replaces those of the file."""
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    """Tables: who shares them, how wide they are."""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    """Between tables and uses."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """First stage: what is kept of a history."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Second stage: how the kept is weighed."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """From target and history to the click's logit."""
    init: InitConfig = field(default_factory=InitConfig)
    """Starting values."""

    def __post_init__(self) -> None:
        problems = [*self._lookup_problems(), *self._head_problems()]
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def has_auxiliary_head(self) -> bool:
        """Attention by buckets or interests has no scores of whole histories to train."""
        scored = self.attention.scorer not in ("buckets", "interests")
        return self.head.auxiliary_weight > 0 and scored

    @property
    def sums_whole_histories(self) -> bool:
        """Representation is summed over whole histories, not only over what is kept."""
        return self.has_auxiliary_head or self.search.by == "none"

    def widths(self, use: Use) -> tuple[int, int]:
        """Widths behind the projection: of item and category together, and of the position."""
        widths = self.projection.projected(feature_widths(self.embeddings, use))
        position = widths.pop("position")
        return sum(widths.values()), position

    def _lookup_problems(self) -> Iterator[str]:
        """What rows that stay on their shards cannot do."""
        embeddings, projected = self.embeddings, self.projection.of_features
        one_sum = self.attention.sums == 1 and self.attention.scorer != "interests"
        if embeddings.pooled_space and (projected or not one_sum):
            what = "model.projection" if projected else f"attention {self.attention.scorer}"
            yield (
                f"model.embeddings.representation_lookup is pooled, which {what} cannot use; set "
                "it to unpooled"
            )
        plain = self.attention.scorer == "dot" and self.search.by in ("attention", "category")
        if embeddings.scored_space and (
            not plain or self.projection.kind != "none" or self.search.cluster_size
        ):
            yield (
                "model.embeddings.attention_lookup is scored, which multiplies rows on their "
                "shards as they are: it needs attention.scorer dot, search.by attention or "
                "category, no projection and no clusters; set it to unpooled"
            )

    def _head_problems(self) -> Iterator[str]:
        """What several heads, or projections of other widths, do not fit."""
        if self.widths("attention_target") != self.widths("attention_history"):
            yield "model.projection gives target and history different widths"
        if self.search.by == "own" and not self.has_auxiliary_head:
            yield (
                "model.search.by is own, whose matrices only the auxiliary head trains, which this "
                "model has not; set model.head.auxiliary_weight above 0"
            )
        scorer = self.attention.scorer
        if scorer in ("buckets", "interests") and self.search.cluster_size:
            yield (
                f"model.search.cluster_size is {self.search.cluster_size}, attention.scorer "
                f"{scorer}, whose scores are no exponents that a cluster's size could be added to; "
                "set cluster_size to 0"
            )
        if scorer == "interests" and self.search.by != "hamming":
            yield (
                f"model.attention.scorer is interests, search.by {self.search.by}; its queries are "
                "searched by hash bits: set search.by to hamming"
            )
        if self.projection.of_joined and scorer != "dot":
            yield (
                f"model.projection.place is joined, attention.scorer {scorer}; a "
                "joined projection is for dot"
            )
        for use in ("attention_target", "representation_target"):
            of_head = use.startswith("rep")
            width = sum(self.widths(use)) if of_head else self.widths(use)[0]
            shared = scorer == "multi_head" or (scorer == "interests" and of_head)
            if shared and width % self.attention.heads:
                yield (
                    f"model.attention.heads is {self.attention.heads}, {use} is {width} wide; "
                    "heads must share it evenly"
                )
