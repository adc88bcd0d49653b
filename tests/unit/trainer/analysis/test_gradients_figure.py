"""The figure of gradients where one of the two is nowhere."""

import io

import pytest
import torch

from trainer.analysis.conflict import RowTally
from trainer.analysis.gradients_figure import draw_gradients
from trainer.analysis.row_gradients import RoleGradients


def drawn(attention: float, representation: float):
    """The axes of the figure of a table of two rows whose gradients are these numbers."""
    tally = RowTally(2, 100)
    parts = (
        torch.full((2, 3), value, dtype=torch.float64) for value in (attention, representation)
    )
    tally.add(RoleGradients(*parts))
    content = {
        **{"start": "start", "first_step": 1, "steps": 1, "attention_gradient": "unscaled"},
        "tables": {
            "shared_category": {
                "corrected": tally.corrected(),
                "published": tally.published(),
                "by_step": tally.by_step,
                "by_row": tally.by_row(),
                "cosines": tally.cosines(),
            }
        },
    }
    figure = draw_gradients(content, "a run")
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    return figure.axes


def test_both_gradients_are_drawn_on_scales_of_powers():
    norms, sizes, *_ = drawn(1.0, 2.0)
    assert norms.get_title(loc="left").endswith("\n2.0 (as published 2.0)")
    assert (norms.get_yscale(), sizes.get_xscale(), sizes.get_yscale()) == ("log",) * 3
    assert "larger in 100% of rows" in sizes.get_title(loc="left")


def test_attention_without_a_gradient_is_told_and_drawn():
    norms, sizes, *_ = drawn(0.0, 2.0)
    assert norms.get_title(loc="left").endswith("\nattention has no gradient")
    assert sizes.get_title(loc="left") == "by category: no row has\nboth gradients"
    assert (norms.get_yscale(), sizes.get_xscale(), sizes.get_yscale()) == (
        *("log", "linear", "linear"),
    )


@pytest.mark.parametrize("representation", [0.0, 1.0])
def test_nothing_at_all_can_be_drawn(representation):
    norms, *_ = drawn(0.0, representation)
    assert norms.get_yscale() == ("log" if representation else "linear")
