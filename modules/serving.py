"""The ranker of one request, from looked-up rows to logits: what is served, in two halves.

`find` reads what attention sees, `predict` what the head sees, so that they can live in different
services. Letters: T targets, N behaviours (newest first, padded at the end where need be), K kept,
Q targets head by head, A width of attention's rows, D width of representation's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from modules.embedding import USES, Embeddings, Use
from modules.feature_rows import FeatureRows
from modules.history import RequestGrid
from modules.interaction import Interaction, RankerOutput, Scores
from modules.model_config import RankerConfig
from modules.projection import UseProjection
from modules.representation import Kept
from modules.row_precision import RowPrecision
from modules.scorers import DotScorer, scaled
from modules.search_kernel import find_best, make_keys
from modules.views import Seen


class Served(NamedTuple):
    """What is told of a request's targets."""

    logit_T: Tensor
    kept_TK: Tensor
    """Which behaviours were kept."""
    weight_TK: Tensor
    """Their attention; 0 on padding."""


class Found(NamedTuple):
    """What `find` tells `predict`."""

    scores: Scores | None
    """None where kernels have searched without writing them down."""
    kept: Kept


class _Ids(NamedTuple):
    """Ids of a feature, read as of a jagged tensor."""

    id_N: Tensor

    def values(self) -> Tensor:
        return self.id_N


class ServedRanker(nn.Module):
    """Search, attention and head over rows that were looked up elsewhere.

    Args:
        config: of the trained model.
        rows: of the tables by feature.
        history_length: behaviours a history has at most.
        autocast: compute type it was trained with, None for float32.

    Raises:
        ValueError: its scores would depend on what else is ranked.
    """

    def __init__(
        self,
        config: RankerConfig,
        *,
        rows: dict[str, int],
        history_length: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if config.head.norm.startswith("batch") and config.head.evaluation_statistics == "batch":
            raise ValueError(
                "model.head.evaluation_statistics is batch: a target's score would depend on what "
                "is ranked beside it; add --model.head.evaluation_statistics running"
            )
        served = served_config(config)
        embeddings = Embeddings(
            served.embeddings,
            rows,
            torch.device("meta"),
            whole_histories=served.sums_whole_histories,
            table_types={},
        )
        self.interaction = Interaction(served, embeddings, history_length, None)
        self.autocast, self._most = autocast, history_length
        self.requires_grad_(False).eval()

    def forward(
        self,
        attention_target_TA: Tensor,
        attention_history_NA: Tensor,
        representation_target_TD: Tensor,
        representation_history_ND: Tensor,
        target_category_T: Tensor,
        history_category_N: Tensor,
        num_behaviours: Tensor,
    ) -> Served:
        """Rank the targets of a request.

        Args:
            attention_target_TA: rows of the targets, all tables side by side.
            attention_history_NA: rows of the behaviours.
            representation_target_TD: rows of the targets as the head sees them; the same where
                attention shares its tables.
            representation_history_ND: rows of the behaviours; only those of kept ones are used.
            target_category_T: category ids, which a search by category compares.
            history_category_N: likewise.
            num_behaviours: int64 [], how many of N are there; the others pad.
        """
        found = self.find(
            attention_target_TA,
            attention_history_NA,
            target_category_T,
            history_category_N,
            num_behaviours,
        )
        return self.predict(
            found, representation_target_TD, representation_history_ND, num_behaviours
        )

    def find(
        self,
        attention_target_TA: Tensor,
        attention_history_NA: Tensor,
        target_category_T: Tensor,
        history_category_N: Tensor,
        num_behaviours: Tensor,
    ) -> Found:
        """Score, keep K, weigh them; arguments as of `forward`."""
        rows = {
            "attention_target": attention_target_TA,
            "attention_history": attention_history_NA,
        }
        ids = {"history_category": history_category_N, "target_category": target_category_T}
        seen = self._see(rows, ids, num_behaviours)
        with self._types(attention_target_TA):
            return Found(*self.interaction.find(seen))

    def search_vectors(
        self, attention_target_TA: Tensor, attention_history_NA: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors whose dot products are the search's scores, for `search_kernel`.

        Scales go to the targets; the position's part, one number a behaviour for all targets of a
        request, is one more column.

        Args:
            attention_target_TA: rows of the targets.
            attention_history_NA: rows of the behaviours, none of which pads.

        Returns:
            query_TC and key_NC, float32.

        Raises:
            ValueError: the search is no dot product of rows.
        """
        scorer = self.interaction.search.scorer
        if not self.searches_by_dots:
            raise ValueError(
                f"{self.interaction.config.preset} does not search by dot products of rows; use "
                "ServedRanker.find"
            )
        assert isinstance(scorer, DotScorer)
        rows = {
            "attention_target": attention_target_TA,
            "attention_history": attention_history_NA,
        }
        seen = self._see(rows, {}, torch.tensor(attention_history_NA.size(0)))
        target_TA, key_NA = (
            seen.rows[use].joined for use in ("attention_target", "attention_history")
        )
        position_P = seen.target_position("attention_target")
        position_N = seen.history_position("attention_history") @ position_P
        # The score is linear in both products, so that these are its factors.
        one = target_TA.new_ones(1)
        widths = (scorer.width, position_P.numel())
        of_content = scaled(scorer.scale, one, torch.zeros_like(one), widths)
        of_position = scaled(scorer.scale, torch.zeros_like(one), position_N, widths)
        query_TC = torch.cat([target_TA * of_content, one.expand(len(target_TA), 1)], dim=1)
        return query_TC, torch.cat([key_NA, of_position.unsqueeze(1)], dim=1)

    @property
    def searches_by_dots(self) -> bool:
        """Whether the search is a dot product of rows, which `search_vectors` gives."""
        scorer, config = self.interaction.search.scorer, self.interaction.config
        return isinstance(scorer, DotScorer) and not config.search.cluster_size

    def find_by_kernel(
        self,
        precision: RowPrecision,
        attention_target_TA: Tensor,
        attention_history_NA: Tensor,
        num_behaviours: Tensor,
    ) -> Found:
        """What `find` gives, where `search_kernel` has searched; weights are float32's.

        Args:
            precision: of the vectors that are searched.
            attention_target_TA: as of `forward`.
            attention_history_NA: likewise.
            num_behaviours: likewise.

        Raises:
            ValueError: the search is no dot product of rows.
        """
        there_NA = attention_history_NA[: int(num_behaviours)]
        query_TC, key_NC = self.search_vectors(attention_target_TA, there_NA)
        index_TK = find_best(make_keys(key_NC, precision), query_TC, self.interaction.search.top_k)
        score_TN = query_TC @ key_NC.T
        weight_TK = torch.softmax(score_TN.gather(1, index_TK), dim=1)
        kept = Kept(
            index_TK.unsqueeze(0),
            torch.ones_like(index_TK, dtype=torch.bool).unsqueeze(0),
            weight_TK.unsqueeze(0),
        )
        behaviour_1N = torch.ones(1, key_NC.size(0), dtype=torch.bool)
        scores = Scores(score_TN.unsqueeze(0), score_TN.unsqueeze(0), behaviour_1N)
        return Found(scores, kept)

    def predict(
        self,
        found: Found,
        representation_target_TD: Tensor,
        representation_history_ND: Tensor,
        num_behaviours: Tensor,
    ) -> Served:
        """Pool what was kept and predict; arguments as of `forward`."""
        rows = {
            "representation_target": representation_target_TD,
            "representation_history": representation_history_ND,
        }
        seen = self._see(rows, {}, num_behaviours)
        counts_T = torch.ones_like(representation_target_TD[:, 0], dtype=torch.bool)
        with self._types(representation_target_TD):
            output: RankerOutput = self.interaction.predict(seen, *found, counts_T)
        return Served(output.logit_T, output.kept_TK, output.weight_TK)

    def _types(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self.autocast, enabled=self.autocast is not None)

    def _see(
        self, rows: Mapping[str, Tensor], ids: Mapping[str, Tensor], num_behaviours: Tensor
    ) -> Seen:
        interaction = self.interaction
        uses = {use: cast(UseProjection, interaction.uses[use]) for use in USES}
        (target, history) = rows.values()
        if history.size(0) > self._most:
            raise ValueError(
                f"{history.size(0)} behaviours are given, the model was trained on histories of "
                f"{self._most}; give the newest {self._most}"
            )
        grid = RequestGrid(
            history_offset_R1=_one_group(num_behaviours.clamp(max=history.size(0))),
            target_offset_R1=_one_group(torch.full_like(num_behaviours, target.size(0))),
            num_history=history.size(0),
            num_targets=target.size(0),
            total_targets=target.size(0),
        )
        read: dict[Use, FeatureRows] = {
            use: uses[use](FeatureRows(rows[use])) for use in USES if use in rows
        }
        features: Any = {name: _Ids(value) for name, value in ids.items()}
        positions = {use: uses[use].position(interaction.positions.table(use)) for use in USES}
        return Seen({}, features, grid, read, positions)


def served_config(config: RankerConfig) -> RankerConfig:
    """The same model over rows that were looked up one by one, without what only trains it."""
    embeddings = replace(
        config.embeddings, representation_lookup="unpooled", attention_lookup="unpooled"
    )
    head = config.head
    if config.search.by != "own":  # Whose matrices the auxiliary head's loss trains.
        head = replace(head, auxiliary_weight=0.0)
    return replace(config, embeddings=embeddings, head=head)


def _one_group(size: Tensor) -> Tensor:
    """Offsets of the only group, [2]."""
    return torch.stack([torch.zeros_like(size), size])
