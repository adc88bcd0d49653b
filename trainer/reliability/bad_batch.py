"""A batch whose loss is not finite, in one file with all that its loss depends on.

The file holds the batch of one rank, the rows of each table that it looks up, numbered anew, and
all dense parameters: a few megabytes, however large the tables are, which one CPU can replay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.tensor import DTensor
from torchrec import KeyedJaggedTensor

from pipelines.batch import Batch
from pipelines.few_rows import looked_up
from trainer.distributed import RunContext
from trainer.reliability.divergence import BadBatch
from trainer.sharding import local_parts

FORMAT = 1
_BATCH, _IDS, _MODEL = "batch.", "ids.", "model."
_TENSORS = ("label", "weight", "user", "total_weight")
_NUMBERS = ("num_history", "num_targets", "num_behaviours")

_Part = tuple[Tensor, int, Tensor]
"""Places among the ids, first column, and the rows' columns there."""


@dataclass(frozen=True)
class KeptBatch:
    """What a file holds."""

    rank: int
    step: int
    loss: float
    config_yaml: str
    batch: Batch
    """With ids as they were."""
    ids: dict[str, Tensor]
    """Ids by feature whose rows are there, int64, ascending from 0."""
    model: dict[str, Tensor]
    """The state dict; each table has only these rows."""


def keep_batch(
    model: nn.Module, context: RunContext, folder: Path, config_yaml: str, bad: BadBatch
) -> str:
    """Write the file from all ranks' tables; a collective.

    Args:
        model: sharded, as it was before the batch's update.
        context: of this process.
        folder: of the run.
        config_yaml: of the run.
        bad: the batch.

    Returns:
        What to do with it, for a message.
    """
    path = folder / "bad_batches" / f"step-{bad.step:08d}-rank-{bad.rank}.safetensors"
    wanted: list[Any] = [None if bad.batch is None else looked_up([bad.batch.features])]
    if context.world > 1:
        dist.broadcast_object_list(wanted, src=bad.rank, group=context.control)
    ids: dict[str, Tensor] = wanted[0]
    state = model.state_dict()
    parts: list[Any] = [_held(state, ids)]
    if context.world > 1:
        mine, parts = parts[0], [None] * context.world
        dist.all_gather_object(parts, mine, group=context.control)
    failure = {}
    if bad.batch is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, bad, bad.batch, ids, _whole(state, ids, parts), config_yaml)
        except (OSError, SafetensorError) as error:
            failure = {"": f"its batch could not be kept: {error}"}
    told = context.gather(failure)
    return str(told[""]) if told else f"`dare replay {path}` runs its forward pass on one CPU"


def _table(name: str) -> str:
    """The table of an entry `<path>.<table>.weight` of the state dict."""
    return name.split(".")[-2]


def _is_table(value: Any) -> bool:
    return isinstance(value, ShardedTensor | DTensor)


def feature_of(table: str, features: Iterable[str]) -> str:
    """Whose ids a table `<space>_<feature>` has."""
    return max((f for f in features if table.endswith(f"_{f}")), key=len)


def _held(state: Mapping[str, Any], ids: Mapping[str, Tensor]) -> dict[str, list[_Part]]:
    """What of these rows lies on this rank, by table."""
    held: dict[str, list[_Part]] = {}
    for name, value in state.items():
        if _is_table(value):
            wanted = ids[feature_of(_table(name), ids)]
            for tensor, (row, column) in local_parts(value):
                there = (wanted >= row) & (wanted < row + tensor.shape[0])
                rows = tensor.detach()[(wanted[there] - row).to(tensor.device)].float().cpu()
                held.setdefault(name, []).append((there.nonzero().flatten(), column, rows))
    return held


def _whole(
    state: Mapping[str, Any], ids: Mapping[str, Tensor], ranks: list[dict[str, list[_Part]]]
) -> dict[str, Tensor]:
    """The state dict with tables of these rows only."""
    found = {}
    for name, value in state.items():
        if not _is_table(value):
            found[name] = value.detach().cpu().contiguous()
            continue
        rows = torch.zeros(len(ids[feature_of(_table(name), ids)]), value.size(1))
        for held in ranks:
            for places, column, part in held.get(name, ()):
                rows[places, column : column + part.shape[1]] = part
        found[name] = rows
    return found


def _write(
    path: Path,
    bad: BadBatch,
    batch: Batch,
    ids: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    config_yaml: str,
) -> None:
    features = batch.features
    tensors = {
        **{_BATCH + name: getattr(batch, name).cpu() for name in _TENSORS},
        _BATCH + "values": features.values().cpu(),
        _BATCH + "lengths": features.lengths().cpu(),
        **{_IDS + name: value for name, value in ids.items()},
        **{_MODEL + name: value for name, value in model.items()},
    }
    about = {
        "format": FORMAT,
        "rank": bad.rank,
        "step": bad.step,
        "loss": str(bad.loss),
        "config": config_yaml,
        "keys": list(features.keys()),
        "numbers": {name: getattr(batch, name) for name in _NUMBERS},
    }
    aside = path.with_suffix(".part")
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()},
        aside,
        metadata={"about": json.dumps(about)},
    )
    aside.replace(path)


def read_batch(path: str) -> KeptBatch:
    """Read a file of `keep_batch`; runs no code of it.

    Raises:
        ValueError: it is not there, damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            if about["format"] != FORMAT:
                raise ValueError(f"it has format {about['format']}, this version reads {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        batch = Batch(
            features=KeyedJaggedTensor(
                about["keys"], tensors[_BATCH + "values"], lengths=tensors[_BATCH + "lengths"]
            ),
            **{name: tensors[_BATCH + name] for name in _TENSORS},
            **about["numbers"],
        )
        return KeptBatch(
            rank=about["rank"],
            step=about["step"],
            loss=float(about["loss"]),
            config_yaml=about["config"],
            batch=batch,
            ids=_beginning(tensors, _IDS),
            model=_beginning(tensors, _MODEL),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole batch of `dare train`: {error}") from error


def _beginning(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
