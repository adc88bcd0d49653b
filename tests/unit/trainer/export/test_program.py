"""The graph gives what the module gives, whatever the model and the request's size."""

import pytest
import torch

from modules import jagged_search
from modules.serving import Served, ServedRanker
from tests.preset_step import make_config
from trainer.export.program import example_inputs, export_program, least_behaviours, load_program

LENGTH = 9


@pytest.mark.parametrize("preset", ["dare", "twin_hard", "twin_kdd23", "sdim", "twin_v2", "mirrn"])
def test_a_graph_is_its_module_for_any_request(preset, tmp_path, monkeypatch):
    monkeypatch.setitem(jagged_search.LEAST_COLUMNS, "cpu", 1)  # Histories are short here.
    torch.manual_seed(3)
    ranker = ServedRanker(
        make_config(preset), rows={"item": 23, "category": 7}, history_length=LENGTH
    )
    export_program(ranker, tmp_path / "ranker.pt2", LENGTH)
    rank = load_program(tmp_path / "ranker.pt2").module()
    least = least_behaviours(ranker, LENGTH)
    # Two are kept of nine; buckets keep all; rounds of clusters are unrolled for nine.
    assert least == {"sdim": 1, "twin_v2": LENGTH}.get(preset, 3)
    for targets, behaviours, there in ((1, LENGTH, LENGTH), (7, least, 1), (4, LENGTH, 0)):
        shapes = example_inputs(ranker, targets, behaviours)
        rows = [torch.randn_like(one) for one in shapes[:4]]
        ids = [torch.randint(0, 7, one.shape) for one in shapes[4:6]]
        inputs = (*rows, *ids, torch.tensor(there))
        mine, theirs = ranker(*inputs), Served(*rank(*inputs))
        torch.testing.assert_close(mine.logit_T, theirs.logit_T)
        # Not in the same order where the module's search is by kernels; the graph's is by torch.
        torch.testing.assert_close(by_column(mine), by_column(theirs))


def by_column(served: Served) -> torch.Tensor:
    """The attention of each behaviour."""
    assert served.kept_TK.shape == served.weight_TK.shape
    weight_TL = torch.zeros(served.kept_TK.size(0), LENGTH)
    return weight_TL.scatter_add(1, served.kept_TK, served.weight_TK)


def test_bf16_compute_is_kept(tmp_path):
    ranker = ServedRanker(
        make_config("dare"),
        rows={"item": 23, "category": 7},
        history_length=LENGTH,
        autocast=torch.bfloat16,
    )
    export_program(ranker, tmp_path / "ranker.pt2", LENGTH)
    inputs = [torch.randn_like(one) for one in example_inputs(ranker, 4, LENGTH)[:4]]
    ids = example_inputs(ranker, 4, LENGTH)[4:]
    rank = load_program(tmp_path / "ranker.pt2").module()
    assert rank(*inputs, *ids)[0].equal(ranker(*inputs, *ids).logit_T)
