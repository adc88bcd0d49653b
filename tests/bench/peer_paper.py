"""The training of the paper's released code, timed in turns, as `tests.bench.race` starts it.

What runs is its own `train()`, from a clone of github.com/thuml/DARE, with its loader, its model,
its Adam over whole tables and the arguments of its script for Taobao. Nothing of it is changed: the
data set that it is given hands its loader's batches on and looks at the clock in between.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.rows import Shape, digest
from tests.bench.turns import Done, Turns, add_turns, paced

WIDTH = 16
LEARNING_RATE, L2 = 0.01, 1e-6


def load(clone: str) -> Any:
    """Its training module.

    Raises:
        ValueError: there is no clone.
    """
    if not (Path(clone) / "train_pytorch.py").is_file():
        raise ValueError(
            f"{clone or 'the empty path'} is no clone of the paper's code; make one with "
            "`git clone https://github.com/thuml/DARE` and give its folder"
        )
    sys.path.insert(0, clone)
    if not (Path(clone) / "tools").is_dir():  # Its training imports a logger that it lacks.
        tools, logger = types.ModuleType("tools"), types.ModuleType("tools.logger")
        logger.CompleteLogger = object  # type: ignore[attr-defined]
        sys.modules.update({"tools": tools, "tools.logger": logger})
    return importlib.import_module("train_pytorch")


def script_arguments(peer: Any, shape: Shape, top_k: int, log: str) -> Any:
    """What its `scripts/taobao.sh` gives for DARE, for data of another shape.

    Args:
        peer: its training module.
        shape: of the rows.
        top_k: behaviours kept.
        log: a folder for what it writes.
    """
    given = {
        "max_length": shape.history_length,
        "item_n": shape.items + 1,
        "cate_n": shape.categories + 1,
        "long_seq_split": f"0:{shape.history_length}",
        "short_model_type": "DIN",
        "long_model_type": "DIN",
        "use_cross_feature": True,
        "attn_func": "scaled_dot_product",
        "hard_or_soft": "soft",
        "top_k": top_k,
        "use_aux_loss": True,
        "use_time_mode": "concat",
        "time_embedding_dim": WIDTH,
        "category_embedding_dim": WIDTH,
        "batch_size": shape.batch_size,
        "learning_rate": LEARNING_RATE,
        "weight_decay": L2,
        "epoch": 1,
        "test_interval": 1 << 40,
        "log_interval": 50,
        "log_dir": log,
        "model_name": "DARE",
    }
    argv = sys.argv
    try:
        sys.argv = [""]
        for name, value in given.items():
            sys.argv += [f"-{name}", str(value)]
        return peer.get_args()
    finally:
        sys.argv = argv


class Handed:
    """Batches in the form of its data set."""

    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._batches

    def reset(self) -> None:
        """Begun anew by nobody: there is one endless epoch."""


def train(peer: Any, arguments: Any, batches: Iterator[dict[str, Any]]) -> None:
    """Its own training, until there are no batches."""
    try:
        peer.train(
            train_dataset=Handed(batches),
            val_dataset=None,
            test_dataset=None,
            args=arguments,
            embedding_dim=arguments.category_embedding_dim,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            seed=1,
        )
    except Done:
        return


def endless(dataset: Any) -> Iterator[dict[str, Any]]:
    """Epoch after epoch of its loader."""
    while True:
        dataset.reset()
        yield from dataset


def digest_read(dataset: Any) -> str:
    """The digest of what its loader hands out."""
    found = (
        (
            np.concatenate([batch["hist_iid"], batch["iid"][:, None]], axis=1),
            np.concatenate([batch["hist_cid"], batch["cid"][:, None]], axis=1),
            batch["target"][:, 0],
        )
        for batch in dataset
    )
    return digest(found)


def revision(clone: str) -> str | None:
    """The clone's commit, where it is one."""
    if not (Path(clone) / ".git").exists():
        return None
    command = ["git", "-C", clone, "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peer_paper", description=__doc__)
    parser.add_argument("clone", help="folder of a clone of github.com/thuml/DARE")
    parser.add_argument("--top_k", type=int, required=True)
    add_turns(parser)
    given = parser.parse_args()
    peer, data = load(given.clone), Path(given.data)
    shape, pattern = Shape.load(data), str(data / "paper" / "train_{}_{}.npy")
    with tempfile.TemporaryDirectory() as log:
        dataset = peer.SeqRecDataset(pattern, shape.batch_size, max_length=shape.history_length)
        figures = {
            "optimizer": f"torch.optim.Adam over whole tables, rate {LEARNING_RATE}, as its script",
            "versions": {"torch": torch.__version__, "peer": revision(given.clone)},
            "threads": torch.get_num_threads(),
            "digest": digest_read(dataset),
        }
        arguments = script_arguments(peer, shape, given.top_k, log)
        turns = Turns(given.steps, figures)
        train(peer, arguments, paced(endless(dataset), turns, lambda batch: len(batch["uid"])))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
