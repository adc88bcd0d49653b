"""Dense references of the models that differ from TWIN in their tables, in projections of rows, or
in the way gradients of shared tables are summed. Pieces and losses: `tests.reference`.

Every model is a function of its parameters, the `Slots` of a batch and the `Form`, that returns
what the heads see; `tests.reference.finish` makes logits and losses of it. Here `dot_attention` is

    dare                     two_spaces(tables, tables)
    twin, twin_no_tr         one_space(tables); without target-aware representation the form's
                             `head_input` is ("target", "history")
    three_tables, twin_4e    three_spaces, four_spaces
    twin_proj                one_space; before = four_spaces(by feature, ...)
    item_linear and others   one_space; before = two_spaces(by feature, by feature)
    twin_proj_concat         one_space; after = four_spaces(layers, ...)
    two_linear               one_space; after = two_spaces(layers, layers)
    avoid_domination         as twin, its gradients by `avoid_domination`

Letters: T targets, L slots of a row, oldest first, D width of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from tests.reference import Form, Seen, Slots, Tables, attend, best, dot_score, joined

USES = (
    "attention_target",
    "attention_history",
    "representation_target",
    "representation_history",
)
Spaces = Mapping[str, Tables]
"""The tables that each use reads. Tables that two uses share are the same tensors twice."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Layers:
    """Linear layers, with a PReLU between each two; one layer is a linear projection.

    weights: [out, in] each. biases: [out] each, or none at all. slopes: one number [1] each, one
    fewer than weights.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor] = ()
    slopes: Sequence[Tensor] = ()

    def __call__(self, value: Tensor) -> Tensor:
        """Of the last dimension."""
        for number, weight in enumerate(self.weights):
            value = value @ weight.T
            if self.biases:
                value = value + self.biases[number]
            if number < len(self.slopes):
                value = torch.where(value > 0, value, self.slopes[number] * value)
        return value

    def decayed(self) -> list[Tensor]:
        """What the penalty covers: weights and slopes."""
        return [*self.weights, *self.slopes]


@dataclass(frozen=True, kw_only=True)
class Projections:
    """What rows pass on their way from the tables, by use; what is not named stays as it is."""

    before: Mapping[str, Mapping[str, Layers]] = field(default_factory=dict)
    """By use and feature: of item, category or position, before they are put side by side."""
    after: Mapping[str, Layers] = field(default_factory=dict)
    """By use: of the whole row, item, category and position side by side."""

    def decayed(self) -> list[Tensor]:
        """What the penalty covers, each tensor once."""
        layers = [layers for use in self.before.values() for layers in use.values()]
        layers += self.after.values()
        found = {id(tensor): tensor for each in layers for tensor in each.decayed()}
        return list(found.values())


NO_PROJECTIONS = Projections()


@dataclass(frozen=True)
class Rows:
    """Rows of the four uses after projection."""

    attention_target: Tensor
    attention_history: Tensor
    representation_target: Tensor
    representation_history: Tensor
    position_width: int
    """How many numbers at the end of an attention row are the position's."""


def one_space(all_uses: Value) -> dict[str, Value]:
    """The same for all uses: TWIN."""
    return dict.fromkeys(USES, all_uses)


def two_spaces(attention: Value, representation: Value) -> dict[str, Value]:
    """One for attention, one for representation: DARE, and projections per side."""
    return dict(zip(USES, (attention, attention, representation, representation), strict=True))


def three_spaces(target: Value, history: Value, representation: Value) -> dict[str, Value]:
    """Attention's target and history apart, representation together."""
    return dict(zip(USES, (target, history, representation, representation), strict=True))


def four_spaces(
    attention_target: Value,
    attention_history: Value,
    representation_target: Value,
    representation_history: Value,
) -> dict[str, Value]:
    """One for each use: TWIN-4E, and projections per role."""
    values = attention_target, attention_history, representation_target, representation_history
    return dict(zip(USES, values, strict=True))


def read(spaces: Spaces, slots: Slots, projections: Projections = NO_PROJECTIONS) -> Rows:
    """Look the four uses up and project what is to be projected.

    Args:
        spaces: by use and feature [rows, width].
        slots: ids.
        projections: of a position's row too, the target's included. A projection of whole rows
            keeps their width, and the position's numbers are those where they were before it.
    """
    rows, position_width = {}, 0
    for use in USES:
        look_up = slots.targets if use.endswith("target") else slots.behaviours
        parts = look_up(spaces[use])
        for feature, layers in projections.before.get(use, {}).items():
            parts[feature] = layers(parts[feature])
        row = joined(parts)
        if use in projections.after:
            row = projections.after[use](row)
        rows[use] = row
        if use == "attention_history" and "position" in parts:
            position_width = parts["position"].shape[-1]
    return Rows(**rows, position_width=position_width)


def scores(rows: Rows, form: Form) -> Tensor:
    """Scaled dot products of attention rows, [T, L]."""
    return dot_score(
        rows.attention_target,
        rows.attention_history,
        rows.position_width,
        two_term=form.two_term,
    )


def dot_attention(
    spaces: Spaces, slots: Slots, form: Form, projections: Projections = NO_PROJECTIONS
) -> Seen:
    """The scorer searches and attends; TWIN, DARE and all that differ in tables and projections.

    Without target-aware representation the form's `head_input` is ("target", "history").
    """
    rows = read(spaces, slots, projections)
    score = scores(rows, form)
    return attend(
        rows.representation_target,
        rows.representation_history,
        score,
        kept=best(score, slots.valid_TL, form.top_k),
        valid=slots.valid_TL,
    )


def avoid_domination(loss: Tensor, attention: Tables, representation: Tables) -> dict[str, Tensor]:
    """Gradients of shared tables whose attention part is as long as their representation part.

    Of each table g = g_repr + g_att * |g_repr| / |g_att|, with norms over the whole table; where
    g_att is 0, g = g_repr.

    Args:
        loss: of a model with `two_spaces(attention, representation)`.
        attention: one copy of the shared tables, leaves.
        representation: another, of equal values.
    """
    summed = {}
    for feature, table in attention.items():
        through_attention, through_representation = torch.autograd.grad(
            loss,
            [table, representation[feature]],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        length = through_attention.norm()
        if length > 0:
            through_attention = through_attention * (through_representation.norm() / length)
        summed[feature] = through_representation + through_attention
    return summed
