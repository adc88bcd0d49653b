"""A few users written to parquet in both layouts and read back, the same users as rows of
`tests.reference`, and a ranker whose parameters the reference takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from modules.embedding import EmbeddingsConfig, UsesConfig
from modules.head import Head
from modules.model_config import RankerConfig
from modules.ranker import Ranker
from modules.widths import WidthsConfig
from pipelines.batch import Batch
from pipelines.loader import DataConfig, make_dataset
from pipelines.schema import DatasetSchema, Layout, SplitInfo, TableInfo, layout_schema
from tests.reference import Row, Tower
from trainer.task import TrainTask

CPU = torch.device("cpu")
ROWS = {"item": 23, "category": 7}
BUCKETS = 9
SIDE_ROWS = {"interval": BUCKETS + 1, "behaviour_type": 5, "scenario": 4}
"""Of what a model can read besides."""
HISTORY_LENGTH = 9
SHARED = UsesConfig(
    attention_target="shared",
    attention_history="shared",
    representation_target="shared",
    representation_history="shared",
)
DARE = EmbeddingsConfig(
    attention=WidthsConfig(item=8, category=4, position=6),
    representation=WidthsConfig(item=12, category=8, position=5),
)
LOOKUPS = {
    "dare": DARE,
    "dare_unpooled": replace(DARE, representation_lookup="unpooled"),
    "dare_scored": replace(DARE, attention_lookup="scored"),
}
"""The same model, read in every way."""
TWIN = EmbeddingsConfig(
    uses=SHARED,
    attention=WidthsConfig(item=8, category=4, position=5),
    representation=WidthsConfig(item=8, category=4, position=5),
)
DARE_SIDE = replace(
    DARE,
    attention=replace(DARE.attention, interval=4, features={"scenario": 8, "behaviour_type": 4}),
    # Another width than item's and category's, and no scenario here.
    representation=replace(DARE.representation, interval=8, features={"behaviour_type": 16}),
)
_TWIN_WIDTHS = replace(TWIN.attention, interval=4, features={"scenario": 8, "behaviour_type": 4})
SIDE = {
    "dare": DARE_SIDE,
    "dare_unpooled": replace(DARE_SIDE, representation_lookup="unpooled"),
    "dare_scored": replace(DARE_SIDE, attention_lookup="scored"),
    "twin": replace(TWIN, attention=_TWIN_WIDTHS, representation=_TWIN_WIDTHS),
}
"""Models that read the interval, the behaviours' type, and the scenario of behaviour and target."""


@dataclass(frozen=True)
class User:
    """A life, oldest first, and requests: behaviours before them and (item, category, label)."""

    life: list[tuple[int, int]]
    requests: list[tuple[int, list[tuple[int, int, float]]]]

    def seconds(self, number: int) -> int:
        """When a behaviour was, counted from 0."""
        return 100 + 7 * number**2

    def asked(self, end: int) -> int:
        """When the request after so many behaviours was: before the last, at it, or after it."""
        return self.seconds(end - 1) + (-3, 0, 1, 9, 90)[end % 5]

    def behaviour(self, number: int, end: int) -> dict[str, int]:
        """Ids of a behaviour, as a request after `end` of them sees it."""
        (item, category), bucket = self.life[number], 1
        interval = self.asked(end) - self.seconds(number)
        while interval > 0:
            interval, bucket = interval // 2, bucket + 1
        side = {"behaviour_type": 1 + (item + number) % 4, "scenario": 1 + number % 3}
        return {"item": item, "category": category, "interval": min(bucket, BUCKETS), **side}

    def target(self, target: tuple[int, int, float], end: int) -> dict[str, int]:
        """Ids of a target; its behaviour's type is not known."""
        known = {"item": target[0], "category": target[1], "scenario": 1 + end % 3}
        return {**known, "interval": 0, "behaviour_type": 0}


def users(lengths: tuple[int, ...] = (0, 1, 3, 4, 12)) -> list[User]:
    """One life and three requests, of so many behaviours, from each of two users.

    Every request has 1 to 3 targets; lives repeat items, and longer ones than `HISTORY_LENGTH`
    lose their oldest behaviours.
    """
    made = []
    for user in range(2):
        life = [(1 + (7 * j + 5 * user) % 22, 1 + (3 * j + user) % 6) for j in range(max(lengths))]
        requests = [
            (
                length,
                [
                    (1 + (5 * n + 3 * m + user) % 22, 1 + (n + m) % 6, float((n + m) % 2))
                    for m in range(1 + (n + user) % 3)
                ],
            )
            for n, length in enumerate(lengths)
        ]
        made.append(User(life, requests))
    return made


def rows_of(log: list[User], features: tuple[str, ...] = tuple(ROWS)) -> list[Row]:
    """The same as rows of the reference, with the newest `HISTORY_LENGTH` behaviours."""

    def ids(found: dict[str, int]) -> tuple[int, ...]:
        return tuple(found[name] for name in features)

    return [
        Row(
            target=ids(user.target(target, end)),
            history=[ids(user.behaviour(n, end)) for n in range(end)][-HISTORY_LENGTH:],
            label=target[2],
        )
        for user in log
        for end, targets in user.requests
        for target in targets
    ]


def read(
    log: list[User], layout: Layout, folder: Path, features: tuple[str, ...] = tuple(ROWS)
) -> Batch:
    """Write the users to parquet and read them back as one batch."""
    records = _by_user(log) if layout == "user" else _by_request(log)
    path = folder / f"{layout}.parquet"
    columns = layout_schema(layout, ("behaviour_type", "scenario"), ("scenario",))
    pq.write_table(pa.Table.from_pylist(records, schema=columns), path)
    config = DataConfig(
        layout=layout,
        train=str(path),
        history_length=HISTORY_LENGTH,
        shuffle_requests=0,
        interval_buckets=BUCKETS,
    )
    dataset = make_dataset(
        config, "train", schema(layout), seed=1, rank=0, world=1, features=features
    )
    batches = [read.batch for read in dataset]
    assert len(batches) == 1
    return batches[0]


def schema(layout: Layout) -> DatasetSchema:
    """What `schema.json` would say of the users."""
    split = SplitInfo(
        rows=2, requests=10, targets=20, positives=9, history_length={"mean": 4.0}, files=[]
    )
    return DatasetSchema(
        source="test",
        layout=layout,
        seed=1,
        protocol={},
        tables={
            name: TableInfo(rows=rows, distinct=rows - 1)
            for name, rows in (ROWS | SIDE_ROWS).items()
            if name != "interval"
        },
        splits={"train": split},
    )


_ON_DISK = ("item", "category", "behaviour_type", "scenario")


def _by_user(log: list[User]) -> list[dict[str, object]]:
    return [
        {
            "user_id": number,
            **_life(user, len(user.life), prefix=""),
            "requests": [
                {"history_end": end, "timestamp": user.asked(end), **_targets(user, end, targets)}
                for end, targets in user.requests
            ],
        }
        for number, user in enumerate(log)
    ]


def _by_request(log: list[User]) -> list[dict[str, object]]:
    return [
        {
            "user_id": number,
            **_life(user, end, prefix="history_"),
            "timestamp": user.asked(end),
            **_targets(user, end, targets),
        }
        for number, user in enumerate(log)
        for end, targets in user.requests
    ]


def _life(user: User, end: int, *, prefix: str) -> dict[str, list[int]]:
    behaviours = [user.behaviour(n, end) for n in range(end)]
    found = {prefix + name: [ids[name] for ids in behaviours] for name in _ON_DISK}
    return {**found, f"{prefix}timestamp": [user.seconds(n) for n in range(end)]}


def _targets(user: User, end: int, targets: list[tuple[int, int, float]]) -> dict[str, object]:
    known = ("item", "category", "scenario")
    found = {name: [user.target(target, end)[name] for target in targets] for name in known}
    return {**found, "label": [label for *_, label in targets]}


def make_task(
    config: RankerConfig,
    *,
    l2: float = 1e-2,
    autocast: torch.dtype | None = None,
    seed: int = 7,
) -> TrainTask:
    """An unsharded task on the CPU, all parameters drawn wide enough to matter."""
    torch.manual_seed(seed)
    rows = ROWS | SIDE_ROWS
    ranker = Ranker(config, rows=rows, history_length=HISTORY_LENGTH, device=CPU, autocast=autocast)
    widen(ranker)
    return TrainTask(ranker, auxiliary_weight=config.head.auxiliary_weight, l2=l2)


def widen(module: nn.Module) -> None:
    """Draw every parameter from N(0, 0.3^2)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.3)


def parameters_of(task: nn.Module) -> dict[str, Tensor]:
    """Parameters in double precision by the ranker's names, leaves that want a gradient."""
    return {
        name.removeprefix("ranker."): value.detach().double().requires_grad_()
        for name, value in task.named_parameters()
    }


def tables_of(
    parameters: Mapping[str, Tensor], config: EmbeddingsConfig, use: str
) -> dict[str, Tensor]:
    """The tables a space's reader takes, by feature."""
    space = getattr(config.uses, f"{use}_history")
    found = {
        table: value
        for table in ROWS | SIDE_ROWS
        for name, value in parameters.items()
        if name.endswith(f".{space}_{table}.weight")
    }
    return {**found, "position": parameters[f"interaction.positions.tables.{space}"]}


def tower_of(parameters: Mapping[str, Tensor], name: str, head: Head) -> Tower:
    """A head's parameters; `name` is `head` or `auxiliary_head`."""
    prefix = f"interaction.{name}."
    norm = prefix + ("norm.norm." if hasattr(head.norm, "norm") else "norm.")
    linear = [n for n, layer in enumerate(head.layers) if isinstance(layer, nn.Linear)]
    slopes = [n for n, layer in enumerate(head.layers) if isinstance(layer, nn.PReLU)]
    return Tower(
        parameters.get(norm + "weight"),
        parameters.get(norm + "bias"),
        [
            (
                parameters[f"{prefix}layers.{n}.weight"],
                parameters[f"{prefix}layers.{n}.bias"],
            )
            for n in linear
        ],
        [parameters[f"{prefix}layers.{n}.weight"] for n in slopes],
    )


def with_weights(batch: Batch, weight: Tensor) -> Batch:
    """The batch with other weights of its targets."""
    return replace(batch, weight=weight, total_weight=weight.sum())


def click(logits: Tensor) -> Tensor:
    """The click's logit, of the reference's two."""
    return logits[:, 0] - logits[:, 1]


def close(actual: Tensor, expected: Tensor, what: str, *, rounding: float = 5e-6) -> None:
    """Equal to 1e-5 of the largest value, and to what single precision rounds."""
    torch.testing.assert_close(
        actual.detach().double(),
        expected.detach(),
        rtol=1e-5,
        atol=rounding + 1e-5 * expected.detach().abs().max().item(),
        msg=lambda text: f"{what}: {text}",
    )
