"""All of the ranker that is not a sharded table: search, attention, head.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, K kept, C sums a request, Q targets head by head, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torchrec import KeyedJaggedTensor

from modules import jagged_search
from modules.attention import make_output, masked_softmax, pool_kept
from modules.embedding import Embeddings, Lookups
from modules.grouping import clusters
from modules.head import Head
from modules.history import RequestGrid
from modules.interests import Interests, InterestScorer, shares
from modules.model_config import InitConfig, RankerConfig
from modules.positions import Positions
from modules.projection import UseProjection, make_uses
from modules.representation import Kept, make_dots, make_reader
from modules.scorers import (
    BucketScorer,
    DotScorer,
    JoinedDotScorer,
    MlpScorer,
    MultiHeadScorer,
)
from modules.search import SearchUnit, sample
from modules.search_scorers import CategoryScorer, HammingScorer, OwnScorer
from modules.views import Seen, Views


class RankerOutput(NamedTuple):
    """What a forward pass returns for the targets of a batch."""

    logit_T: Tensor
    """The click's logit."""
    auxiliary_logit_T: Tensor | None
    """The auxiliary network's logit, where there is one."""
    kept_TK: Tensor
    """Columns of the kept behaviours: 0 is the newest."""
    weight_TK: Tensor
    """Their attention; 0 on padding."""


class Interaction(nn.Module):
    """Search, attend, predict.

    Args:
        config: the model.
        embeddings: says which use reads what; its tables are not touched.
        history_length: behaviours a history has at most.
        autocast: compute type, None for float32.
    """

    def __init__(
        self,
        config: RankerConfig,
        embeddings: Embeddings,
        history_length: int,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.config, self.autocast = config, autocast
        self.positions = Positions(config.embeddings, history_length)
        self.uses = make_uses(config.projection, config.embeddings)
        self._see = Views(embeddings, self.positions, self.uses)
        self._read = make_reader(embeddings)
        self.attention_scorer = self._make_attention_scorer(embeddings)
        everything = config.search.by == "none"
        scorer = self._make_search_scorer()
        # Kept, not asked again: torch.export gives one module's two names two objects.
        self._one_scorer = scorer is self.attention_scorer
        self.search = SearchUnit(history_length if everything else config.search.top_k, scorer)
        width = sum(config.widths("representation_target"))
        self.output = make_output(config.attention, width)
        self.interests = (
            Interests(width, config.attention.heads, config.search.top_k)
            if config.attention.scorer == "interests"
            else None
        )
        self.head = Head(config.head, config.head.hidden, width)
        self.auxiliary_head = (
            Head(config.head, config.head.auxiliary_hidden, width)
            if config.has_auxiliary_head
            else None
        )
        initialise(self, config.init)

    def _make_attention_scorer(self, embeddings: Embeddings) -> nn.Module:
        attention = self.config.attention
        width, position_width = self.config.widths("attention_target")
        if attention.scorer == "mlp":
            return MlpScorer(width, attention.hidden)
        if attention.scorer == "multi_head":
            return MultiHeadScorer(width, position_width, attention.heads)
        if attention.scorer == "buckets":
            return BucketScorer(width, attention.hash_groups, attention.hash_bits)
        if attention.scorer == "interests":
            return InterestScorer(width, self.config.search.hash_bits, attention.recent)
        if self.config.projection.of_joined:
            return JoinedDotScorer(self.uses, attention.scale, width)
        return DotScorer(make_dots(embeddings), attention.scale, width)

    def _make_search_scorer(self) -> nn.Module:
        search = self.config.search
        width, position_width = self.config.widths("attention_target")
        if search.by == "category":
            return CategoryScorer()
        if search.by == "hamming" and self.config.attention.scorer != "interests":
            return HammingScorer(width, search.hash_bits)
        if search.by == "own":
            return OwnScorer(width + position_width, search.own_width)
        return self.attention_scorer

    def forward(
        self,
        lookups: Lookups,
        features: KeyedJaggedTensor,
        counts_T: Tensor,
        num_history: int,
        num_targets: int,
    ) -> RankerOutput:
        """Search, attend, predict; arguments and result as in `Ranker.forward`."""
        grid = RequestGrid(
            history_offset_R1=_offsets(features, "history_item"),
            target_offset_R1=_offsets(features, "target_item"),
            num_history=num_history,
            num_targets=num_targets,
            total_targets=counts_T.numel(),
        )
        with torch.autocast(
            counts_T.device.type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            with record_function("lookup"):
                seen = self._see(lookups, features, grid)
            scores, kept = self.find(seen)
            return self.predict(seen, scores, kept, counts_T)

    def find(self, seen: Seen) -> tuple[Scores | None, Kept]:
        """Score everything, keep the best, weigh it: reads what attention sees only.

        Returns:
            Scores, None where kernels have searched without writing them down, and what is kept.
        """
        with record_function("search"):
            if jagged_search.takes_over(self.config, self.search, seen.grid):
                return None, jagged_search.kept_of(self.search, seen)
            return self._search(seen)

    def predict(
        self, seen: Seen, scores: Scores | None, kept: Kept, counts_T: Tensor
    ) -> RankerOutput:
        """Pool and predict: reads what the head sees only, and what `find` gave."""
        with record_function("pool"):
            if self.interests is None:
                target_TD, history_RCD = self._pool(seen, scores, kept)
            else:
                target_TD, history_RCD, kept = self.interests(seen, kept)
        with record_function("dense"):
            return self._predict(seen.grid, target_TD, history_RCD, counts_T, kept)

    def _search(self, seen: Seen) -> tuple[Scores, Kept]:
        """The same is kept for all heads."""
        behaviour_RL = seen.grid.behaviour_RL()
        score_RQL = self.attention_scorer(seen).float()
        if self.config.search.cluster_size:
            behaviour_RL, log_size_RL = clusters(
                seen.history_RLD("attention_history"), behaviour_RL, self.config.search.cluster_size
            )
            score_RQL = score_RQL + log_size_RL.unsqueeze(1)
        heads = self.config.attention.sums
        if self._one_scorer:
            rank_RML = _sum_heads(score_RQL, heads)
        else:
            rank_RML = self.search.scorer(seen).float()
        index_RMK, valid_RMK = self.search(rank_RML, behaviour_RL)
        index_RQK, valid_RQK = index_RMK.repeat(1, heads, 1), valid_RMK.repeat(1, heads, 1)
        weight_RQK = self._weigh(score_RQL.gather(2, index_RQK), valid_RQK)
        return Scores(score_RQL, rank_RML, behaviour_RL), Kept(index_RQK, valid_RQK, weight_RQK)

    def _weigh(self, score: Tensor, valid: Tensor) -> Tensor:
        if self.config.attention.scorer == "buckets":
            return score * valid
        if self.config.attention.scorer == "interests":
            return shares(valid)
        return masked_softmax(score, valid)

    def _pool(self, seen: Seen, scores: Scores | None, kept: Kept) -> tuple[Tensor, Tensor]:
        """The targets, and sums of their histories: first of what was kept, then of everything."""
        position_LP = seen.history_position("representation_history")
        if not self.config.sums_whole_histories:
            read = self._read.kept(seen, kept)
            position_RCP = pool_kept(kept.weight_RMK, position_LP[kept.index_RMK])
            weight_RC = kept.weight_RMK.sum(dim=2)
        else:
            assert scores is not None
            weight_RCL = self._whole_weights(scores, kept)
            read = self._read.whole(seen, weight_RCL)
            position_RCP = weight_RCL @ position_LP
            weight_RC = weight_RCL.sum(dim=2)
        target, history = (self._use(f"representation_{side}") for side in ("target", "history"))
        position_P = seen.target_position("representation_target")
        target_TD = torch.cat(
            [read.target_TD, position_P.expand(read.target_TD.size(0), -1)], dim=1
        )
        history_RCD = torch.cat([read.history_RCD, position_RCP], dim=2)
        return target.join(target_TD), history.join(history_RCD, weight_RC)

    def _whole_weights(self, scores: Scores, kept: Kept) -> Tensor:
        """Weights of whole histories, of the kept first: one product serves both heads."""
        weights = [torch.zeros_like(scores.score_RQL).scatter(2, kept.index_RMK, kept.weight_RMK)]
        if self.auxiliary_head is not None:
            behaviour_RL = scores.behaviour_RL
            if self.training and self.config.head.auxiliary_sample:
                behaviour_RL = sample(behaviour_RL, self.config.head.auxiliary_sample)
            behaviour_R1L = behaviour_RL.unsqueeze(1)
            if self.config.search.by == "own":
                # Raw scores: with a softmax among all, a single best behaviour would be enough.
                weights.append(scores.rank_RML * behaviour_R1L)
            else:
                behaviour_RQL = behaviour_R1L.expand_as(scores.score_RQL)
                weights.append(masked_softmax(scores.score_RQL, behaviour_RQL))
        return torch.cat(weights, dim=1)

    def _use(self, use: str) -> UseProjection:
        projection = self.uses[use]
        assert isinstance(projection, UseProjection)
        return projection

    def _predict(
        self,
        grid: RequestGrid,
        target_TD: Tensor,
        history_RCD: Tensor,
        counts_T: Tensor,
        kept: Kept,
    ) -> RankerOutput:
        kept_RQD, all_RCD = history_RCD.tensor_split([kept.index_RMK.size(1)], dim=1)
        logit_T = self.head(target_TD, grid.from_targets(self.output(kept_RQD)), counts_T)
        auxiliary_logit_T = None
        if self.auxiliary_head is not None:
            raw = self.config.search.by == "own"
            all_RMD = all_RCD if raw else self.output(all_RCD)
            auxiliary_logit_T = self.auxiliary_head(target_TD, grid.from_targets(all_RMD), counts_T)
        index_RMK = kept.index_RMK[:, : grid.num_targets]
        heads = self.config.attention.sums
        weight_RMK = _sum_heads(kept.weight_RMK.detach(), heads) / heads
        return RankerOutput(
            logit_T,
            auxiliary_logit_T,
            grid.from_targets(index_RMK),
            grid.from_targets(weight_RMK),
        )


class Scores(NamedTuple):
    """Of all behaviours: by attention, head by head; by the search; and which may be kept."""

    score_RQL: Tensor
    rank_RML: Tensor
    behaviour_RL: Tensor


def _sum_heads(value_RQL: Tensor, heads: int) -> Tensor:
    """Sum over heads, value_RML."""
    if heads == 1:
        return value_RQL
    return torch.unflatten(value_RQL, 1, (heads, -1)).sum(dim=1)


def _offsets(features: KeyedJaggedTensor, key: str) -> Tensor:
    return torch.ops.fbgemm.asynchronous_complete_cumsum(features[key].lengths()).long()


@torch.no_grad()
def initialise(module: nn.Module, config: InitConfig) -> None:
    """Draw the starting values of everything dense.

    Linear weights and position tables from N(0, std^2), `OwnScorer`'s alike; biases are PyTorch's;
    norms start as the identity and PReLUs at 0.1 but for the released code's blanket.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            continue
        if parameter.dim() == 2 or config.released_blanket:
            parameter.normal_(0.0, config.std)
    for part in module.modules():
        if isinstance(part, OwnScorer):
            part.start_alike()
