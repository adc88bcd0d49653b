"""Rows of real logs go from raw file to scored test split; skipped where the rows are not there."""

from pathlib import Path

import pytest

from tests.commands import dare, dare_without_report

ROOT = Path(__file__).parents[2]
ROWS = ROOT.parent / "shared" / "data"
SHORT_LIVES = ["--protocol.min_clicks=60", "--protocol.last_offset=48"]
LOGS = {
    "taobao": ("taobao-sample/UserBehavior_ubr4ctr_head5000.csv", SHORT_LIVES),
    "tmall": ("tmall-sample/user_log_format1_layout.csv", SHORT_LIVES),
    "movielens": ("movielens", []),
}


@pytest.mark.parametrize("log", LOGS)
def test_a_real_log_is_prepared_trained_and_scored(log, tmp_path):
    raw, options = LOGS[log]
    if not (ROWS / raw).exists():
        pytest.skip(f"{ROWS / raw} is not there")
    folder = tmp_path / "data"
    prepared = dare("prepare", log, f"--raw={ROWS / raw}", f"--out={folder}", *options)
    assert prepared.code == 0, prepared.err
    assert prepared.out == f"{folder / 'schema.json'}\n"
    data = [f"--data.{split}={folder / split}" for split in ("train", "val", "test")]
    for preset in ("dare", "twin"):
        result = dare_without_report(
            "train",
            f"--config={ROOT / 'launch' / 'recipes' / f'{log}_{preset}.yaml'}",
            *data,
            f"--data.schema={folder / 'schema.json'}",
            f"--out_dir={tmp_path}",
            "--loop.steps=2",
        ).result
        assert result["preset"] == preset
        run = tmp_path / f"{log}_{preset}"
        scored = dare("evaluate", f"--config={run / 'config.yaml'}").result
        assert (scored["auc"], scored["logloss"]) == (result["auc"], result["logloss"])
