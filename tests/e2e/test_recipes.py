"""The recipes of parity set each switch of the released code, and run."""

import math
from pathlib import Path

import pytest

from tests.commands import dare_without_report, data_options, prepare_small, rows_of
from trainer.arguments import parse_config

PARITY = sorted((Path(__file__).parents[2] / "launch" / "recipes").glob("parity_*.yaml"))


def parsed(path: Path):
    config, _ = parse_config([f"--config={path}"])
    return config


def test_parity_is_offered_for_both_models_on_all_data() -> None:
    assert len(PARITY) == 6


@pytest.mark.parametrize("path", PARITY, ids=lambda path: path.stem)
def test_a_recipe_of_parity_sets_every_switch_of_the_released_code(path: Path) -> None:
    config = parsed(path)
    data, model, optim, loop = config.data, config.model, config.optim, config.loop
    assert (data.batch_size, data.targets, data.epoch_order) == (2048, "apart", "same")
    assert data.shuffle_requests > 5_000_000
    assert data.drop_last_evaluation
    widths = {(w.item, w.category, w.position) for w in model.embeddings.spaces().values()}
    assert widths == {(16, 16, 16)}
    assert len(model.embeddings.spaces()) == {"dare": 2, "twin": 1}[model.preset]
    assert model.search.top_k == 20
    assert model.attention.scale == "two_term"
    head = model.head
    assert (head.inputs, head.norm) == ("target_history_product", "batch")
    assert (head.hidden, head.auxiliary_hidden, head.auxiliary_weight) == ((200, 80), (200,), 1)
    assert head.evaluation_statistics == "batch"
    assert (model.init.std, model.init.released_blanket) == (0.01, True)
    assert (optim.sparse.name, optim.dense.name) == ("dense_adam", "adam")
    for rates in (optim.sparse, optim.dense):
        assert (rates.learning_rate, rates.eps) == (0.01, 1e-8)
        assert (rates.beta1, rates.beta2) == (0.9, 0.999)
    assert optim.schedule.factor(0) == optim.schedule.factor(10_000) == 1
    assert (optim.dense.clip_norm, optim.dense.weight_decay) == (0, 0)
    assert (loop.epochs, loop.evaluate_every, loop.l2) == (2, 150, 1e-6)
    assert loop.released_metrics
    assert data.history_length == (100 if "synthetic" in path.stem else 200)


def test_the_synthetic_recipe_of_parity_runs(tmp_path: Path) -> None:
    """On a log of 4,800 training targets, two epochs of batches of 512, the last of 192."""
    folder = prepare_small(tmp_path / "data")
    (path,) = (path for path in PARITY if path.stem == "parity_synthetic_dare")
    out, small = tmp_path / "runs", [*data_options(folder), "--loop.evaluate_every=10"]
    result = dare_without_report("train", f"--config={path}", *small, f"--out_dir={out}").result
    assert (result["steps"], result["samples"]) == (20, 9600)
    run = out / "parity_synthetic_dare"
    assert list(rows_of(run, "eval/auc_released")) == [10, 20]
    assert result["val_auc"] == max(rows_of(run, "eval/auc").values())
    for name in ("auc", "accuracy", "auc_released", "category_auc_released", "logloss_released"):
        assert math.isfinite(result[name])
    assert 0.5 < result["auc_released"] < result["oracle_auc"]
