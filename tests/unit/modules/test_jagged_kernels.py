"""The kernels compile for real GPUs with none there: Triton's wheel brings NVIDIA's assembler."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.jagged_gpu import (
    BLOCK_CANDIDATES,
    BLOCK_HISTORY,
    FOLDING_WARPS,
    block_sizes,
)

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="Triton has no wheel for this machine"
)
FOLDINGS = {
    f"{targets}x{width}_{fold}": {**block_sizes(targets, width), "FOLD": fold}
    for targets in (1, 20, 100)
    for width in (8, 256)
    for fold in (1, 16)
}
_POINTERS = {
    **dict.fromkeys(("history_ND", "query_RMD"), "rows"),
    **dict.fromkeys(("offset_R1", "fold_RMK", "key_RMF", "key_RMC"), "*i64"),
}


@pytest.fixture(autouse=True)
def compiled_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def compiled(name: str, rows: str, constants: Mapping[str, int], warps: int = 4) -> Any:
    """A kernel for compute capability 9.0, as it is launched."""
    import triton
    from triton.backends.compiler import GPUTarget

    from modules import jagged_kernels

    kernel = getattr(jagged_kernels, name)
    kinds = {}
    for parameter in kernel.params:
        number = "fp32" if parameter.name == "factor" else "i32"
        pointer = _POINTERS.get(parameter.name, "*fp32").replace("rows", rows)
        plain = not re.search(r"_[A-Z0-9]+$", parameter.name)
        kinds[parameter.name] = number if plain else pointer
    source = triton.compiler.ASTSource(
        fn=kernel, signature=kinds | dict.fromkeys(constants, "constexpr"), constexprs=constants
    )
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": warps})


def check(found: Any, folder: Path, *, warps: int = 4) -> None:
    """It is machine code that keeps its numbers in registers, and whose blocks fit a processor."""
    import triton

    path = folder / "kernel.cubin"
    path.write_bytes(found.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    told = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", told.stdout))
    assert (usage["STACK"], usage["LOCAL"]) == ("0", "0")
    # A processor of an H100 has 65,536 registers and 227 KiB of shared memory; of blocks of 48 KiB
    # any GPU takes one.
    assert int(usage["REG"]) * 32 * warps <= 65_536
    assert found.metadata.shared <= 48 * 1024
    # Products are float32's own, one added after the other: no tensor core's.
    assert "mma" not in found.asm["ptx"]


@pytest.mark.parametrize("rows", ["*fp32", "*bf16"])
@pytest.mark.parametrize("name", FOLDINGS)
def test_folding_compiles_for_a_gpu_and_spills_nothing(name, rows, tmp_path) -> None:
    constants = {**FOLDINGS[name], "BLOCK_HISTORY": BLOCK_HISTORY}
    check(
        compiled("fold_keys", rows, constants, FOLDING_WARPS),
        tmp_path,
        warps=FOLDING_WARPS,
    )


@pytest.mark.parametrize("rows", ["*fp32", "*bf16"])
def test_looking_again_compiles_for_a_gpu_and_spills_nothing(rows, tmp_path) -> None:
    for width in (8, 256):
        constants = {
            "BLOCK_CANDIDATES": BLOCK_CANDIDATES,
            "BLOCK_WIDTH": block_sizes(1, width)["BLOCK_WIDTH"],
            "FOLD": 16,
        }
        check(compiled("candidate_keys", rows, constants), tmp_path)
