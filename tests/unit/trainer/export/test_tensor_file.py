"""A file written block by block is what the safetensors library reads."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from trainer.export.tensor_file import TensorFile

LAYOUT = {
    "one": (torch.float32, (5, 3)),
    "two": (torch.bfloat16, (2, 4)),
    "three": (torch.uint8, (3, 12)),
}


def test_safetensors_reads_what_was_written(tmp_path):
    path = tmp_path / "tables.safetensors"
    tensors = {
        name: torch.arange(shape[0] * shape[1]).view(shape).to(dtype)
        for name, (dtype, shape) in LAYOUT.items()
    }
    with TensorFile(path, LAYOUT) as written:
        for value in tensors.values():
            for block in value.split(2):
                written.write(block)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[name].equal(value) for name, value in tensors.items())
    digest = written.digest()
    assert digest.bytes == path.stat().st_size
    assert digest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tensor_that_was_forgotten_is_found(tmp_path):
    with (
        pytest.raises(AssertionError, match="were not written"),
        TensorFile(tmp_path / "tables.safetensors", LAYOUT) as written,
    ):
        written.write(torch.zeros(5, 3))
