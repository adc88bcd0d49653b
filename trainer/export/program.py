"""The ranker as a graph of torch.export: written without pickles, and read only if it has none."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from modules.serving import ServedRanker

INPUTS = [
    "attention_target",
    "attention_history",
    "representation_target",
    "representation_history",
    "target_category",
    "history_category",
    "num_behaviours",
]
OUTPUTS = ["logit", "kept", "weight"]
MOST_TARGETS = 65536
_HISTORY = frozenset({"attention_history", "representation_history", "history_category"})

# All that may be in the archive besides the weights' own numbers.
_FILES = re.compile(
    r"(data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|models/model\.json|archive_format|archive_version|byteorder|\.data/\w+)"
)
_TARGETS = re.compile(r"torch\.ops\.(aten|higher_order)\.\w+(\.\w+)?|_operator\.\w+")
_NUMBERS = r"[-\d(), ]|positive=True|integer=True"
_SHAPES = re.compile(rf"(Symbol\('\w+'|Integer|Add|Mul|Pow|Min|Max|Mod|FloorDiv|{_NUMBERS})*")
_GUARDS = re.compile(r"(L\['\w+'\](\[\d+\])?\.size\(\)\[\d+\]|min|max|[-+*%<>=!(), \d]|//)*")
_CODE = {"target": _TARGETS, "expr_str": _SHAPES, "guards_code": _GUARDS}


def least_behaviours(ranker: ServedRanker, history_length: int) -> int:
    """Rows of history that the program takes at least: a search that cuts must have what to cut."""
    if ranker.interaction.config.search.cluster_size:
        return history_length  # Rounds of halving are unrolled, for this length only.
    kept = ranker.interaction.search.top_k
    return kept + 1 if kept < history_length else 1


def export_program(ranker: ServedRanker, path: Path, history_length: int) -> None:
    """Write the ranker for any number of targets and behaviours.

    Args:
        ranker: with its weights.
        path: of the file, `.pt2`.
        history_length: behaviours at most.
    """
    least = least_behaviours(ranker, history_length)
    targets = Dim("targets", min=1, max=MOST_TARGETS)
    history = None
    if least < history_length:
        history = {0: Dim("behaviours", min=least, max=history_length)}
    shapes = [history if name in _HISTORY else {0: targets} for name in INPUTS[:-1]]
    example = example_inputs(ranker, 3, history_length)
    program = torch.export.export(
        _Outputs(ranker), example, dynamic_shapes={"inputs": (*shapes, None)}
    )
    program.example_inputs = None  # They would be pickled.
    torch.export.save(program, path)


def example_inputs(ranker: ServedRanker, targets: int, behaviours: int) -> tuple[Tensor, ...]:
    """Zeros in the shapes of what the ranker takes."""
    embeddings = ranker.interaction.config.embeddings
    found = []
    for name in INPUTS[:4]:
        space: str = getattr(embeddings.uses, name)
        width = sum(embeddings.table_widths(space).values())
        found.append(torch.zeros(behaviours if name in _HISTORY else targets, width))
    ids = [torch.zeros(number, dtype=torch.int64) for number in (targets, behaviours)]
    return (*found, *ids, torch.tensor(behaviours))


class _Outputs(nn.Module):
    """The ranker with outputs of no class of ours, which a reader would need."""

    def __init__(self, ranker: ServedRanker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.ranker(*inputs))


def load_program(path: Path) -> ExportedProgram:
    """Read a program, after a look that it holds numbers and a graph of tensor operators only.

    `torch.export.load` itself unpickles what an archive marks as pickled, evaluates its shape
    expressions and compiles its guards; so all of these are looked at first.

    Raises:
        ValueError: it holds something else.
    """
    for problem in _problems(path):
        raise ValueError(f"{path} is not loaded: {problem}; export again")
    return torch.export.load(path)


def _problems(path: Path) -> Iterator[str]:
    """What of an archive could run code as it is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                inner = entry.filename.partition("/")[2]
                if not _FILES.fullmatch(inner):
                    yield f"it has a file {inner}, which is no part of a program"
                if inner.endswith(".pt") and entry.file_size:
                    yield f"{inner} is pickled"
                if inner.endswith(".json"):
                    yield from _code(json.loads(archive.read(entry)))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        yield f"it is no whole archive: {error}"


def _code(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("use_pickle"):
            yield f"{value.get('path_name')} is pickled"
        for name, inner in value.items():
            yield from _code(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _code(inner, key)
    elif isinstance(value, str) and key in _CODE and not _CODE[key].fullmatch(value):
        yield f"its {key} has {value[:80]!r}"
