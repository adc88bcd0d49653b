"""Small inputs of the dense references, to check them by hand and by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tests.reference import Form, Row, Seen, Slots, Tables, Tower, finish, padded

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)
HAND_ROW = Row(target=(1, 1), history=[(2, 1), (3, 2), (4, 2)], label=1.0)
"""Its tables below make scores of ln 10, ln 3 and ln 1, oldest first."""
ROWS = [
    Row(target=(1, 1), history=[(2, 1), (3, 2), (4, 1), (5, 3), (2, 3)], label=1.0),
    Row(target=(2, 3), history=[(2, 1), (3, 2), (4, 1), (5, 3), (2, 3)], label=0.0),
    Row(target=(4, 2), history=[(1, 2)], label=0.0),
    Row(target=(3, 2), history=[], label=1.0),
]


def hand_slots() -> Slots:
    """One target with three behaviours."""
    return padded([HAND_ROW])


def hand_tables() -> dict[str, Tensor]:
    """Attention tables one number wide; the target's item cancels the root of 2."""
    return {
        "item": column(0, math.sqrt(2), LN2, LN3, 0),
        "category": column(0, 0, 1),
        "position": column(1, 0, 0, LN5),
    }


def hand_values() -> dict[str, Tensor]:
    """Representation tables one number wide."""
    return {
        "item": column(0, 5, 13, 26, 39),
        "category": column(0, 7, 2),
        "position": column(3, 14, 28, 42),
    }


def column(*values: float) -> Tensor:
    """A table one number wide."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def vector(*values: float) -> Tensor:
    """What results are compared with."""
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape: int, seed: int) -> Tensor:
    """A parameter, wide enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.7


def drawn_tables(seed: int, widths: Sequence[int] = (2, 2, 1)) -> dict[str, Tensor]:
    """Tables for `ROWS`."""
    rows = {"item": 6, "category": 4, "position": 6}
    return {
        feature: draw(rows[feature], width, seed=seed + number)
        for number, (feature, width) in enumerate(zip(rows, widths, strict=False))
    }


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal in double precision."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def loss_of(seen: Seen, slots: Slots, form: Form) -> Tensor:
    """A loss with heads of drawn weights."""
    width = seen.target_TD.shape[1] * len(form.head_input)

    def tower(seed: int) -> Tower:
        layers = [
            (draw(3, width, seed=seed), draw(3, seed=seed + 1)),
            (draw(2, 3, seed=seed + 2), draw(2, seed=seed + 3)),
        ]
        return Tower(None, None, layers, [draw(1, seed=seed + 4)])

    return finish(seen, tower(91), tower(96), slots, form).loss


def check_gradients(model: Callable[..., Seen], *parameters: Tensor, form: Form) -> None:
    """Autograd's gradients of a loss are those of central differences, and larger than rounding.

    Args:
        model: of `parameters`, the slots of `ROWS` and the form.
        parameters: leaves.
        form: of the model and its heads.
    """
    slots = padded(ROWS)
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]

    def loss(*inputs: Tensor) -> Tensor:
        return loss_of(model(*inputs, slots, form), slots, form)

    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for number, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        assert gradient.norm() > 1e-6, number
        # Along one direction a parameter: along every axis it takes minutes for all models.
        direction, little = draw(*leaf.shape, seed=200 + number), 1e-6

        def along(step: float, number: int = number, direction: Tensor = direction) -> float:
            moved = [leaf.detach() for leaf in leaves]
            moved[number] = moved[number] + step * direction
            return loss(*moved).item()

        difference = (along(little) - along(-little)) / (2 * little)
        assert difference == pytest.approx((gradient * direction).sum().item(), rel=1e-6, abs=1e-8)


def as_tables(item: Tensor, category: Tensor, position: Tensor) -> Tables:
    """Tables from leaves in the order of features."""
    return {"item": item, "category": category, "position": position}
