"""Storage that stalls slows a run and says so; it changes nothing else."""

import time
from pathlib import Path

import pytest
from iopath.common.file_io import PathHandler

from pipelines import storage
from tests.broken_data import FILES, options_of, prepare_files
from tests.commands import dare_without_report, rows_of
from tests.saved import assert_same_tensors

STALL_S, STEPS = 0.3, 24


class _SlowDisk(PathHandler):
    """`slow://` before a path of this machine: from the seventh time on, opening a file stalls."""

    def __init__(self):
        super().__init__()
        self.opened = self.stalls = 0

    def _get_supported_prefixes(self):
        return ["slow://"]

    def _open(self, path, mode="r", **_options):
        self.opened += 1
        if self.opened > FILES + 2:
            self.stalls += 1
            time.sleep(STALL_S)
        return _here(path).open(mode)

    def _exists(self, path, **_options):
        return _here(path).exists()

    def _isdir(self, path, **_options):
        return _here(path).is_dir()

    def _ls(self, path, **_options):
        return [file.name for file in _here(path).iterdir()]


def _here(path):
    return Path(path.removeprefix("slow://"))


@pytest.fixture(scope="module")
def disk():
    handler = _SlowDisk()
    storage.register_handler(handler)
    return handler


def test_a_stall_waits_in_the_log_and_changes_no_number(disk, tmp_path):
    folder = prepare_files(tmp_path / "data", "user")
    options = [*options_of(folder, "user"), f"--out_dir={tmp_path}", f"--loop.steps={STEPS}"]
    options += ["--telemetry.log_every=1"]
    assert dare_without_report("train", *options, "--name=fast").code == 0
    slow = [f"--data.train=slow://{folder}/train", "--name=slow"]
    assert dare_without_report("train", *options, *slow).code == 0
    share, speed = (
        rows_of(tmp_path / "slow", f"train/{name}") for name in ("data_wait_share", "samples_per_s")
    )
    samples = 2 * 2  # Of a step.
    waits = [share[step] * samples / speed[step] for step in share]
    assert disk.stalls >= 3
    assert sum(waits) > 0.95 * disk.stalls * STALL_S
    for name in ("train/loss", "eval/auc"):
        assert rows_of(tmp_path / "slow", name) == rows_of(tmp_path / "fast", name)
    last = f"checkpoints/step-{STEPS:08}"
    assert_same_tensors(tmp_path / "slow" / last, tmp_path / "fast" / last)
