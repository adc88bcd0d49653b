"""Every preset trains, checkpoints, resumes and is evaluated through the command line."""

import pytest

from modules.presets import PRESETS
from tests.commands import dare, dare_without_report, rows_of


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_resumes_as_if_it_had_not_been_stopped(data, tmp_path, preset):
    def train(name, steps, *options):
        return dare_without_report(
            "train",
            *data,
            f"--model.preset={preset}",
            f"--out_dir={tmp_path}",
            f"--name={name}",
            f"--loop.steps={steps}",
            "--telemetry.log_every=1",
            *options,
        ).result

    train("straight", 4)
    train("stopped", 2)
    resumed = train("stopped", 4, "--resume")
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    assert rows_of(stopped, "train/loss") == rows_of(straight, "train/loss")
    assert rows_of(stopped, "eval/auc")[4] == rows_of(straight, "eval/auc")[4]
    assert resumed["preset"] == preset
    again = dare("evaluate", f"--config={stopped / 'config.yaml'}").result
    assert again["auc"] == resumed["auc"]
