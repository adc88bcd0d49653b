"""A checkpoint that is damaged, or made to run code, is refused in a line and runs none."""

import io
import json
import os
import pickle
import shutil
from hashlib import sha256

import pytest
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from tests.commands import dare, dare_without_report


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("damaged")
    options = [*data, f"--out_dir={out}", "--name=whole", "--loop.steps=2"]
    assert dare_without_report("train", *options).code == 0
    return out / "whole"


@pytest.fixture
def checkpoint(whole, tmp_path):
    """A copy of the checkpoint of a copy of the run."""
    shutil.copytree(whole, tmp_path / "whole")
    return tmp_path / "whole" / "checkpoints" / "step-00000002"


def _refused(checkpoint):
    folder = checkpoint.parent.parent
    outcome = dare("evaluate", f"--config={folder / 'config.yaml'}", f"--out_dir={folder.parent}")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    return line


def _replace(checkpoint, name, content):
    """As one would who knows that sizes and digests are checked."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    del manifest["digest"]  # As earlier versions wrote it.
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_file_cut_off_is_refused(checkpoint):
    file = checkpoint / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-10])
    assert "__0_0.distcp" in _refused(checkpoint)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "loader.json", "config.yaml"])
def test_a_bit_that_changed_is_refused(checkpoint, name):
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    assert f"{name} does not hold the bytes that were written" in _refused(checkpoint)


def test_a_checkpoint_of_another_format_says_what_to_do(checkpoint):
    (checkpoint / "manifest.json").write_text('{"format": 1}')
    assert "has format 1; this version reads 2" in _refused(checkpoint)


def test_a_file_gone_is_refused(checkpoint):
    (checkpoint / "__0_0.distcp").unlink()
    assert "__0_0.distcp" in _refused(checkpoint)


def test_a_checkpoint_without_manifest_is_none(checkpoint):
    (checkpoint / "manifest.json").unlink()
    assert "has no checkpoint" in _refused(checkpoint)


def test_a_manifest_cut_off_is_refused(checkpoint):
    (checkpoint / "manifest.json").write_text('{"step": 2')
    folder = checkpoint.parent.parent
    outcome = dare("evaluate", f"--config={folder / 'config.yaml'}", f"--out_dir={folder.parent}")
    assert (outcome.code, outcome.out) == (2, "")
    *warnings, error = outcome.err.splitlines()
    assert all("manifest.json is damaged" in line for line in warnings)
    assert "has no checkpoint" in error


@pytest.mark.parametrize("content", [b"", b"\x80", pickle.dumps({}), b"not a pickle"])
def test_metadata_that_is_none_is_refused(checkpoint, content):
    _replace(checkpoint, ".metadata", content)
    assert ".metadata" in _refused(checkpoint)


class _Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def test_metadata_runs_no_code(checkpoint, tmp_path):
    marker = tmp_path / "ran"
    _replace(checkpoint, ".metadata", pickle.dumps(_Command(f"touch {marker}")))
    assert "system" in _refused(checkpoint)
    assert not marker.exists()


def test_bytes_that_would_be_unpickled_are_refused(checkpoint):
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    metadata.state_dict_metadata["optimizer.step"] = BytesStorageMetadata()
    _replace(checkpoint, ".metadata", pickle.dumps(metadata))
    assert "entry optimizer.step holds bytes; a checkpoint holds tensors" in _refused(checkpoint)


def test_tensors_run_no_code(checkpoint, tmp_path):
    """The tensors' file is made of records that `torch.load` could be asked to unpickle."""
    marker = tmp_path / "ran"
    code = pickle.dumps(_Command(f"touch {marker}"))
    size = (checkpoint / "__0_0.distcp").stat().st_size
    stream = io.BytesIO()
    while stream.tell() + len(code) < size:
        stream.write(code)
    _replace(checkpoint, "__0_0.distcp", stream.getvalue().ljust(size, b"\0"))
    assert "step-00000002" in _refused(checkpoint)
    assert not marker.exists()


def test_attributes_are_members_of_enumerations_and_nothing_else(checkpoint):
    """Some versions of Python pickle those as `getattr(kind, name)`."""
    attribute = b"\x80\x04cbuiltins\ngetattr\n(ctorch\nSize\nX\x05\x00\x00\x00counttR."
    _replace(checkpoint, ".metadata", attribute)
    assert "metadata asks" in _refused(checkpoint)
