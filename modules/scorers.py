"""Scores of behaviours against targets that attention weighs by, and a search too.

What only a search ranks by is in `search_scorers`. A scorer takes a batch as its uses see it and
gives `score_RQL`: any real number, padding included, which callers mask. Q is M targets, or H heads
times M, head by head.
Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, H heads or groups, D width of item and category, P width of the position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.nn import functional as F

from modules.attention import Scale
from modules.grouping import SimHash
from modules.projection import UseProjection
from modules.representation import ShardDots, UnpooledDots
from modules.views import Seen


def scaled(scale: Scale, content: Tensor, position: Tensor, widths: tuple[int, int]) -> Tensor:
    """A score from the dot products of target and behaviour.

    Args:
        scale: `joint` is the paper's formula, one dot product over the root of the whole width
            (arXiv:2410.02604, section 3.1). `two_term` is what its released code computes: item
            and category over the root of their width, plus position over the root of its own.
            `position_twice` is what it computes for hard search: the whole over the root of the
            whole width, plus position over the root of its own.
        content: products of items and categories.
        position: products of positions, broadcast to it.
        widths: of item and category together, and of the position.
    """
    width, position_width = widths[0], max(1, widths[1])
    if scale == "two_term":
        return content / math.sqrt(width) + position / math.sqrt(position_width)
    whole = (content + position) / math.sqrt(sum(widths))
    return whole if scale == "joint" else whole + position / math.sqrt(position_width)


class DotScorer(nn.Module):
    """Scaled dot product of target and behaviour (`scaled`).

    Args:
        dots: multiplies items and categories, where their rows are.
        scale: of the products.
        width: of item and category together.
    """

    def __init__(self, dots: UnpooledDots | ShardDots, scale: Scale, width: int) -> None:
        super().__init__()
        self.dots, self.scale, self.width = dots, scale, width

    def forward(self, seen: Seen) -> Tensor:
        """Score every behaviour of a request against each of its targets."""
        with record_function("lookup"):
            dot_RML = self.dots(seen)
        target_P = seen.target_position("attention_target")
        position_L = seen.history_position("attention_history") @ target_P
        return scaled(self.scale, dot_RML, position_L, (self.width, target_P.numel()))

    def kept(self, seen: Seen, index_RMK: Tensor) -> Tensor:
        """Score what was kept, score_RMK in float32, from its rows; on padding any score.

        Args:
            seen: a batch whose rows were looked up one a behaviour.
            index_RMK: columns of the kept behaviours.
        """
        row_RMKD = seen.kept_rows("attention_history", index_RMK)
        with torch.autocast(index_RMK.device.type, enabled=False):
            factor, position_L = self.linear(seen)
            query_RMD = seen.target_RMD("attention_target").float()
            dot_RMK = (row_RMKD.float() @ query_RMD.unsqueeze(3)).squeeze(3)
            position_RMK = position_L.index_select(0, index_RMK.flatten()).view_as(index_RMK)
            return factor * dot_RMK + position_RMK

    def linear(self, seen: Seen) -> tuple[float, Tensor]:
        """The factor of products, and what a column adds, position_L: scores are linear in both."""
        target_P = seen.target_position("attention_target").float()
        position_L = seen.history_position("attention_history").float() @ target_P
        widths, zero = (self.width, target_P.numel()), torch.zeros(())
        factor = float(scaled(self.scale, torch.ones(()), zero, widths))
        return factor, scaled(self.scale, torch.zeros_like(position_L), position_L, widths)


class JoinedDotScorer(nn.Module):
    """Scaled dot product behind projections of all features together.

    The two terms are cut from the projected vectors where item and category, and where the
    position was before (arXiv:2410.02604, released code, `projection` after concatenation).

    Args:
        uses: with the projections of attention.
        scale: of the products.
        width: of item and category together.
    """

    def __init__(self, uses: nn.ModuleDict, scale: Scale, width: int) -> None:
        super().__init__()
        self._uses = (uses,)  # In a tuple: the ranker owns them.
        self.scale, self.width = scale, width

    def forward(self, seen: Seen) -> Tensor:
        """As `DotScorer`."""
        target, history = (self._uses[0][f"attention_{side}"] for side in ("target", "history"))
        assert isinstance(target, UseProjection)
        assert isinstance(history, UseProjection)
        assert history.joined is not None
        query_RMD = seen.grid.targets(target.join(seen.joined_targets("attention_target")))
        # A projection is linear: rows and positions pass it apart, positions once a batch.
        of_rows, of_position = torch.split(
            history.joined.weight, [self.width, query_RMD.size(2) - self.width], dim=1
        )
        position_LP = seen.history_position("attention_history")
        key_LD = F.linear(position_LP, of_position, history.joined.bias)
        key_ND = F.linear(seen.rows["attention_history"].joined, of_rows)
        key_RLD = seen.grid.history(key_ND) + key_LD
        content, position = (
            query_RMD[..., part] @ key_RLD[..., part].transpose(1, 2)
            for part in (slice(None, self.width), slice(self.width, None))
        )
        widths = self.width, query_RMD.size(2) - self.width
        return scaled(self.scale, content, position, widths)


class MlpScorer(nn.Module):
    """A small network of target and behaviour, without position.

    `a = W_2 PReLU(W_1 [q, k, q - k, q * k] + b_1) + b_2`, over the width of q (DIN in the released
    code of arXiv:2410.02604; arXiv:1706.06978). The four parts of W_1 are applied apart, so that
    nothing four times as wide as a behaviour is ever held.

    Args:
        width: of item and category together, D.
        hidden: width of the hidden layer, H.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(4 * width, hidden)
        self.activation = nn.PReLU(init=0.1)
        self.second = nn.Linear(hidden, 1)

    def forward(self, seen: Seen) -> Tensor:
        """Score every behaviour of a request against each of its targets."""
        query_RMD = seen.target_RMD("attention_target")
        key_RLD = seen.history_RLD("attention_history")
        query, key, difference, product = torch.split(self.first.weight, self.width, dim=1)
        requests, targets, _ = query_RMD.shape
        # [R, M, H, D] @ [R, D, L]: the product's part, one row a target and hidden unit.
        both = (query_RMD.unsqueeze(2) * product).flatten(1, 2) @ key_RLD.transpose(1, 2)
        hidden_RMHL = both.view(requests, targets, -1, key_RLD.size(1))
        of_query = F.linear(query_RMD, query + difference, self.first.bias)
        of_key = F.linear(key_RLD, key - difference).transpose(1, 2)
        active = self.activation(hidden_RMHL + of_query.unsqueeze(3) + of_key.unsqueeze(1))
        score_RML = (self.second.weight @ active).squeeze(2) + self.second.bias
        return score_RML / self.width


class MultiHeadScorer(nn.Module):
    """Scaled dot products of projected target and behaviour, one a head, and a bias of position.

    `(W_q q) (W_h k) / sqrt(D / H) + b p`: the score of TWIN as published (arXiv:2302.02352), with
    the position for its cross features. The projection of the behaviours is applied to the target
    instead, which is the same product, so that no behaviour is multiplied by a matrix.

    Args:
        width: of item and category together, D.
        position_width: of the position, P.
        heads: H.
    """

    def __init__(self, width: int, position_width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.position = nn.Linear(position_width, 1, bias=False) if position_width else None

    def forward(self, seen: Seen) -> Tensor:
        """Score every behaviour of a request against each of its targets, head by head."""
        rows_TD = seen.rows["attention_target"].joined
        query_THD = torch.unflatten(self.query(rows_TD), 1, (self.heads, self.head_width))
        key_HDD = self.key.weight.view(self.heads, self.head_width, -1)
        folded_TC = torch.einsum("thd,hde->the", query_THD, key_HDD).flatten(1)
        query_RMC = seen.grid.targets(folded_TC)
        score_RQL = by_head(query_RMC, self.heads) @ seen.history_RLD(
            "attention_history"
        ).transpose(1, 2)
        score_RQL = score_RQL / math.sqrt(self.head_width)
        if self.position is None:
            return score_RQL
        return score_RQL + self.position(seen.history_position("attention_history")).squeeze(1)


class BucketScorer(nn.Module):
    """1 where a behaviour falls in the target's bucket, else 0; one score a group of hashes.

    The attention of SDIM (arXiv:2205.10249), which has no search: behaviours that collide with the
    target are summed. Hashing has no gradient.

    Args:
        width: of item and category together.
        groups: of hashes, H.
        bits: of a group.
    """

    def __init__(self, width: int, groups: int, bits: int) -> None:
        super().__init__()
        self.groups, self.bits = groups, bits
        self.hash = SimHash(width, groups * bits)

    def forward(self, seen: Seen) -> Tensor:
        """Compare every behaviour of a request with each of its targets, group by group."""
        target_RMB, history_RLB = self.hash.pair(seen)
        target, history = (
            torch.unflatten(bits, 2, (self.groups, self.bits)).transpose(1, 2)
            for bits in (target_RMB, history_RLB)
        )
        return (target @ history.transpose(2, 3) > self.bits - 0.5).flatten(1, 2).float()


def by_head(value_RMC: Tensor, heads: int) -> Tensor:
    """Heads side by side in the last dimension, put below each other: value_RQD."""
    requests, targets, _ = value_RMC.shape
    return value_RMC.view(requests, targets, heads, -1).transpose(1, 2).flatten(1, 2)
