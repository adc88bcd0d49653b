"""What can be asked of rows that stay on their shards: dot products and weighted sums.

Queries or weights go to the shards, dot products or sums come back; no behaviour's row crosses the
network. Letters: R requests, T targets, M targets of the fullest request, G groups of behaviours
(requests, or targets), C sums a group, L behaviours of the longest group, N behaviours, B of them
on one part, E ids in the order they were sent, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchrec.streamable import Multistreamable

from modules.exchange import all_to_all, scale_gradient
from modules.pooled import dense_groups, jagged_groups, pool_groups
from modules.routing import Part, Sent, Slots
from modules.travel import Arrived, Shards


class ShardedRows(Multistreamable):
    """`Rows` that are on several ranks. Everything asked of them is a collective, also backward.

    Args:
        shards: where the tables are.
        slots: the ids of this rank's batch.
        sent: where they went.
        arrived: what came from all ranks.
    """

    def __init__(self, shards: Shards, slots: Slots, sent: Sent, arrived: Arrived) -> None:
        self.shards, self.slots, self.sent, self.arrived = shards, slots, sent, arrived
        self._rows: list[Tensor] | None = None

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for part in (self.slots, self.sent, self.arrived):
            part.record_stream(stream)

    def targets(self) -> list[Tensor]:
        """As `Rows.targets`."""
        arrived = self.arrived
        pieces = [
            torch.split(row_ED[self._behaviours(p) :], [counts[p][1] for counts in arrived.counts])
            for p, row_ED in enumerate(self._look_up())
        ]
        # Wants a gradient on every rank, also where there is no part: backward is a collective.
        tie = torch.zeros(
            0, device=self.slots.length_G.device, requires_grad=torch.is_grad_enabled()
        )
        sizes = [part.columns * t for part, (_, t) in self._parts()]
        back = self._to_sources("pooled rows", pieces, sizes, tie)
        places = None
        if self.sent.target_E is not None:
            places = torch.split(self.sent.target_E, [t for _, t in self.sent.counts])
        lanes = []
        for lane in self.shards.parts.lanes:
            row_TD = torch.cat([back[p].view(-1, lane.columns) for p in lane.parts])
            if places is not None:
                order_T = torch.argsort(torch.cat([places[p] for p in lane.parts]))
                row_TD = row_TD.index_select(0, order_T)
            lanes.append(row_TD)
        return self._join(lanes)

    def dots(self, query_RMD: Sequence[Tensor], longest: int) -> Tensor:
        """As `Rows.dots`."""
        arrived, fullest = self.arrived, query_RMD[0].size(1)
        queries = [
            query_RMD[part.table].narrow(2, part.first_column, part.columns).flatten()
            for part in self.shards.parts.parts
        ]
        tie, came = self._to_parts(
            "pooled queries",
            queries,
            lambda p, rank: (
                arrived.groups[rank] * arrived.fullest[rank] * self.shards.parts.mine[p].columns
            ),
        )
        pieces, most = [], max(arrived.fullest)
        for p, row_ED in enumerate(self._look_up()):
            row_BD = row_ED[: self._behaviours(p)]
            query_GMD = torch.cat(
                [
                    pad(query.view(-1, m, row_ED.size(1)), (0, 0, 0, most - m))
                    for query, m in zip(came[p], arrived.fullest, strict=True)
                ]
            )
            row_GLD = dense_groups(row_BD, arrived.lengths[p], arrived.longest[p])
            dot_GLM = (row_GLD @ query_GMD.transpose(1, 2)).float()
            dot_BM = jagged_groups(dot_GLM, arrived.lengths[p], row_BD.size(0))
            of_rank = torch.split(dot_BM, [counts[p][0] for counts in arrived.counts])
            pieces.append([dot[:, :m] for dot, m in zip(of_rank, arrived.fullest, strict=True)])
        sizes = [behaviours * fullest for _, (behaviours, _) in self._parts()]
        back = torch.cat(self._to_sources("pooled dots", pieces, sizes, tie)).view(-1, fullest)
        behaviours = self.slots.num_behaviours
        if self.sent.behaviour_E is None:
            dot_NM = back.view(len(self.sent.counts), behaviours, fullest).sum(0)
        else:
            dot_NM = back.new_zeros(behaviours, fullest).index_add(0, self.sent.behaviour_E, back)
        return dense_groups(dot_NM, self.slots.length_G, longest).transpose(1, 2).contiguous()

    def sums(self, weight_GCL: Tensor) -> list[Tensor]:
        """As `Rows.sums`."""
        length_G, behaviours = self.slots.length_G, self.slots.num_behaviours
        weight_NC = jagged_groups(weight_GCL.transpose(1, 2), length_G, behaviours)
        groups, sums = weight_GCL.size(0), weight_GCL.size(1)
        arrived, mine = self.arrived, self.shards.parts.rank
        sums_of = [m * sums // arrived.fullest[mine] for m in arrived.fullest]
        if self.sent.behaviour_E is None:
            weights = [weight_NC[:b].flatten() for _, (b, _) in self._parts()]
        else:
            sent_EC = weight_NC.index_select(0, self.sent.behaviour_E)
            weights = [
                weight_BC.flatten()
                for weight_BC in torch.split(sent_EC, [b for b, _ in self.sent.counts])
            ]
        tie, came = self._to_parts(
            "pooled weights", weights, lambda p, rank: arrived.counts[rank][p][0] * sums_of[rank]
        )
        pieces, most = [], max(sums_of)
        for p, row_ED in enumerate(self._look_up()):
            weight_BC = torch.cat(
                [
                    pad(weight.view(-1, c), (0, most - c))
                    for weight, c in zip(came[p], sums_of, strict=True)
                ]
            )
            row_BD = row_ED[: weight_BC.size(0)]
            sum_GCD = pool_groups(row_BD, weight_BC, arrived.lengths[p], arrived.longest[p])
            of_rank = torch.split(sum_GCD.float(), arrived.groups)
            pieces.append([value[:, :c] for value, c in zip(of_rank, sums_of, strict=True)])
        sizes = [groups * sums * part.columns for part, _ in self._parts()]
        back = self._to_sources("pooled sums", pieces, sizes, tie)
        return self._join(
            [
                torch.stack([back[p].view(groups, sums, lane.columns) for p in lane.parts]).sum(0)
                for lane in self.shards.parts.lanes
            ]
        )

    def _look_up(self) -> list[Tensor]:
        """Rows of each part here, looked up once."""
        if self._rows is None:
            rows = self.shards.look_up(self.arrived.ids)
            self._rows = [scale_gradient(row_ED, self.shards.share) for row_ED in rows]
        return self._rows

    def _parts(self) -> Iterator[tuple[Part, tuple[int, int]]]:
        """All parts, with the behaviours and targets this rank has sent to each."""
        return zip(self.shards.parts.parts, self.sent.counts, strict=True)

    def _behaviours(self, part: int) -> int:
        """Behaviours of all ranks on a part here."""
        return sum(counts[part][0] for counts in self.arrived.counts)

    def _to_parts(
        self, what: str, pieces: list[Tensor], size_from: Callable[[int, int], int]
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Send a flat piece to each part.

        Args:
            what: name of what they carry.
            pieces: for each part of all ranks.
            size_from: size of the piece for a part here from a rank.

        Returns:
            An empty view of what came, and the pieces of each part here, by rank. The view ties
            the way back to the way there even on a rank without parts.
        """
        parts = self.shards.parts
        sent = [0] * parts.world
        for part, piece in zip(parts.parts, pieces, strict=True):
            sent[part.rank] += piece.numel()
        mine = range(len(parts.mine))
        sizes = [[size_from(p, rank) for p in mine] for rank in range(parts.world)]
        received = [sum(size) for size in sizes]
        flat = self._send(what, torch.cat(pieces), sent, received)
        came = torch.split(flat, [size for of_rank in sizes for size in of_rank])
        return flat[:0], [list(came[p :: len(mine)]) for p in mine]

    def _to_sources(
        self, what: str, pieces: Sequence[Sequence[Tensor]], sizes: list[int], tie: Tensor
    ) -> list[Tensor]:
        """Send a piece of each part here to each rank.

        Args:
            what: name of what they carry.
            pieces: of each part here, by rank.
            sizes: of what comes from each part of all ranks.
            tie: what the result shall depend on, empty.

        Returns:
            The flat piece from each part of all ranks.
        """
        parts = self.shards.parts
        back = [piece[rank].flatten() for rank in range(parts.world) for piece in pieces]
        mine = len(pieces)
        sent = [
            sum(piece.numel() for piece in back[rank * mine : (rank + 1) * mine])
            for rank in range(parts.world)
        ]
        expected = [0] * parts.world
        for part, size in zip(parts.parts, sizes, strict=True):
            expected[part.rank] += size
        flat = self._send(what, torch.cat([tie, *back]), sent, expected)
        return list(torch.split(flat, sizes))

    def _send(self, what: str, flat: Tensor, sent: list[int], received: list[int]) -> Tensor:
        group, wire = self.shards.group, self.shards.wire
        return all_to_all(what, flat.float(), sent, received, group, wire)

    def _join(self, lanes: list[Tensor]) -> list[Tensor]:
        """The lanes of each table side by side."""
        by_table: dict[int, list[tuple[int, Tensor]]] = {}
        for lane, value in zip(self.shards.parts.lanes, lanes, strict=True):
            by_table.setdefault(lane.table, []).append((lane.first_column, value))
        return [
            torch.cat([value for _, value in sorted(by_table[table], key=lambda c: c[0])], dim=-1)
            for table in sorted(by_table)
        ]
