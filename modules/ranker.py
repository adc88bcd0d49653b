"""The ranker: lookups, search, attention, head. Every model of the family is one setting of it.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, K kept, N jagged total, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torchrec import DataType, KeyedJaggedTensor

from modules.attention import AttentionConfig, masked_softmax, pool_kept
from modules.embedding import Embeddings, EmbeddingsConfig, Lookups, Positions
from modules.head import Head, HeadConfig
from modules.history import RequestGrid
from modules.representation import Kept, make_dots, make_reader
from modules.scorers import DotScorer
from modules.search import SearchConfig, SearchUnit

Preset = Literal["dare", "twin"]


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
    """The model by name: `dare` (two spaces) or `twin` (one). Sets `embeddings.uses` where you do
    not; given after a config file of another preset, it replaces those of the file."""
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    """Tables: who shares them, how wide they are."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """First stage: what is kept of a history."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Second stage: how the kept is weighed."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """From target and history to the click's logit."""
    init: InitConfig = field(default_factory=InitConfig)
    """Starting values."""


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


class Ranker(nn.Module):
    """Scores the targets of each request against its history.

    Args:
        config: the model.
        rows: rows of the `item` and of the `category` table.
        history_length: behaviours a history has at most.
        device: `meta` where the tables are made by sharding.
        autocast: compute type of the part after the lookups.
        table_types: type of the weights by table, float32 for those that are not named.
    """

    def __init__(
        self,
        config: RankerConfig,
        *,
        rows: dict[str, int],
        history_length: int,
        device: torch.device,
        autocast: torch.dtype | None = None,
        table_types: Mapping[str, DataType] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(
            config.embeddings,
            rows,
            device,
            whole_histories=config.head.auxiliary_weight > 0,
            table_types=table_types or {},
        )
        self.interaction = Interaction(config, self.embeddings, history_length, autocast)

    def forward(
        self, features: KeyedJaggedTensor, counts_T: Tensor, num_history: int, num_targets: int
    ) -> RankerOutput:
        """Score a batch.

        Args:
            features: keys `history_item history_category target_item target_category`, stride R;
                histories newest first. Untouched up to the lookup, else TorchRec cannot send the
                ids ahead.
            counts_T: False on targets that only pad.
            num_history: behaviours of the longest history, L.
            num_targets: targets of the fullest request, M.

        Returns:
            The logits and what the search kept.
        """
        lookups = self.embeddings(features)
        return self.interaction(lookups, features, counts_T, num_history, num_targets)


class Interaction(nn.Module):
    """All of the ranker that is not a sharded table.

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
        # Plain references: registered, they would make the tables parameters of this module too.
        self._dots, self._read = make_dots(embeddings), make_reader(embeddings)
        self.autocast = autocast
        self.positions = Positions(config.embeddings, history_length)
        attention = config.embeddings.attention
        self.attention_scorer = DotScorer(config.attention.scale, attention.looked_up)
        self.search = SearchUnit(config.search, self.attention_scorer)
        widths = config.embeddings.representation
        width = widths.looked_up + widths.position
        self.head = Head(config.head, config.head.hidden, width)
        self.auxiliary_head = (
            Head(config.head, config.head.auxiliary_hidden, width)
            if config.head.auxiliary_weight > 0
            else None
        )
        initialise(self, config.init)

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
            return self._score(lookups, grid, counts_T)

    def _score(self, lookups: Lookups, grid: RequestGrid, counts_T: Tensor) -> RankerOutput:
        with record_function("lookup"):
            dot_RML = self._dots(lookups, grid)
        with record_function("search"):
            score_RML = self.attention_scorer(
                dot_RML,
                self.positions.target("attention_target"),
                self.positions.history("attention_history", grid.num_history),
            ).float()
            index_RMK, valid_RMK = self.search(score_RML, grid.behaviour_RL())
            weight_RMK = masked_softmax(score_RML.gather(2, index_RMK), valid_RMK)
        with record_function("pool"):
            kept = Kept(index_RMK, valid_RMK, weight_RMK)
            target_TD, history_RCD = self._pool(lookups, grid, score_RML, kept)
        with record_function("dense"):
            return self._predict(grid, target_TD, history_RCD, counts_T, kept)

    def _pool(
        self, lookups: Lookups, grid: RequestGrid, score_RML: Tensor, kept: Kept
    ) -> tuple[Tensor, Tensor]:
        """The targets, and sums of their histories: first of what was kept, then of everything."""
        position_LP = self.positions.history("representation_history", grid.num_history)
        if self.auxiliary_head is None:
            read = self._read.kept(lookups, grid, kept)
            position_RCP = pool_kept(kept.weight_RMK, position_LP[kept.index_RMK])
        else:
            # The auxiliary head sums all behaviours: one product serves both heads' weights.
            behaviour_RML = grid.behaviour_RL().unsqueeze(1).expand_as(score_RML)
            weight_RCL = torch.cat(
                [
                    torch.zeros_like(score_RML).scatter(2, kept.index_RMK, kept.weight_RMK),
                    masked_softmax(score_RML, behaviour_RML),
                ],
                dim=1,
            )
            read = self._read.whole(lookups, grid, weight_RCL)
            position_RCP = weight_RCL @ position_LP
        history_RCD = torch.cat([read.history_RCD, position_RCP], dim=2)
        return self._with_position(read.target_TD), history_RCD

    def _predict(
        self,
        grid: RequestGrid,
        target_TD: Tensor,
        history_RCD: Tensor,
        counts_T: Tensor,
        kept: Kept,
    ) -> RankerOutput:
        kept_RMD, all_RMD = history_RCD.tensor_split([grid.num_targets], dim=1)
        logit_T = self.head(target_TD, grid.from_targets(kept_RMD), counts_T)
        auxiliary_logit_T = None
        if self.auxiliary_head is not None:
            auxiliary_logit_T = self.auxiliary_head(target_TD, grid.from_targets(all_RMD), counts_T)
        return RankerOutput(
            logit_T,
            auxiliary_logit_T,
            grid.from_targets(kept.index_RMK),
            grid.from_targets(kept.weight_RMK).detach(),
        )

    def _with_position(self, target_TD: Tensor) -> Tensor:
        """The targets from the representation space with their position's part."""
        position_P = self.positions.target("representation_target")
        return torch.cat([target_TD, position_P.expand(target_TD.size(0), -1)], dim=1)


def _offsets(features: KeyedJaggedTensor, key: str) -> Tensor:
    return torch.ops.fbgemm.asynchronous_complete_cumsum(features[key].lengths()).long()


@torch.no_grad()
def initialise(module: nn.Module, config: InitConfig) -> None:
    """Draw the starting values of everything dense.

    Linear weights and position tables from N(0, std^2); biases keep PyTorch's own; norms start as
    the identity and PReLUs at 0.1 unless the released code's blanket is asked for.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            continue
        drawn = parameter.dim() == 2
        if drawn or config.released_blanket:
            parameter.normal_(0.0, config.std)
