"""Representation tables that attention does not read: weighted bags, one vector a target.

A bag is a target's behaviours, its weights are their attention. Where a table is shared with
attention (TWIN) every behaviour's own vector is needed for the scores; where it is not (DARE), only
sums are, and each shard can make them of the rows it holds. A request's rows are looked up once for
all its targets.
Letters: R requests, T targets, G groups of behaviours (requests, or targets), C sums a group,
L behaviours of the longest group, N behaviours, K kept, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.streamable import Multistreamable

from modules.routing import Slots

Side = Literal["history", "target"]
LookUp = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Pooled(NamedTuple):
    """What a table gives the head."""

    history_GCD: Tensor
    """Weighted sums of each group's behaviours."""
    target_TD: Tensor
    """Rows of the targets; [0, D] where no use reads them."""


class Pool(Protocol):
    """A batch whose ids are where their rows are; waits for weights. Used once a step."""

    def whole(self, weight_RCL: Tensor) -> list[Pooled]:
        """Sum whole histories.

        Args:
            weight_RCL: C weights of every behaviour, newest first; 0 on padding.

        Returns:
            Of each table, sums of each request, [R, C, D].
        """

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor, weight_TK: Tensor) -> list[Pooled]:
        """Sum what a search has kept; all other rows stay untouched.

        Args:
            behaviour_TK: which of the N behaviours.
            valid_TK: False where fewer than K were kept.
            weight_TK: their attention.

        Returns:
            Of each table, one sum a target, [T, 1, D].
        """


class PooledEmbeddings(EmbeddingBagCollection):
    """The tables of a representation space.

    Each table has one feature, its name; the ids are those of `history_<name>` and
    `target_<name>`. Its lookup gives a `Pool`, since the weights come after the ids.

    Args:
        tables: one feature each, of any widths.
        sides: which of history and target read them.
        whole: whole histories will be summed, so their ids travel ahead of the step; otherwise
            only kept behaviours are, whose ids are known after the search.
        device: `meta` where the tables are made by sharding.
    """

    def __init__(
        self,
        tables: list[EmbeddingBagConfig],
        *,
        sides: Sequence[Side],
        whole: bool,
        device: torch.device,
    ) -> None:
        super().__init__(tables=tables, is_weighted=True, device=device)
        self.sides, self.whole = tuple(sides), whole

    def forward(self, features: KeyedJaggedTensor) -> Pool:  # type: ignore[override]
        """Read the ids; arguments as `Embeddings.forward` takes them."""
        names = [table.feature_names[0] for table in self.embedding_bag_configs()]
        return LocalPool(slots_of(features, names, self.sides), self._rows)

    def _rows(self, ids: Sequence[Tensor]) -> list[Tensor]:
        weights = self.embedding_bags.parameters()
        return [weight[id_N] for weight, id_N in zip(weights, ids, strict=True)]


def slots_of(features: KeyedJaggedTensor, names: Sequence[str], sides: Sequence[Side]) -> Slots:
    """The ids of a batch by table.

    Args:
        features: keys `history_<name>` and `target_<name>`, stride R.
        names: of the tables.
        sides: which of history and target are read.
    """

    def ids(side: Side) -> list[Tensor]:
        values = [features[f"{side}_{name}"].values() for name in names]
        return values if side in sides else [value[:0] for value in values]

    return Slots(ids("history"), ids("target"), features[f"history_{names[0]}"].lengths().long())


def kept_slots(slots: Slots, behaviour_TK: Tensor, valid_TK: Tensor) -> Slots:
    """Slots whose groups are targets and whose behaviours are those kept; as `Pool.kept`."""
    behaviour_E = behaviour_TK[valid_TK]
    history = [ids[behaviour_E] if ids.numel() else ids for ids in slots.history]
    return Slots(history, slots.target, valid_TK.sum(1))


class LocalPool(Multistreamable):
    """A pool whose tables are all in this process.

    Args:
        slots: the ids.
        look_up: from ids of each table to their rows, [N, D].
    """

    def __init__(self, slots: Slots, look_up: LookUp) -> None:
        self.slots, self._look_up = slots, look_up

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        self.slots.record_stream(stream)

    def whole(self, weight_RCL: Tensor) -> list[Pooled]:
        """As `Pool.whole`."""
        length_R, longest = self.slots.length_G, weight_RCL.size(2)
        return [
            Pooled(weight_RCL @ dense_groups(row_ND, length_R, longest), row_TD)
            for row_ND, row_TD in self._rows_of(self.slots)
        ]

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor, weight_TK: Tensor) -> list[Pooled]:
        """As `Pool.kept`."""
        slots = kept_slots(self.slots, behaviour_TK, valid_TK)
        weight_E1 = weight_TK[valid_TK].unsqueeze(1)
        longest = behaviour_TK.size(1)
        return [
            Pooled(pool_groups(row_ED, weight_E1, slots.length_G, longest), row_TD)
            for row_ED, row_TD in self._rows_of(slots)
        ]

    def _rows_of(self, slots: Slots) -> list[tuple[Tensor, Tensor]]:
        """Rows of behaviours and of targets, of each table."""
        both = list(zip(slots.history, slots.target, strict=True))
        rows = self._look_up([torch.cat(ids) for ids in both])
        return [
            (row_ED[: behaviour_N.numel()], row_ED[behaviour_N.numel() :])
            for row_ED, (behaviour_N, _) in zip(rows, both, strict=True)
        ]


def pool_groups(row_ND: Tensor, weight_NC: Tensor, length_G: Tensor, longest: int) -> Tensor:
    """Weighted sums of each group's rows.

    Args:
        row_ND: rows, group by group.
        weight_NC: C weights of each.
        length_G: rows of each group.
        longest: of these.

    Returns:
        sum_GCD; 0 where a group is empty.
    """
    weight_GLC = dense_groups(weight_NC, length_G, longest)
    return weight_GLC.transpose(1, 2) @ dense_groups(row_ND, length_G, longest)


def dense_groups(value_ND: Tensor, length_G: Tensor, longest: int) -> Tensor:
    """Jagged rows as value_GLD, zeros on padding."""
    groups = length_G.numel()
    if value_ND.size(0) == groups * longest:
        return value_ND.view(groups, longest, value_ND.size(1))
    offset_G1 = torch.ops.fbgemm.asynchronous_complete_cumsum(length_G)
    dense: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(value_ND, [offset_G1], [longest])
    return dense


def jagged_groups(value_GLD: Tensor, length_G: Tensor, total: int) -> Tensor:
    """The rows of a padded grid that are no padding: value_ND."""
    groups, longest, width = value_GLD.shape
    if total == groups * longest:
        return value_GLD.reshape(total, width)
    offset_G1 = torch.ops.fbgemm.asynchronous_complete_cumsum(length_G)
    jagged: Tensor = torch.ops.fbgemm.dense_to_jagged(value_GLD.contiguous(), [offset_G1], total)[0]
    return jagged
