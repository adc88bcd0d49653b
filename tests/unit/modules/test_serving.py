"""A request ranked from rows that were looked up elsewhere scores as it does in a batch."""

from pathlib import Path

import pytest
import torch

from modules import jagged_search
from modules.embedding import USES
from modules.interaction import initialise
from modules.model_config import InitConfig
from modules.presets import PRESETS
from modules.ranker import Ranker
from modules.search_kernel import find_best, make_keys
from modules.serving import ServedRanker
from tests import small
from tests.preset_step import make_config

LENGTH = small.HISTORY_LENGTH


def trained(config):
    torch.manual_seed(2)
    rows = {"item": 23, "category": 7}
    ranker = Ranker(config, rows=rows, history_length=LENGTH, device=small.CPU)
    initialise(ranker.interaction, InitConfig(std=0.3))
    for name, value in ranker.state_dict().items():
        if name.startswith("embeddings.") or name.endswith("running_mean"):
            value.normal_(0.0, 0.5)
    served = ServedRanker(config, rows=rows, history_length=LENGTH)
    wanted = served.interaction.state_dict()
    state = ranker.interaction.state_dict()
    served.interaction.load_state_dict({name: state[name] for name in wanted})
    return ranker.eval(), served


def tables(ranker):
    return {
        name.split(".")[-2]: value
        for name, value in ranker.state_dict().items()
        if name.startswith("embeddings.")
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_served_as_it_is_trained(preset, tmp_path: Path):
    config = make_config(preset)
    ranker, served = trained(config)
    whole = tables(ranker)
    batch = small.read(small.users(), "user", tmp_path)
    features = batch.features
    with torch.no_grad():
        output = ranker(features, batch.weight > 0, batch.num_history, batch.num_targets)
    starts = {key: [0, *features[key].lengths().cumsum(0).tolist()] for key in features.keys()}  # noqa: SIM118

    def ids(key, request):
        start, end = starts[key][request : request + 2]
        return features[key].values()[start:end]

    done = 0
    for request in range(features.stride()):
        there = len(ids("history_item", request))
        # As many rows as the longest history: what pads must not count.
        missing = LENGTH - there
        rows = []
        for use in USES:
            space, side = config.embeddings.space(use), use.partition("_")[2]
            parts = []
            for name in ("item", "category"):
                found = whole[f"{space}_{name}"][ids(f"{side}_{name}", request)]
                padding = torch.full((missing, found.size(1)), 9.0)
                parts.append(torch.cat([found, padding]) if side == "history" else found)
            rows.append(torch.cat(parts, dim=1))
        category = torch.cat([ids("history_category", request), torch.full((missing,), 3)])
        rows += [ids("target_category", request), category, torch.tensor(there)]
        found = served(*rows)
        mine = slice(done, done + len(found.logit_T))
        torch.testing.assert_close(found.logit_T, output.logit_T[mine], rtol=1e-4, atol=2e-5)
        done = mine.stop
    assert done == len(output.logit_T)


def test_a_score_that_depends_on_its_batch_is_not_served():
    config = make_config("dare", "--model.head.evaluation_statistics=batch")
    with pytest.raises(
        ValueError, match="evaluation_statistics is batch: a target's score would depend"
    ):
        ServedRanker(config, rows={"item": 23, "category": 7}, history_length=LENGTH)


@pytest.mark.parametrize("scale", ["two_term", "joint", "position_twice"])
@pytest.mark.parametrize("preset", ["dare", "twin_proj"])
def test_the_kernel_finds_what_the_ranker_finds(preset, scale, monkeypatch):
    monkeypatch.setattr(jagged_search, "runs_on", lambda _: False)  # To have all scores.
    config = make_config(preset, f"--model.attention.scale={scale}")
    _, served = trained(config)
    target, history = torch.randn(3, 12), torch.randn(LENGTH, 12)
    ids = torch.zeros(LENGTH, dtype=torch.int64)
    found = served.find(target, history, ids[:3], ids, torch.tensor(LENGTH))
    query, key = served.search_vectors(target, history)
    torch.testing.assert_close(query @ key.T, found.scores.score_RQL[0])
    kept = find_best(make_keys(key, "fp32"), query, config.search.top_k)
    assert kept.sort(1).values.equal(found.kept.index_RMK[0].sort(1).values)


@pytest.mark.parametrize("least", [1, LENGTH])
def test_no_more_behaviours_are_there_than_rows_are_given(least, monkeypatch):
    monkeypatch.setitem(jagged_search.LEAST_COLUMNS, "cpu", least)  # By kernels, and by torch.
    _, served = trained(make_config("dare"))
    torch.manual_seed(1)
    rows = [torch.randn(shape) for shape in ((3, 12), (LENGTH, 12), (3, 12), (LENGTH, 12))]
    ids = torch.zeros(LENGTH, dtype=torch.int64)
    found, expected = (
        served(*rows, ids[:3], ids, torch.tensor(there)) for there in (LENGTH + 20, LENGTH)
    )
    assert found.logit_T.equal(expected.logit_T)


def test_more_behaviours_than_it_was_trained_on_are_refused():
    _, served = trained(make_config("dare"))
    ids = torch.zeros(LENGTH + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"{LENGTH + 1} behaviours are given.*newest {LENGTH}"):
        served.find(torch.zeros(1, 12), torch.zeros(LENGTH + 1, 12), ids[:1], ids, ids[0])


def test_another_search_has_no_vectors():
    _, served = trained(make_config("twin_hard"))
    with pytest.raises(ValueError, match="twin_hard does not search by dot products"):
        served.search_vectors(torch.zeros(1, 12), torch.zeros(LENGTH, 12))
