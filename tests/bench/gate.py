"""Do both train the same model? `python -m tests.bench.gate CLONE`.

The paper's released code and this project start from the same weights and train on the same batches
with PyTorch's Adam over whole tables. Compared are the logits of the first batch, before any step,
and the loss of every step. The peer's own `train()` runs; logits are caught where its networks hand
them out, and weights are read as the first batch is asked for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.batch import Batch, collate
from pipelines.requests import Requests
from pipelines.schema import load_schema
from tests.bench import peer_paper
from tests.bench.ours import make_config, write_ours
from tests.bench.rows import Shape, draw, write_paper
from tests.bench.turns import Done
from trainer.build import ShardedRun, build
from trainer.distributed import run_context
from trainer.sharding import local_parts

STEPS = 50
TOP_K = 20
LOGIT_TOLERANCE = 1e-5
"""Absolute, of the first batch's logits; float32 sums in another order."""
LOSS_TOLERANCE = 1e-3
"""Relative, of each step's loss: a search keeps another behaviour where two scores are as near as
rounding."""
EPS = 1e-6
"""Of Adam on both sides, where both have 1e-8 otherwise. With that Adam makes a full step of what
is rounding in gradients that are zero in truth, so the losses agree to 4e-7 for four steps and then
drift apart."""
PARITY = [
    "--model.preset=dare",
    f"--model.search.top_k={TOP_K}",
    "--model.attention.scale=two_term",
    "--model.head.inputs=target_history_product",
    "--model.head.hidden=[200,80]",
    "--model.head.auxiliary_hidden=[200]",
    "--model.head.auxiliary_weight=1.0",
    "--model.head.norm=batch",
    "--optim.sparse.name=dense_adam",
    *(
        f"--optim.{side}.{name}={value}"
        for side in ("sparse", "dense")
        for name, value in (
            ("learning_rate", peer_paper.LEARNING_RATE),
            ("eps", EPS),
            ("beta1", 0.9),
            ("beta2", 0.999),
        )
    ),
    f"--loop.l2={peer_paper.L2}",
]
"""What `launch/recipes/parity_*.yaml` set of model and optimizers, but for eps; starting values are
copied."""
_DENSE = {"head": "main_mlp", "auxiliary_head": "auxiliary_mlp"}


@dataclass
class Recorded:
    """What the peer did."""

    start: dict[str, Tensor] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    main_T2: list[Tensor] = field(default_factory=list)
    auxiliary_T2: list[Tensor] = field(default_factory=list)

    def losses(self) -> list[float]:
        """Main and auxiliary loss of each step, without the penalty."""
        return [
            sum(
                float(cross_entropy(logits, torch.from_numpy(batch["target"][:, 1])))
                for logits in (main, auxiliary)
            )
            for batch, main, auxiliary in zip(
                self.batches, self.main_T2, self.auxiliary_T2, strict=True
            )
        ]


def keep(to: list[Tensor], module: Any, given: Any, output: Tensor) -> None:
    """A hook that keeps what a network hands out."""
    del module, given
    to.append(output.detach().clone())


def train_peer(peer: Any, shape: Shape, pattern: str, log: str) -> Recorded:
    """Its own training over the first steps."""
    done, models = Recorded(), []
    make = peer.create_model

    def create_model(*arguments: Any) -> Any:
        model = make(*arguments)
        model.main_mlp.register_forward_hook(partial(keep, done.main_T2))
        model.auxiliary_mlp.register_forward_hook(partial(keep, done.auxiliary_T2))
        models.append(model)
        return model

    def batches() -> Iterator[dict[str, Any]]:
        dataset = peer.SeqRecDataset(pattern, shape.batch_size, max_length=shape.history_length)
        for batch in islice(peer_paper.endless(dataset), STEPS):
            if not done.start:
                done.start = {n: value.clone() for n, value in models[0].state_dict().items()}
            done.batches.append(batch)
            yield batch
        raise Done

    peer.create_model = create_model
    peer.optim = SimpleNamespace(Adam=partial(torch.optim.Adam, eps=EPS))
    peer_paper.train(peer, peer_paper.script_arguments(peer, shape, TOP_K, log), batches())
    return done


def as_ours(batch: dict[str, Any]) -> Batch:
    """A batch of its loader, each row a request of its own."""
    count, length = batch["hist_iid"].shape
    starts = np.arange(count + 1) * length
    requests = Requests(
        history={"item": batch["hist_iid"].ravel(), "category": batch["hist_cid"].ravel()},
        start=starts[:-1],
        end=starts[1:],
        user=batch["uid"],
        target_offset=np.arange(count + 1),
        target={"item": batch["iid"], "category": batch["cid"]},
        label=batch["target"][:, 0].astype(np.float32),
    )
    return collate([(requests, np.arange(count))])


def copy_weights(run: ShardedRun, start: dict[str, Tensor]) -> None:
    """Its starting values into a run; each must be given, and fit."""
    with torch.no_grad():
        for name, value in run.model.state_dict().items():
            parts = name.split(".")
            if tables := local_parts(value):
                space, feature = parts[-2].split("_")
                whole = start[f"{feature}_id_embedding_layer_for_{space}_of_target.weight"]
                for weight, (row, column) in tables:
                    rows, columns = weight.shape
                    weight.copy_(whole[row : row + rows, column : column + columns])
            elif "positions" in parts:
                space = parts[-1]
                whole = start[f"time_id_embedding_layer_for_{space}_of_target.weight"]
                value.copy_(whole[: len(value)])
            elif parts[-2] == "norm" and parts[-1] in ("weight", "bias"):
                value.copy_(start[f"{_DENSE[parts[-3]]}.0.{parts[-1]}"])
            elif parts[-3] == "layers":
                value.copy_(start[f"{_DENSE[parts[-4]]}.{int(parts[-2]) + 1}.{parts[-1]}"])


def train_ours(data: Path, shape: Shape, peer: Recorded) -> tuple[Tensor, list[float]]:
    """The same from the same start: the first batch's logits, and each step's loss."""
    with run_context() as context:
        config = make_config(data, shape, PARITY)
        run = build(config, load_schema(config.data.schema), context)
        copy_weights(run, peer.start)
        run.model.train()
        logits, losses = [], []
        for batch in map(as_ours, peer.batches):
            run.optimizers.combined.zero_grad()
            loss, output = run.model(batch)
            loss.backward()
            run.optimizers.combined.step()
            logits.append(output.logit_T)
            losses.append(float(output.loss + output.auxiliary_loss) / len(batch.label))
    return logits[0], losses


def compare(clone: str) -> dict[str, Any]:
    """How far apart they are.

    Raises:
        ValueError: there is no clone.
    """
    peer = peer_paper.load(clone)
    shape = Shape(
        items=2_000, categories=60, history_length=60, batch_size=256, batches=60, targets=3
    )
    with tempfile.TemporaryDirectory() as work:
        rows, log = draw(shape), Path(work) / "log"
        log.mkdir()
        pattern = write_paper(Path(work) / "paper", rows, shape.batch_size, 10)
        write_ours(Path(work) / "ours", rows, shape.items)
        theirs = train_peer(peer, shape, pattern, str(log))
        logit_T, losses = train_ours(Path(work) / "ours", shape, theirs)
    expected_T = theirs.main_T2[0][:, 0] - theirs.main_T2[0][:, 1]
    expected = theirs.losses()
    apart = [abs(mine - other) / other for mine, other in zip(losses, expected, strict=True)]
    return {
        "logits_apart": float((logit_T - expected_T).abs().max()),
        "largest_logit": float(expected_T.abs().max()),
        "logit_tolerance": LOGIT_TOLERANCE,
        "first_loss": [losses[0], expected[0]],
        "last_loss": [losses[-1], expected[-1]],
        "losses_apart": max(apart),
        "loss_tolerance": LOSS_TOLERANCE,
        "steps": STEPS,
        "adam_eps": EPS,
    }


def check(found: dict[str, Any]) -> None:
    """Refuse to time what is not the same.

    Raises:
        RuntimeError: the two differ, or nothing was learned that could differ.
    """
    learned = found["last_loss"][1] < 0.8 * found["first_loss"][1]
    same = found["logits_apart"] <= LOGIT_TOLERANCE and found["losses_apart"] <= LOSS_TOLERANCE
    if not (learned and same):
        raise RuntimeError(f"the paper's code and this project train differently: {found}")


def main() -> None:
    """Compare and tell."""
    if len(sys.argv) != 2:
        sys.exit("python -m tests.bench.gate CLONE, a clone of github.com/thuml/DARE")
    try:
        found = compare(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps(found))
    check(found)


if __name__ == "__main__":
    main()
