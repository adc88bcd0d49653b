"""Tables whose behaviours' rows stay where they are: only sums, or dot products, leave the shards.

A bag is a target's behaviours, its weights are their attention. Where a table is shared by
attention and representation (TWIN) every behaviour's own vector is needed; where it is not (DARE),
each shard can sum the rows it holds. A request's rows are looked up once for all its targets.
Letters: R requests, T targets, M targets of the fullest request, G groups of behaviours (requests,
or targets), C sums a group, L behaviours of the longest group, N behaviours, K kept, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.streamable import Multistreamable

from modules.history import padded
from modules.routing import Slots
from modules.travel import LookUp

Side = Literal["history", "target"]


class Rows(Protocol):
    """The rows of a batch, where they are stored. Looked up once, on the first question."""

    def targets(self) -> list[Tensor]:
        """Rows of the targets, of each table [T, D]."""

    def dots(self, query_RMD: Sequence[Tensor], longest: int) -> Tensor:
        """Dot products of queries with the behaviours of their request.

        Args:
            query_RMD: of each table.
            longest: L.

        Returns:
            dot_RML, summed over the tables; newest first, 0 on padding.
        """

    def sums(self, weight_GCL: Tensor) -> list[Tensor]:
        """Weighted sums of each group's behaviours.

        Args:
            weight_GCL: C weights of every behaviour, newest first; 0 on padding. C is the same
                multiple of M on every rank.

        Returns:
            sum_GCD of each table.
        """


class Searched(Protocol):
    """A batch of which the rows that a search keeps can be asked for."""

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor) -> Rows:
        """Rows of what a search has kept; all others stay untouched.

        Args:
            behaviour_TK: which of the N behaviours.
            valid_TK: False where fewer than K were kept.

        Returns:
            Rows whose groups are targets, and whose behaviours are the valid ones, in order.
        """


class PooledEmbeddings(EmbeddingBagCollection):
    """Tables of one space, in weighted bags.

    Each table has one feature, its name; the ids are those of `history_<name>` and
    `target_<name>`. Its lookup gives `Rows`, since the weights come after the ids.

    Args:
        tables: one feature each, of any widths.
        sides: which of history and target read them.
        whole: whole histories will be asked for, so their ids travel ahead of the step; otherwise
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

    def forward(self, features: KeyedJaggedTensor) -> LocalRows:  # type: ignore[override]
        """Read the ids; arguments as `Embeddings.forward` takes them."""
        names = [table.feature_names[0] for table in self.embedding_bag_configs()]
        return LocalRows(slots_of(features, names, self.sides), self._look_up)

    def _look_up(self, ids: Sequence[Tensor]) -> list[Tensor]:
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
    """Slots whose groups are targets and whose behaviours are those kept; as `Searched.kept`."""
    behaviour_E = behaviour_TK[valid_TK]
    history = [ids[behaviour_E] if ids.numel() else ids for ids in slots.history]
    return Slots(history, slots.target, valid_TK.sum(1))


class LocalRows(Multistreamable):
    """`Rows` that are all in this process.

    Args:
        slots: the ids.
        look_up: from ids of each table to their rows.
    """

    def __init__(self, slots: Slots, look_up: LookUp) -> None:
        self.slots, self._look_up = slots, look_up
        self._found: list[tuple[Tensor, ...]] | None = None

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        self.slots.record_stream(stream)

    def targets(self) -> list[Tensor]:
        """As `Rows.targets`."""
        return [row_TD for _, row_TD in self._rows()]

    def dots(self, query_RMD: Sequence[Tensor], longest: int) -> Tensor:
        """As `Rows.dots`."""
        row_RLD = self._behaviours(longest)
        # In this order the gradient of the rows, the largest tensor here, needs no transpose.
        dots = [row @ query.transpose(1, 2) for row, query in zip(row_RLD, query_RMD, strict=True)]
        return torch.stack(dots).sum(0).transpose(1, 2).contiguous()

    def sums(self, weight_GCL: Tensor) -> list[Tensor]:
        """As `Rows.sums`."""
        return [weight_GCL @ row_GLD for row_GLD in self._behaviours(weight_GCL.size(2))]

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor) -> LocalRows:
        """As `Searched.kept`."""
        return LocalRows(kept_slots(self.slots, behaviour_TK, valid_TK), self._look_up)

    def _behaviours(self, longest: int) -> list[Tensor]:
        return [dense_groups(row_ND, self.slots.length_G, longest) for row_ND, _ in self._rows()]

    def _rows(self) -> list[tuple[Tensor, ...]]:
        """Rows of behaviours and of targets, of each table."""
        if self._found is None:
            both = list(zip(self.slots.history, self.slots.target, strict=True))
            rows = self._look_up([torch.cat(ids) for ids in both])
            # Split, not sliced: the gradients of the two are joined, not each padded and added.
            self._found = [
                torch.split(row_ED, [ids.numel() for ids in pair])
                for row_ED, pair in zip(rows, both, strict=True)
            ]
        return self._found


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
    return padded(value_ND, _offsets(length_G), longest)


def jagged_groups(value_GLD: Tensor, length_G: Tensor, total: int) -> Tensor:
    """The rows of a padded grid that are no padding: value_ND."""
    groups, longest, width = value_GLD.shape
    if total == groups * longest:
        return value_GLD.reshape(total, width)
    jagged, _ = torch.ops.fbgemm.dense_to_jagged(
        value_GLD.contiguous(), [_offsets(length_G)], total
    )
    assert isinstance(jagged, Tensor)
    return jagged


def _offsets(length_G: Tensor) -> Tensor:
    offset_G1: Tensor = torch.ops.fbgemm.asynchronous_complete_cumsum(length_G)
    return offset_G1
