"""FuxiCTR's TWIN, timed: `PYTHON -m tests.bench.peer_fuxictr`, with PYTHON of its environment.

`python -m venv VENV && VENV/bin/pip install fuxictr==2.3.10 keras_preprocessing torch==2.13.0`
makes one. What runs is its own `fit()`, with the model and the loader of its LongCTR zoo, which is
in its wheel. Two things keep the zoo from running as it is shipped, and are worked around: its
loader's `keras_preprocessing` wants `np.unicode_`, which NumPy 2 lacks; and its `run_expid.py`,
which insists on version 2.3.2, is left out, so what it sets up is set up here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.rows import Shape, digest
from tests.bench.turns import Done, Turns, add_turns, paced

VERSION = "2.3.10"
WIDTH = 16
LEARNING_RATE = 1e-3


def load() -> tuple[Any, Any]:
    """Its TWIN and its loader of long sequences.

    Raises:
        ValueError: another version, or none.
    """
    vars(np)["unicode_"] = np.str_
    try:
        found = importlib.metadata.version("fuxictr")
        if found != VERSION:
            raise ValueError(
                f"FuxiCTR is {found}; install it with `pip install fuxictr=={VERSION}`"
            )
        # Not the package: it imports all its models.
        sys.path.insert(0, str(Path(importlib.import_module("model_zoo").__path__[0]) / "LongCTR"))
        model = importlib.import_module("TWIN.TWIN").TWIN
        return model, importlib.import_module("longctr_dataloader").LongCTRDataLoader
    except ImportError as error:
        raise ValueError(
            f"{error}; FuxiCTR runs in an environment of its own: `python -m venv VENV && "
            f"VENV/bin/pip install fuxictr=={VERSION} keras_preprocessing torch==2.13.0`, then run "
            "this with VENV/bin/python"
        ) from error


def feature_map(shape: Shape) -> Any:
    """Item and category, looked up for target and history; what the loader joins by is not."""
    made = importlib.import_module("fuxictr.features").FeatureMap("bench", "")
    looked_up = {"item_id": shape.items, "cate_id": shape.categories}
    for name in ("user_index", "item_index", "seq_len"):
        made.features[name] = {"type": "meta", "source": ""}
    for name, largest in looked_up.items():
        made.features[name] = {
            "type": "categorical",
            "source": "item",
            "vocab_size": largest + 1,
            "embedding_dim": WIDTH,
        }
    made.labels, made.num_fields = ["label"], len(looked_up)
    made.default_emb_dim = WIDTH
    return made


def make_model(twin: Any, features: Any, top_k: int, root: str) -> Any:
    """Its TWIN as near to this project's as its fields go; where it must do more, as little.

    One head as wide as an embedding, hidden layers of 200 and 80, no dropout. Its second attention
    over the newest behaviours cannot be left out, so it has one behaviour.
    """
    return twin(
        features,
        model_id="TWIN",
        model_root=root,
        gpu=-1,
        verbose=0,
        metrics=["logloss", "AUC"],
        optimizer="adam",
        loss="binary_crossentropy",
        learning_rate=LEARNING_RATE,
        embedding_dim=WIDTH,
        dnn_hidden_units=[200, 80],
        dnn_activations="relu",
        attention_dim=2 * WIDTH,
        num_heads=1,
        topk=top_k,
        short_seq_len=2,
    )


class Paced:
    """Batches in the form of its loader: with a length, which says when it evaluates."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def __len__(self) -> int:
        return 1 << 40


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def digest_read(loader: Any) -> str:
    """The digest of what its loader hands out."""

    def parts() -> Iterator[tuple[Any, Any, Any]]:
        for batch, item, mask in loader:
            item_NL, category_NL = (
                item[name].numpy().reshape(len(mask), -1) for name in ("item_id", "cate_id")
            )
            yield item_NL, category_NL, batch["label"].numpy()

    return digest(parts())


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peer_fuxictr", description=__doc__)
    parser.add_argument("--top_k", type=int, required=True)
    add_turns(parser)
    given = parser.parse_args()
    twin, loader_class = load()
    data = Path(given.data)
    shape = Shape.load(data)
    with tempfile.TemporaryDirectory() as work:
        features, files = feature_map(shape), data / "fuxictr"
        loader = loader_class(
            features,
            str(files / "train.parquet"),
            str(files / "user_info.parquet"),
            str(files / "item_info.parquet"),
            batch_size=shape.batch_size,
            shuffle=True,
            num_workers=0,
            max_len=shape.history_length,
        )
        figures = {
            "optimizer": f"torch.optim.Adam over whole tables, rate {LEARNING_RATE}, gradients "
            "clipped by their norm, as its fit()",
            "versions": {"torch": torch.__version__, "peer": VERSION},
            "threads": torch.get_num_threads(),
            "digest": digest_read(loader),
        }
        model = make_model(twin, features, given.top_k, work)
        turns = Turns(given.steps, figures)
        batches = paced(endless(loader), turns, lambda batch: len(batch[2]))
        try:
            model.fit(Paced(batches), epochs=1)
        except Done:
            return


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
