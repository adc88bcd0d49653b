"""A batch whose loss is not finite is kept with its rows, and runs again on one CPU."""

import json
import math

import pytest
import torch
from safetensors.torch import safe_open, save_file

from tests.commands import dare, dare_without_report
from tests.torchrun import torchrun
from trainer.reliability.bad_batch import read_batch

LOOK = "--loop.check_loss_every=1"
TOO_FAST = ["--optim.sparse.learning_rate=1e30", "--optim.dense.learning_rate=1e30"]


@pytest.fixture(scope="module")
def exploded(data, tmp_path_factory):
    """A run that took too long a first step, and the file that it left."""
    out = tmp_path_factory.mktemp("exploded")
    outcome = dare_without_report("train", *data, f"--out_dir={out}", *TOO_FAST, LOOK)
    assert outcome.code == 2
    (file,) = (out / "run" / "bad_batches").iterdir()
    return outcome, file


def test_the_message_names_rank_step_and_file(exploded):
    outcome, file = exploded
    assert file.name == "step-00000002-rank-0.safetensors"
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "the loss of rank 0 is nan at step 2; " in line
    assert f"`dare replay {file}` runs its forward pass on one CPU" in line


def test_a_kept_batch_fails_again_and_says_where(exploded):
    _, file = exploded
    outcome = dare("replay", str(file))
    told = outcome.result
    assert told["reproduced"]
    assert (told["loss_then"], told["loss"]) == ("nan", "nan")
    assert (told["labels"], told["weights"], told["rows"]) == ([], [], {})
    assert told["module"].startswith("ranker.")
    assert told["targets"]
    assert all(target["logit"] in ("nan", "inf", "-inf") for target in told["targets"])
    assert "the first output that is not finite is of: ranker." in outcome.err


def test_a_file_holds_the_rows_of_its_batch_only(exploded):
    _, file = exploded
    kept = read_batch(str(file))
    items = (
        kept.batch.features["history_item"].values(),
        kept.batch.features["target_item"].values(),
    )
    assert kept.ids["item"].tolist() == torch.cat([*items, torch.zeros(1)]).unique().int().tolist()
    (table,) = [v for name, v in kept.model.items() if name.endswith("attention_item.weight")]
    assert table.shape == (len(kept.ids["item"]), 16)
    assert bool(table.isfinite().all())
    assert table.abs().max() > 1e20


@pytest.mark.dist
def test_on_two_ranks_all_end_and_the_rank_to_blame_keeps_its_batch(data, tmp_path):
    """It was not the batch: its loss is finite here, which the exit code says."""
    options = [*data, LOOK, f"--out_dir={tmp_path}", "--data.batch_size=256"]
    fault = {"rank": 1, "where": "forward", "after": 3, "what": "nan", "once": f"{tmp_path}/once"}
    done = torchrun("train", *options, fault=fault)
    assert done.returncode != 0
    (line,) = {line for line in done.stderr.splitlines() if "dare train: error" in line}
    assert "the loss of rank 1 is nan at step 4; `dare replay" in line
    (file,) = (tmp_path / "run" / "bad_batches").iterdir()
    outcome = dare("replay", str(file))
    assert outcome.code == 1
    told = json.loads(outcome.out)
    assert (told["rank"], told["step"], told["reproduced"]) == (1, 4, False)
    assert math.isfinite(told["loss"])
    items = read_batch(str(file)).ids["item"].tolist()
    assert {row["id"] for row in told["gradients"]["attention_item"]} <= set(items)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b'{"format": 1}'])
def test_a_file_that_is_none_is_refused_in_a_line(tmp_path, content):
    file = tmp_path / "file.safetensors"
    file.write_bytes(content)
    outcome = dare("replay", str(file))
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert f"{file} is no whole batch of `dare train`" in line


def test_a_file_of_a_later_format_is_refused_by_number(exploded, tmp_path):
    _, file = exploded
    with safe_open(file, framework="pt") as whole:
        about = json.loads(whole.metadata()["about"]) | {"format": 2}
    later = tmp_path / "later.safetensors"
    save_file({"x": torch.zeros(1)}, later, metadata={"about": json.dumps(about)})
    assert "has format 2, this version reads 1" in dare("replay", str(later)).err
