"""`dare replay`: the forward pass of a kept batch on one CPU, and where it stops being finite."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modules.ranker import Ranker
from pipelines.few_rows import numbered_anew
from trainer.arguments import parse_config
from trainer.config import TrainConfig
from trainer.reliability.bad_batch import KeptBatch, feature_of, read_batch
from trainer.task import StepOutput, TrainTask

_TOLD = 20
"""Ids, parameters or targets of a kind that are listed at most."""


def replay(path: str) -> dict[str, Any]:
    """Run the batch forward and backward as its rank did.

    Args:
        path: of a file below `bad_batches/` of a run.

    Returns:
        What JSON can hold: `loss` then and now, `reproduced`, what of the input is not finite
        (`labels`, `weights`, `rows` by table, `parameters`), the first module whose output is not
        (`module`), the `targets` whose loss is not, and the largest `gradients` by table.

    Raises:
        ValueError: the file is damaged.
    """
    kept = read_batch(path)
    config = _config(kept)
    task = _task(kept, config)
    batch = replace(kept.batch, features=numbered_anew(kept.batch.features, kept.ids))
    first = _FirstBad(task)
    task.train()
    loss, output = task(batch)
    found = float(output.loss + output.auxiliary_loss)
    told = {
        "file": path,
        "rank": kept.rank,
        "step": kept.step,
        "loss_then": _number(kept.loss),
        "loss": _number(found),
        "reproduced": _same(found, kept.loss),
        "labels": _bad_places(kept.batch.label),
        "weights": _bad_places(kept.batch.weight),
        "rows": _bad_rows(kept),
        "parameters": [
            name
            for name, value in kept.model.items()
            if _table(name) is None and not bool(value.isfinite().all())
        ],
        "module": first.name,
        "targets": _bad_targets(kept, output),
    }
    if math.isfinite(float(loss.detach())):
        loss.backward()
        told["gradients"] = _gradients(kept, task)
    return told


def describe(told: dict[str, Any]) -> str:
    """What `replay` has found, for people."""
    lines = [
        f"{told['file']}: rank {told['rank']}, step {told['step']:,}: the loss was "
        f"{told['loss_then']}, here it is {told['loss']}"
    ]
    for what, found in (
        ("targets whose label is not finite", told["labels"]),
        ("targets whose weight is not finite", told["weights"]),
        *(
            (f"ids whose rows of {table} are not finite", ids)
            for table, ids in told["rows"].items()
        ),
        ("parameters that are not finite", told["parameters"]),
        ("the first output that is not finite is of", told["module"]),
        ("targets whose loss is not finite", told["targets"]),
        *((f"gradient, {name}", value) for name, value in told.get("gradients", {}).items()),
    ):
        if found:
            lines.append(f"  {what}: {found}")
    return "\n".join(lines)


class _FirstBad:
    """The first module, innermost first, whose output is nan or +inf; masks are -inf."""

    def __init__(self, task: nn.Module) -> None:
        self.name: str | None = None
        for name, module in task.named_modules():
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: self._look(name or "loss", output)
            )

    def _look(self, name: str, output: Any) -> None:
        if self.name is None and _is_bad(output):
            self.name = name


def _is_bad(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.is_floating_point() and bool((output.isnan() | (output == math.inf)).any())
    if isinstance(output, dict):
        return any(_is_bad(value) for value in output.values())
    if isinstance(output, tuple | list):
        return any(_is_bad(value) for value in output)
    if hasattr(output, "__dict__"):
        return any(_is_bad(value) for value in vars(output).values())
    return False


def _config(kept: KeptBatch) -> TrainConfig:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(kept.config_yaml)
        file.flush()
        return parse_config([f"--config={file.name}"])[0]


def _task(kept: KeptBatch, config: TrainConfig) -> TrainTask:
    ranker = Ranker(
        config.model,
        rows={name: len(ids) for name, ids in kept.ids.items()},
        history_length=config.data.history_length,
        device=torch.device("cpu"),
        autocast=config.loop.autocast,
    )
    task = TrainTask(ranker, auxiliary_weight=config.model.head.auxiliary_weight, l2=config.loop.l2)
    task.load_state_dict(kept.model)
    return task


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _same(found: float, then: float) -> bool:
    if math.isfinite(found) and math.isfinite(then):
        return math.isclose(found, then, rel_tol=1e-4)
    return math.isfinite(found) == math.isfinite(then)


def _bad_places(values: Tensor) -> list[int]:
    return [int(place) for place in (~values.isfinite()).nonzero().flatten()[:_TOLD]]


def _table(name: str) -> str | None:
    """The table that an entry of the state dict is, None for a dense parameter."""
    *_, kind, table, _ = ("", "", *name.split("."))
    return table if kind in ("embeddings", "embedding_bags") else None


def _ids(kept: KeptBatch, table: str) -> Tensor:
    return kept.ids[feature_of(table, kept.ids)]


def _bad_rows(kept: KeptBatch) -> dict[str, list[int]]:
    """Ids whose rows were not finite before the step, by table."""
    found = {}
    for name, value in kept.model.items():
        table = _table(name)
        if table is not None:
            bad = _ids(kept, table)[~value.isfinite().all(1)]
            if bad.numel():
                found[table] = bad[:_TOLD].tolist()
    return found


def _bad_targets(kept: KeptBatch, output: StepOutput) -> list[dict[str, Any]]:
    bad = (~(output.logit_T * output.label_T * output.weight_T).isfinite()).nonzero().flatten()
    ids = {
        key.removeprefix("target_"): kept.batch.features[key].values()
        for key in kept.batch.features.keys()  # noqa: SIM118 - no mapping
        if key.startswith("target_")
    }
    return [
        {
            "user": int(output.user_T[place]),
            **{name: int(values[place]) for name, values in ids.items()},
            "logit": _number(float(output.logit_T[place])),
            "label": _number(float(output.label_T[place])),
            "weight": _number(float(output.weight_T[place])),
        }
        for place in bad[:_TOLD].tolist()
    ]


def _gradients(kept: KeptBatch, task: TrainTask) -> dict[str, Any]:
    """Norms of gradients: of dense parameters together, and of each table's largest rows."""
    told: dict[str, Any] = {}
    dense = 0.0
    for name, parameter in task.named_parameters():
        table, gradient = _table(name), parameter.grad
        if gradient is None:
            continue
        if table is None:
            dense += float(gradient.square().sum())
            continue
        norm = gradient.norm(dim=1)
        rows = norm.topk(min(5, len(norm))).indices
        told[table] = [
            {"id": int(_ids(kept, table)[row]), "norm": _number(float(norm[row]))} for row in rows
        ]
    return {"dense": _number(math.sqrt(dense)), **told}
