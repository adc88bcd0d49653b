"""Dense reference of MIRRN (arXiv:2411.15005 and its released code, without dropout): the searches
of three queries, a filter over the Fourier transform of what each keeps, attention to their means.
Pieces and losses: `tests.reference`; tables: `tests.reference_models`.

Letters: T targets, L slots of a row, oldest first, D width of a row, X of item and category
together, B bits of a hash, H heads, W width of a head, N kept behaviours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.reference import Form, Seen, Slots, best
from tests.reference_models import Rows, Spaces, read


@dataclass(frozen=True)
class Filter:
    """Parameters of one query's filter."""

    real_HWW: Tensor
    imaginary_HWW: Tensor
    gain_D: Tensor
    shift_D: Tensor

    def __call__(self, kept_ND: Tensor, length: int) -> Tensor:
        """LN(X + F^-1(F(X) W)) of behaviours, newest first, padded with zeros to a length."""
        padding = kept_ND.new_zeros(length - len(kept_ND), kept_ND.shape[1])
        spectrum = torch.fft.rfft(torch.cat([kept_ND, padding]), dim=0, norm="ortho")
        weight_HWW = torch.complex(self.real_HWW, self.imaginary_HWW)
        heads = spectrum.chunk(len(weight_HWW), dim=1)
        filtered = torch.cat([x @ w for x, w in zip(heads, weight_HWW, strict=True)], dim=1)
        mixed = torch.fft.irfft(filtered, n=length, dim=0, norm="ortho")[: len(kept_ND)]
        return F.layer_norm(kept_ND + mixed, self.gain_D.shape, self.gain_D, self.shift_D, 1e-12)


@dataclass(frozen=True)
class Interests:
    """All parameters of the interests."""

    directions_BX: Tensor
    """Fixed, no gradient passes."""
    recent: int
    filters: Sequence[Filter]
    """Of the target, of the newest behaviours, of all."""
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    """[D, D] each, heads below each other; of `output` side by side."""
    heads: int

    def decayed(self) -> list[Tensor]:
        """What the penalty covers: all but the fixed directions and the shifts."""
        found = [self.query, self.key, self.value, self.output]
        for one in self.filters:
            found += [one.real_HWW, one.imaginary_HWW, one.gain_D]
        return found


def mirrn(spaces: Spaces, interests: Interests, slots: Slots, form: Form) -> Seen:
    """Target by target: three searches, three interests, attention to them.

    Args:
        spaces: `one_space`; hashes are of items and categories, interests of whole rows.
        interests: parameters.
        slots: ids.
        form: with `top_k`; the scale does not matter.
    """
    rows, histories, weights = read(spaces, slots), [], []
    for t, valid_L in enumerate(slots.valid_TL):
        found, share_L = [], []
        queries = _queries(rows, t, valid_L, interests.recent)
        for query_X, each in zip(queries, interests.filters, strict=True):
            kept_L = _search(rows, t, query_X, valid_L, interests.directions_BX, form.top_k)
            kept_ND = rows.representation_history[t][kept_L].flip(0)
            one = each(kept_ND, form.top_k).sum(dim=0) / max(1, len(kept_ND))
            found.append(one)
            share_L.append(kept_L.to(one) / max(1, len(kept_ND)))
        history_D, attention_G = _attend(rows.representation_target[t], found, interests)
        histories.append(history_D)
        weights.append(sum(a * share for a, share in zip(attention_G, share_L, strict=True)))
    return Seen(
        rows.representation_target, torch.stack(histories), None, weight_TL=torch.stack(weights)
    )


def _queries(rows: Rows, t: int, valid_L: Tensor, recent: int) -> list[Tensor]:
    """The target, the mean of the newest behaviours, the mean of all; of none 0."""
    width = rows.attention_history.shape[-1] - rows.position_width
    history_NX = rows.attention_history[t, valid_L, :width]
    means = [part.sum(dim=0) / max(1, len(part)) for part in (history_NX[-recent:], history_NX)]
    return [rows.attention_target[t, :width], *means]


def _search(
    rows: Rows, t: int, query_X: Tensor, valid_L: Tensor, directions_BX: Tensor, top_k: int
) -> Tensor:
    """True on the slots whose hashes differ least from the query's, of equal ones the newest."""
    key_LX = rows.attention_history[t, :, : len(query_X)]
    differ_LB = (key_LX @ directions_BX.T >= 0) != (directions_BX @ query_X >= 0)
    return best(-differ_LB.sum(dim=1)[None], valid_L[None], top_k)[0]


def _attend(target_D: Tensor, found: list[Tensor], interests: Interests) -> tuple[Tensor, Tensor]:
    """Multi-head attention of the target, and the mean of the heads' weights."""
    interest_GD = torch.stack(found)
    query, key, value = (
        torch.chunk(x @ weight.T, interests.heads, dim=-1)
        for x, weight in (
            (target_D, interests.query),
            (interest_GD, interests.key),
            (interest_GD, interests.value),
        )
    )
    weights = [
        torch.softmax(k @ q / math.sqrt(len(q)), dim=0) for q, k in zip(query, key, strict=True)
    ]
    values = torch.cat([w @ v for w, v in zip(weights, value, strict=True)])
    return interests.output @ values, torch.stack(weights).mean(dim=0)
