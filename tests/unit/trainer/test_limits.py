"""No field of a run's config takes a number that nothing can calculate with."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from trainer.config import TrainConfig


def numbers(kind: Any = TrainConfig, path: str = "") -> Iterator[tuple[str, type]]:
    """Dotted name and type of each field that holds numbers."""
    for name, of in get_type_hints(kind).items():
        if dataclasses.is_dataclass(of):
            yield from numbers(of, f"{path}{name}.")
        elif of in (int, float, tuple[int, ...], dict[str, int]):
            yield path + name, of


def with_value(config: Any, path: str, value: Any) -> Any:
    """The config with another value of a field."""
    name, _, rest = path.partition(".")
    changed = with_value(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: changed})


def wrong(of: Any) -> list[Any]:
    if of is float:
        return [math.nan, math.inf, 1.1e30, 1e300]
    return [
        number if of is int else {"page": number} if of == dict[str, int] else (number,)
        for number in (2**62 + 1, 2**62 + 4, 10**30)
    ]


@pytest.mark.parametrize(("path", "of"), numbers())
def test_a_number_that_nothing_can_calculate_with_is_refused_by_name(path: str, of: Any) -> None:
    for value in wrong(of):
        # A table is named, where a width of one is wrong.
        name = "page width" if "attention.feat" in path or "representation.feat" in path else path
        with pytest.raises(ValueError, match=name.rpartition(".")[2]) as raised:
            with_value(TrainConfig(), path, value)
        shown = value["page"] if isinstance(value, dict) else value
        assert str(shown) in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("loop.l2", math.nan, r"^loop\.l2 is nan; it must be finite, at most 1e\+30$"),
        ("optim.dense.clip_norm", math.nan, r"^optim\.dense\.clip_norm is nan; "),
        ("watchdog.hang_s", math.inf, r"^watchdog\.hang_s is inf; "),
        ("optim.sparse.learning_rate", 1e300, r"^optim\.sparse\.learning_rate is 1e\+300; "),
        ("loop.steps", 2**62 + 1, r"^loop\.steps is 4611686018427387905; it must be at most 46116"),
        ("data.history_length", 2**31, r"^data\.history_length is 2147483648; at most 2147483647$"),
        ("data.item_rows", 2**40 + 1, r"^data\.item_rows is 1099511627777; at most 1099511627776$"),
        ("data.feature_rows", {"page": 2**41}, r"has page: 2199023255552; give rows from 0 to "),
        ("data.workers", 1025, r"^data\.workers is 1025; at most 1024$"),
        ("model.embeddings.attention.item", 65540, r"^item width is 65540; .* at most 65536$"),
        ("model.embeddings.attention.position", 65540, r"^position width is 65540; .*most 65536$"),
        ("model.head.hidden", (8, 65537), r"^model\.head\.hidden is \(8, 65537\); .*most 65536$"),
        ("model.search.hash_bits", 65537, r"^model\.search\.hash_bits is 65537; .*most 65536$"),
        ("model.search.top_k", 2**31, r"^model\.search\.top_k is 2147483648; .*most 2147483647$"),
        ("model.projection.width", 65537, r"^model\.projection\.width is 65537, .*most 65536$"),
        ("model.attention.hidden", 65537, r"^model\.attention\.hidden is 65537; .*most 65536$"),
    ],
)
def test_what_is_too_much_is_told_with_the_most(path: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        with_value(TrainConfig(), path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 2**62),
        ("data.behaviours_per_batch", 2**62),
        ("data.interval_unit", 2**62),
        ("data.item_rows", 2**40),
        ("data.history_length", 2**31 - 1),
        ("model.embeddings.attention.item", 65536),
        ("loop.l2", 1e30),
    ],
)
def test_what_is_just_within_is_taken(path: str, value: Any) -> None:
    with_value(TrainConfig(), path, value)
