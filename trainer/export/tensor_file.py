"""A safetensors file written block by block, so that no table is held to be written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from trainer.checkpoints.manifest import FileDigest

_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}


class TensorFile:
    """Writes tensors in the order of a layout; a context manager.

    The format is that of safetensors: 8 bytes with the header's length, a JSON header with each
    tensor's type, shape and place, then the numbers (github.com/huggingface/safetensors).

    Args:
        path: of the file.
        layout: type and shape of each tensor by name.
    """

    def __init__(
        self, path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    ) -> None:
        header, start = {}, 0
        for name, (dtype, shape) in layout.items():
            end = start + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": _TYPE_NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
            start = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # So that the numbers are aligned.
        self._missing = start
        self._sha256, self._bytes = hashlib.sha256(), 0
        self._stream = path.open("wb")
        self._put(len(text).to_bytes(8, "little"))
        self._put(text)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        assert kind is not None or self._missing == 0, "tensors of the layout were not written"

    def write(self, block: Tensor) -> None:
        """Write the next rows of the tensor that is due."""
        numbers = block.detach().contiguous().view(torch.uint8).numpy()
        self._missing -= numbers.nbytes
        self._put(numbers.data)

    def digest(self) -> FileDigest:
        """Of what was written."""
        return FileDigest(self._bytes, self._sha256.hexdigest())

    def _put(self, content: bytes | memoryview) -> None:
        self._sha256.update(content)
        self._bytes += memoryview(content).nbytes
        self._stream.write(content)
