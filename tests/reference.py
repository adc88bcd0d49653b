"""A dense ranker in plain torch, written from the equations of arXiv:2410.02604 and its published
setting, to compare the real one with: every target has its own left-padded row, oldest first.

Letters: T targets, L slots of a row, A and D widths of the attention and representation spaces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One target with the behaviours before it, oldest first, as ids in the order of the form's
    features."""

    target: tuple[int, ...]
    history: Sequence[tuple[int, ...]]
    label: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Form:
    """Which of the published forms is computed."""

    top_k: int
    features: tuple[str, ...] = ("item", "category")
    """Tables need not have all of them."""
    two_term: bool = True
    """(item, category, ...) and position scaled apart; False: one dot over the root of all."""
    head_input: tuple[str, ...] = ("target", "history", "product")
    norm: str = "batch"
    aux_weight: float = 1.0
    l2: float = 1e-6
    floor: float = 1e-8
    """Added to the probabilities before the logarithm."""


@dataclass(frozen=True)
class Tower:
    """A normalised MLP: scale and shift of the norm; then (weight, bias) of each layer, slopes."""

    gain: Tensor | None
    shift: Tensor | None
    layers: Sequence[tuple[Tensor, Tensor]]
    slopes: Sequence[Tensor]

    def decayed(self) -> list[Tensor]:
        """What the penalty covers: everything that is neither a bias nor an embedding."""
        gain = [] if self.gain is None else [self.gain]
        return [*gain, *(weight for weight, _ in self.layers), *self.slopes]


@dataclass(frozen=True)
class Result:
    """Logits [T, 2], the positive class first, and the parts of the loss."""

    logits: Tensor
    aux_logits: Tensor
    weight_TL: Tensor
    main: Tensor
    aux: Tensor
    penalty: Tensor
    loss: Tensor


def run(
    attention: Mapping[str, Tensor],
    representation: Mapping[str, Tensor],
    main: Tower,
    aux: Tower,
    rows: Sequence[Row],
    form: Form,
) -> Result:
    """Logits and losses of a batch. Twin: pass the same tables twice."""
    ids, position, valid = _padded(rows)
    target_ids = torch.tensor([row.target for row in rows])
    target_position = torch.zeros(len(rows), dtype=torch.long)
    label = torch.tensor([row.label for row in rows], dtype=attention["item"].dtype)
    weight = torch.tensor([row.weight for row in rows], dtype=attention["item"].dtype)

    def embed(tables: Mapping[str, Tensor], its_ids: Tensor, its_position: Tensor) -> Tensor:
        every = zip(form.features, its_ids.unbind(-1), strict=True)
        parts = [tables[feature][i] for feature, i in every if feature in tables]
        return torch.cat([*parts, tables["position"][its_position]], dim=-1)

    query = embed(attention, target_ids, target_position)
    key = embed(attention, ids, position)
    value = embed(representation, ids, position)
    target = embed(representation, target_ids, target_position)
    position_width = attention["position"].shape[1]
    score = _score(query, key, position_width, two_term=form.two_term)
    kept = _kept(score, valid, form.top_k)
    weight_TL, aux_weight_TL = _softmax(score, kept), _softmax(score, valid)
    outputs = []
    for attended, tower in ((weight_TL, main), (aux_weight_TL, aux)):
        history = torch.einsum("tl,tld->td", attended, value)
        parts = {"target": target, "history": history, "product": history * target}
        joined = torch.cat([parts[name] for name in form.head_input], dim=1)
        outputs.append(_tower(tower, joined, weight > 0, form.norm))
    losses = [_cross_entropy(logits, label, weight, form.floor) for logits in outputs]
    decayed = [*main.decayed(), *aux.decayed()]
    penalty = form.l2 * torch.stack([parameter.square().sum() for parameter in decayed]).sum()
    loss = losses[0] + form.aux_weight * losses[1] + penalty
    return Result(outputs[0], outputs[1], weight_TL, losses[0], losses[1], penalty, loss)


def _padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [T, L, features] and position of each slot, and whether it holds a behaviour; [T, L]."""
    slots = max(1, *(len(row.history) for row in rows))
    ids = torch.zeros(len(rows), slots, len(rows[0].target), dtype=torch.long)
    for t, row in enumerate(rows):
        for back, behaviour in enumerate(reversed(row.history), start=1):
            ids[t, slots - back] = torch.tensor(behaviour)
    position = (slots - torch.arange(slots)).expand(len(rows), slots)
    length = torch.tensor([len(row.history) for row in rows])
    return ids, position, position <= length[:, None]


def _score(query_TA: Tensor, key_TLA: Tensor, position_width: int, *, two_term: bool) -> Tensor:
    products = query_TA[:, None, :] * key_TLA
    if not two_term:
        return products.sum(-1) / math.sqrt(products.shape[-1])
    content = products[..., : products.shape[-1] - position_width]
    position = products[..., products.shape[-1] - position_width :]
    return content.sum(-1) / math.sqrt(content.shape[-1]) + position.sum(-1) / math.sqrt(
        position_width
    )


def _kept(score_TL: Tensor, valid_TL: Tensor, top_k: int) -> Tensor:
    """The best `top_k` valid slots of each row, row by row."""
    kept = torch.zeros_like(valid_TL)
    for t in range(len(valid_TL)):
        slots = valid_TL[t].nonzero().flatten().tolist()
        best = sorted(slots, key=lambda slot: -score_TL[t, slot].item())[:top_k]
        kept[t, best] = True
    return kept


def _softmax(score_TL: Tensor, keep_TL: Tensor) -> Tensor:
    """Softmax over the kept slots; a row that keeps none has no weight at all."""
    shifted = score_TL - score_TL.detach().amax(dim=1, keepdim=True)
    power = torch.where(keep_TL, shifted.exp(), torch.zeros_like(score_TL))
    total = power.sum(dim=1, keepdim=True)
    return power / torch.where(total > 0, total, torch.ones_like(total))


def _tower(tower: Tower, value: Tensor, counts: Tensor, norm: str) -> Tensor:
    if norm == "batch":
        mean = value[counts].mean(dim=0)
        variance = (value[counts] - mean).square().mean(dim=0)
        value = (value - mean) / (variance + EPSILON).sqrt()
    elif norm == "layer":
        centred = value - value.mean(dim=1, keepdim=True)
        value = centred / (centred.square().mean(dim=1, keepdim=True) + EPSILON).sqrt()
    if tower.gain is not None and tower.shift is not None:
        value = value * tower.gain + tower.shift
    for number, (weight, bias) in enumerate(tower.layers):
        value = value @ weight.T + bias
        if number < len(tower.slopes):
            value = torch.where(value > 0, value, tower.slopes[number] * value)
    return value


def _cross_entropy(logits: Tensor, label: Tensor, weight: Tensor, floor: float) -> Tensor:
    """Mean over the targets that count; class 0 is the click."""
    probability = F.softmax(logits, dim=1) + floor
    of_target = -(label * probability[:, 0].log() + (1 - label) * probability[:, 1].log())
    return (weight * of_target).sum() / weight.sum()
