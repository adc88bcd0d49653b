"""A dense ranker in plain torch, written from the equations of arXiv:2410.02604 and its published
setting, to compare the real one with: every target has its own left-padded row, oldest first.
`run` is DARE and TWIN; `tests.reference_models` has all others, made of the same pieces.

Letters: T targets, L slots of a row, D width of a row, F width of a head's input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FEATURES = ("item", "category", "interval", "behaviour_type", "scenario", "position")
EPSILON = 1e-5
Tables = Mapping[str, Tensor]
"""By feature [rows, width]; without `position`, rows have no such part. Row 0 of `position` is the
target's, row 1 the newest behaviour's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One target with the behaviours before it, oldest first, as (item, category) or as ids of all
    `FEATURES` but the position."""

    target: tuple[int, ...]
    history: Sequence[tuple[int, ...]]
    label: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Form:
    """Which of the published forms is computed."""

    top_k: int
    two_term: bool = True
    """(item, category, others) and position scaled apart; False: one dot over the root of all."""
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
class Slots:
    """Rows side by side: ids of each slot, which hold a behaviour, and the targets."""

    ids_TL: Mapping[str, Tensor]
    """By feature, the position too."""
    valid_TL: Tensor
    target_T: Mapping[str, Tensor]
    label: Sequence[float]
    weight: Sequence[float]

    def targets(self, tables: Tables) -> dict[str, Tensor]:
        """Embeddings of the targets by feature, [T, width]; their position is 0."""
        return {f: tables[f][self.target_T[f]] for f in FEATURES if f in tables}

    def behaviours(self, tables: Tables) -> dict[str, Tensor]:
        """Embeddings of the slots by feature, [T, L, width]; padding has some row too."""
        return {f: tables[f][self.ids_TL[f]] for f in FEATURES if f in tables}


@dataclass(frozen=True)
class Seen:
    """What a model hands to its heads, and how it came by it."""

    target_TD: Tensor
    history_TD: Tensor
    aux_history_TD: Tensor | None
    """None: the model has no auxiliary head."""
    score_TL: Tensor | None = None
    """What the search ranks by, the larger the better; of padding it means nothing."""
    kept_TL: Tensor | None = None
    weight_TL: Tensor | None = None
    """Attention; 0 where nothing was kept. With several heads their mean."""


@dataclass(frozen=True)
class Result:
    """Logits [T, 2], the positive class first, and the parts of the loss."""

    logits: Tensor
    aux_logits: Tensor | None
    weight_TL: Tensor | None
    main: Tensor
    aux: Tensor
    penalty: Tensor
    loss: Tensor


def run(
    attention: Tables,
    representation: Tables,
    main: Tower,
    aux: Tower,
    rows: Sequence[Row],
    form: Form,
) -> Result:
    """Logits and losses of a batch. Twin: pass the same tables twice."""
    slots = padded(rows)
    score = dot_score(
        joined(slots.targets(attention)),
        joined(slots.behaviours(attention)),
        attention["position"].shape[1],
        two_term=form.two_term,
    )
    seen = attend(
        joined(slots.targets(representation)),
        joined(slots.behaviours(representation)),
        score,
        kept=best(score, slots.valid_TL, form.top_k),
        valid=slots.valid_TL,
    )
    return finish(seen, main, aux, slots, form)


def finish(
    seen: Seen,
    main: Tower,
    aux: Tower | None,
    slots: Slots,
    form: Form,
    penalised: Sequence[Tensor] = (),
) -> Result:
    """Heads and losses.

    Args:
        seen: what they see.
        main: the head.
        aux: the auxiliary head; used where `seen` has a history for it.
        slots: labels and weights.
        form: of head and loss.
        penalised: what the penalty covers beside the heads: all dense weights and PReLU slopes,
            no biases, no embeddings, no position tables.
    """
    label, weight = (seen.target_TD.new_tensor(values) for values in (slots.label, slots.weight))

    def predict(tower: Tower, history: Tensor) -> Tensor:
        parts = {"target": seen.target_TD, "history": history, "product": history * seen.target_TD}
        value = torch.cat([parts[name] for name in form.head_input], dim=1)
        return _tower(tower, value, weight > 0, form.norm)

    logits = predict(main, seen.history_TD)
    main_loss = _cross_entropy(logits, label, weight, form.floor)
    decayed = [*main.decayed(), *penalised]
    aux_logits, aux_loss = None, torch.zeros_like(main_loss)
    if aux is not None and seen.aux_history_TD is not None:
        aux_logits = predict(aux, seen.aux_history_TD)
        aux_loss = _cross_entropy(aux_logits, label, weight, form.floor)
        decayed += aux.decayed()
    penalty = form.l2 * torch.stack([parameter.square().sum() for parameter in decayed]).sum()
    loss = main_loss + form.aux_weight * aux_loss + penalty
    return Result(logits, aux_logits, seen.weight_TL, main_loss, aux_loss, penalty, loss)


def padded(rows: Sequence[Row]) -> Slots:
    """Rows as tensors, left-padded with id 0."""
    count = max(1, *(len(row.history) for row in rows))
    names = FEATURES[: len(rows[0].target)]
    ids_TL = {
        name: lay([[behaviour[n] for behaviour in row.history] for row in rows], count)
        for n, name in enumerate(names)
    }
    length = torch.tensor([len(row.history) for row in rows])
    position_TL = (count - torch.arange(count)).expand(len(rows), count)
    target_T = {name: torch.tensor([row.target[n] for row in rows]) for n, name in enumerate(names)}
    return Slots(
        ids_TL | {"position": position_TL},
        position_TL <= length[:, None],
        target_T | {"position": torch.zeros(len(rows), dtype=torch.long)},
        [row.label for row in rows],
        [row.weight for row in rows],
    )


def lay(values: Sequence[Sequence[int]], count: int) -> Tensor:
    """One value a behaviour, oldest first, as [T, count], left-padded with 0."""
    return torch.tensor([[0] * (count - len(row)) + list(row) for row in values])


def joined(parts: Mapping[str, Tensor]) -> Tensor:
    """Features side by side, in the order of `FEATURES`: item, category, others, position."""
    return torch.cat([parts[feature] for feature in FEATURES if feature in parts], dim=-1)


def dot_score(
    query_TD: Tensor, key_TLD: Tensor, position_width: int, *, two_term: bool = True
) -> Tensor:
    """Scaled dot products; the last `position_width` numbers are the position's."""
    products = query_TD[:, None, :] * key_TLD
    if not two_term:
        return products.sum(-1) / math.sqrt(products.shape[-1])
    content = products[..., : products.shape[-1] - position_width]
    position = products[..., products.shape[-1] - position_width :]
    return content.sum(-1) / math.sqrt(content.shape[-1]) + position.sum(-1) / math.sqrt(
        max(1, position_width)
    )


def best(score_TL: Tensor, valid_TL: Tensor, top_k: int) -> Tensor:
    """The `top_k` valid slots of each row with the largest score; of equal ones the most recent."""
    kept = torch.zeros_like(valid_TL)
    for t in range(len(valid_TL)):
        slots = valid_TL[t].nonzero().flatten().tolist()
        order = sorted(slots, key=lambda slot: (-score_TL[t, slot].item(), -slot))
        kept[t, order[:top_k]] = True
    return kept


def attend(
    target_TD: Tensor, value_TLD: Tensor, score_TL: Tensor, *, kept: Tensor, valid: Tensor
) -> Seen:
    """Softmax of the score over the kept slots; for the auxiliary head, over all valid ones."""
    weight_TL = softmax(score_TL, kept)
    return Seen(
        target_TD,
        weigh(weight_TL, value_TLD),
        weigh(softmax(score_TL, valid), value_TLD),
        score_TL,
        kept,
        weight_TL,
    )


def weigh(weight_TL: Tensor, value_TLD: Tensor) -> Tensor:
    """Weighted sum of the slots of each row."""
    return (weight_TL[:, :, None] * value_TLD).sum(dim=1)


def softmax(score_TL: Tensor, keep_TL: Tensor) -> Tensor:
    """Softmax over the kept slots; a row that keeps none has no weight at all."""
    top = torch.where(keep_TL, score_TL.detach(), -torch.inf).amax(dim=1, keepdim=True)
    # Padding is left out before the exponential: where it overflows, its gradient is not a number.
    shifted = torch.where(keep_TL, score_TL - top, torch.zeros_like(score_TL))
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
