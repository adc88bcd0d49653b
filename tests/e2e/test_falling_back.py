"""A damaged checkpoint is set aside on resume, and the one before it taken."""

import functools
import json
import time
from unittest import mock

import pytest

from tests.commands import TARGETS, dare_on_ranks, dare_without_report, rows_of
from tests.ranks import run_on_ranks
from tests.saved import name_a_file
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.tensor_files import TensorReader

STEPS = ("--checkpoint.every=3", "--checkpoint.keep_last=9", "--telemetry.log_every=1")


def _cut_off(folder):
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-10])


def _change_a_bit(folder):
    content = bytearray((folder / "__0_0.distcp").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "__0_0.distcp").write_bytes(content)


def _lose_a_file(folder):
    (folder / "loader.json").unlink()


def _damage_the_manifest(folder):
    (folder / "manifest.json").write_text('{"step": ')


def _change_a_byte_of_the_manifest(folder):
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content.replace(b"sparse", b"sp\xffrse"))


def _lose_an_entry_of_the_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["loader.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    return dare_without_report("train", *data, *STEPS, f"--out_dir={out}").result, out / "run"


@pytest.mark.parametrize(
    "damage",
    [
        *(_cut_off, _change_a_bit, _lose_a_file, _damage_the_manifest),
        *(_change_a_byte_of_the_manifest, _lose_an_entry_of_the_manifest),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_gone_on_with(
    data, tmp_path, straight, damage
):
    options = [*data, *STEPS, f"--out_dir={tmp_path}"]
    assert dare_without_report("train", *options, "--loop.steps=6").code == 0
    folder = tmp_path / "run" / "checkpoints"
    damage(folder / "step-00000006")
    outcome = dare_without_report("train", *options, "--resume")
    assert "it is set aside, the checkpoint before it is tried" in outcome.err
    assert "step-00000003 at step 3" in outcome.err
    assert outcome.result["samples"] == TARGETS["train"]
    assert outcome.result["auc"] == straight[0]["auc"]
    assert rows_of(tmp_path / "run", "train/loss") == rows_of(straight[1], "train/loss")
    assert (folder / "damaged-step-00000006").is_dir()
    assert json.loads((folder / "step-00000006" / "manifest.json").read_text())["step"] == 6


def _name_a_file_elsewhere(folder):
    name_a_file(folder, "../x")


def _resume_late(options, out, owner, method, rank):
    """The second rank comes to the place half a second after the first."""
    whole = getattr(owner, method)

    def late(self, *arguments):
        time.sleep(0.5 * rank)
        return whole(self, *arguments)

    with mock.patch.object(owner, method, late):
        outcome = dare_without_report("train", *options, "--resume")
    (out / f"told-{rank}").write_text(f"{outcome.code}\n{outcome.err}")


@pytest.mark.dist
@pytest.mark.parametrize(
    ("damage", "owner", "method"),
    [
        (_change_a_byte_of_the_manifest, Checkpoints, "_restore"),
        pytest.param(_name_a_file_elsewhere, TensorReader, "read_metadata", marks=pytest.mark.slow),
    ],
)
def test_ranks_fall_back_together_however_late_one_looks(data, tmp_path, damage, owner, method):
    options = [*data, *STEPS, f"--out_dir={tmp_path}", "--data.batch_size=256", "--loop.steps=6"]
    assert dare_on_ranks(2, "train", *options).code == 0
    folder = tmp_path / "run" / "checkpoints"
    damage(folder / "step-00000006")
    run_on_ranks(2, functools.partial(_resume_late, options, tmp_path, owner, method))
    first, second = ((tmp_path / f"told-{rank}").read_text() for rank in range(2))
    assert first.startswith("0\n"), first
    assert second.startswith("0\n"), second
    assert "step-00000003 at step 3" in first
    assert sorted(path.name for path in folder.glob("*step-*")) == [
        "damaged-step-00000006",
        "step-00000003",
        "step-00000006",
    ]


def test_where_all_are_damaged_nothing_is_begun_anew(data, tmp_path):
    options = [*data, *STEPS, f"--out_dir={tmp_path}"]
    assert dare_without_report("train", *options, "--loop.steps=6").code == 0
    folder = tmp_path / "run" / "checkpoints"
    for name in ("step-00000003", "step-00000006"):
        _cut_off(folder / name)
    outcome = dare_without_report("train", *options, "--resume")
    assert (outcome.code, outcome.out) == (2, "")
    assert "every checkpoint is damaged (2, set aside as damaged-*)" in outcome.err
    assert sorted(path.name for path in folder.glob("*step-*")) == [
        "damaged-step-00000003",
        "damaged-step-00000006",
    ]


def test_a_best_checkpoint_that_is_damaged_at_the_end_costs_its_score_only(data, tmp_path):
    """The last step is scored, and the result says which step it is of."""
    options = [*data, *STEPS, "--loop.evaluate_every=3", f"--out_dir={tmp_path}"]
    whole = dare_without_report("train", *options).result
    folder = tmp_path / "run" / "checkpoints"
    manifest = folder / "step-00000003" / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["digest"]
    manifest.write_text(json.dumps(told | {"metrics": told["metrics"] | {"auc": 0.99}}))
    _cut_off(manifest.parent)
    outcome = dare_without_report("train", *options, "--resume")
    assert "the last step is scored instead" in outcome.err
    assert outcome.result["best_step"] == whole["steps"]
