"""The planted world of the synthetic log: how users browse and what makes them click.

Letters: C categories + 1 (row 0 is padding), D planted width, U users, L history, R requests,
T targets; `pipelines.synthetic` derives the model.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipelines import storage
from pipelines.schema import LAYOUTS, Layout

_CHUNK_ELEMENTS = 1 << 18
_CATEGORY_EXPONENT = 0.5
_ITEM_EXPONENT = 1.0
_SESSIONS_A_WISH = 4
_LONGEST_SHORT_LIFE = 20
START_S = 1_600_000_000
_BEHAVIOUR_GAP_S = 60.0
_SESSION_GAP_S = 8 * 3600.0
_TIE_DECIMALS = 9

_LIMITS: dict[str, tuple[float, float]] = {
    "users": (1, 1 << 40),
    "items": (1, 1 << 31),
    "categories": (2, 1 << 31),
    "history_length": (1, (1 << 31) - 1),
    "requests": (1, 1 << 20),
    "targets": (1, 1 << 20),
    "agreement": (0, 1),
    # Beyond these, exp() of a score could reach 0 for a whole history.
    "sharpness": (0, 100),
    "recency": (0, 10),
    "signal": (0.01, 20),
    "width": (1, 1 << 16),
    "interests": (1, _CHUNK_ELEMENTS),
    "session_length": (1, 1e9),
    "short_histories": (0, 1),
    "stray": (0, 1),
    "seed": (0, 1 << 62),
}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """The options of `prepare_synthetic`, checked; it says what each means and its default."""

    users: int
    items: int
    categories: int
    history_length: int
    requests: int
    targets: int
    agreement: float
    sharpness: float
    recency: float
    signal: float
    width: int
    interests: int
    session_length: float
    short_histories: float
    stray: float
    newest: str
    layout: Layout
    seed: int

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"--{name} is {value}; it must be from {low} to {high}")
        if self.items < self.categories:
            raise ValueError(
                f"--items is {self.items} but --categories is {self.categories}; "
                "every category needs an item"
            )
        if self.layout not in LAYOUTS:
            raise ValueError(f"--layout is {self.layout}; it must be one of {', '.join(LAYOUTS)}")
        parts = [part.strip() for part in self.newest.split(",")] if self.newest else []
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(
                f"--newest is {self.newest}; give numbers of behaviours, such as 200,1000"
            )

    @property
    def newest_lengths(self) -> list[int]:
        """The numbers of `newest`, increasing."""
        return sorted({int(part) for part in self.newest.split(",") if part})

    @property
    def chunk_users(self) -> int:
        """Users drawn at a time, so that no array of a chunk grows with `users`."""
        widest = max(self.history_length, self.categories, self.interests)
        return max(1, _CHUNK_ELEMENTS // widest)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """The true click model; every array is float64.

    For a target t after behaviours i, newest at position p = 1:
    `w_i = softmax_i(sharpness * <a_t, a_i> + recency[p_i])` over the whole history and
    `logit = gain * sum_i w_i <m_t, m_i> + bias`. With an empty history the sum is 0.
    """

    attention: np.ndarray
    """a by category id, unit rows, [C, D]: which behaviours matter to a target."""
    meaning: np.ndarray
    """m by category id, unit rows, [C, D]: what a behaviour that matters says about a target."""
    recency: np.ndarray
    """Log weight by position, [L + 1], at most 0; entry 0 is not used."""
    sharpness: float
    """Nats of attention between a target's own category and one that is orthogonal to it."""
    gain: float = 1.0
    bias: float = 0.0

    def evidence(self, target: np.ndarray, history: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Compute `sum_i w_i <m_t, m_i>`, [U, R, T], each between -1 and 1.

        Args:
            target: target categories by request, [U, R, T].
            history: category ids, oldest first, [U, L].
            end: behaviours before each request, [U, R]; later columns do not count.
        """
        evidence = np.empty(target.shape)
        for request in range(target.shape[1]):
            mass = self.mass(history, end[:, request])
            for slot in range(target.shape[2]):
                vote, total = self.votes(target[:, request, slot], mass)
                evidence[:, request, slot] = vote / np.where(total > 0, total, 1.0)
        return evidence

    def mass(
        self, history: np.ndarray, end: np.ndarray, first: int = 1, last: int | None = None
    ) -> np.ndarray:
        """Sum what positions from `first` to `last` weigh by recency, category by category.

        A score is a term of the category plus one of the position, so that behaviours of a
        category can be counted together, once for all targets of a request.

        Args:
            history: category ids, oldest first, [U, L].
            end: behaviours before the request, [U].
            first: position of the newest that counts.
            last: of the oldest; None for all.

        Returns:
            Sums, [U, C].
        """
        users, categories = len(history), len(self.attention)
        cell = history + categories * np.arange(users)[:, None]
        position = end[:, None] - np.arange(history.shape[1])
        counts = position >= first if last is None else (position >= first) & (position <= last)
        recent = np.where(counts, np.exp(self.recency[np.maximum(position, 0)]), 0.0)
        mass = np.bincount(cell.ravel(), recent.ravel(), users * categories)
        return mass.reshape(users, -1)

    def votes(self, wanted: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weigh the categories of histories for one target each.

        Args:
            wanted: target categories, [U].
            mass: of `mass`, [U, C].

        Returns:
            `sum_i W_i <m_t, m_i>` and `sum_i W_i` with weights `W_i` before the softmax divides
            them, both [U].
        """
        similar = self.attention[wanted] @ self.attention.T
        # No similarity exceeds 1, so exp() stays in range without a row maximum.
        weight = mass * np.exp(self.sharpness * (similar - 1.0))
        vote = (weight * (self.meaning[wanted] @ self.meaning.T)).sum(axis=1)
        return vote, weight.sum(axis=1)

    def logit(self, evidence: np.ndarray) -> np.ndarray:
        """Log odds of a click, same shape as the evidence; equal cases are exactly equal.

        The order of a sum moves its last bits, which would break ties; nine decimals restore them.
        """
        return np.round(self.gain * evidence + self.bias, _TIE_DECIMALS)

    def save(self, path: str) -> None:
        """Write every field under its own name to an `.npz` file; nothing in it is pickled."""
        with storage.open_file(path, "wb") as stream:
            np.savez(
                stream,
                attention=self.attention,
                meaning=self.meaning,
                recency=self.recency,
                sharpness=np.float64(self.sharpness),
                gain=np.float64(self.gain),
                bias=np.float64(self.bias),
            )


def load_planted(path: str) -> Planted:
    """Read `planted.npz`, which `dare prepare synthetic` leaves beside `schema.json`.

    Raises:
        ValueError: the file is missing, damaged or lacks a field.
    """
    if not storage.exists(path):
        raise ValueError(f"{path} is not there; only a dataset of `dare prepare synthetic` has one")
    with storage.open_file(path, "rb") as stream:
        content = io.BytesIO(stream.read())  # A file would raise OSError for a place before it.
    try:
        with np.load(content, allow_pickle=False) as raw:
            found: dict[str, Any] = {n: raw[n] for n in ("attention", "meaning", "recency")}
            found |= {n: float(raw[n]) for n in ("sharpness", "gain", "bias")}
            return Planted(**found)
    except (LookupError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}; prepare the dataset again") from error


def draw_vectors(
    rng: np.random.Generator, *, categories: int, width: int, agreement: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw attention and meaning vectors, both [categories + 1, width] with unit rows.

    `a = normalise(sqrt(agreement) * m + sqrt(1 - agreement) * n)`, n independent of m.
    """
    shape = (categories + 1, width)
    meaning, other = _unit(rng.normal(size=shape)), _unit(rng.normal(size=shape))
    mixed = np.sqrt(agreement) * meaning + np.sqrt(1.0 - agreement) * other
    return _unit(mixed), meaning


class Catalogue:
    """Which item is in which category, and how popular both are."""

    def __init__(self, config: SyntheticConfig, rng: np.random.Generator) -> None:
        self._categories, self._items = config.categories, config.items
        self._by_category = _cumulative(config.categories, _CATEGORY_EXPONENT)
        self._by_rank = _cumulative(-(-config.items // config.categories), _ITEM_EXPONENT)
        # Shuffled, so that an item's id says nothing about its category or rank.
        self._item_id = 1 + rng.permutation(config.items)

    def draw_categories(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw category ids of a shape by popularity."""
        return 1 + np.searchsorted(self._by_category, rng.random(shape), side="right")

    def draw_items(self, rng: np.random.Generator, category: np.ndarray) -> np.ndarray:
        """Draw an item of each category by popularity, same shape."""
        held = (self._items - category) // self._categories + 1
        point = rng.random(category.shape) * self._by_rank[held - 1]
        rank = np.searchsorted(self._by_rank, point, side="right")
        return np.asarray(self._item_id[category - 1 + self._categories * rank])


def draw_lives(
    config: SyntheticConfig, catalogue: Catalogue, rng: np.random.Generator, users: int
) -> dict[str, np.ndarray]:
    """Draw full lives: `item`, `category` and `timestamp` (s), oldest first, each [users, L]."""
    shape = (users, config.history_length)
    opens = rng.random(shape) < 1.0 / config.session_length
    session = np.cumsum(opens, axis=1, dtype=np.int64)
    sessions = int(session.max()) + 1
    pick = np.arange(sessions) // _SESSIONS_A_WISH
    pick = pick + rng.integers(0, config.interests, (users, sessions))
    wish = catalogue.draw_categories(rng, (users, sessions // _SESSIONS_A_WISH + config.interests))
    category = np.take_along_axis(np.take_along_axis(wish, pick, axis=1), session, axis=1)
    stray = rng.random(shape) < config.stray
    category[stray] = catalogue.draw_categories(rng, (int(stray.sum()),))
    gap_s = rng.exponential(np.where(opens, _SESSION_GAP_S, _BEHAVIOUR_GAP_S)).astype(np.int64)
    return {
        "item": catalogue.draw_items(rng, category),
        "category": category,
        # At least 2 seconds apart leaves one in between for a request.
        "timestamp": START_S + np.cumsum(gap_s + 2, axis=1),
    }


def life_length(user: np.ndarray, config: SyntheticConfig) -> np.ndarray:
    """Behaviours of each user's life; every `1 / short_histories`-th user's is short.

    Args:
        user: user numbers from 0.
        config: the options.
    """
    earlier = np.floor(user * config.short_histories)
    is_short = np.floor((user + 1) * config.short_histories) > earlier
    short = earlier % (min(_LONGEST_SHORT_LIFE, config.history_length) + 1)
    return np.where(is_short, short, config.history_length).astype(np.int64)


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _cumulative(ranks: int, exponent: float) -> np.ndarray:
    share = np.arange(1, ranks + 1) ** -exponent
    # The last entry exceeds every draw from [0, 1), whatever the sum rounds to.
    return np.append(np.cumsum(share[:-1]) / share.sum(), 1.0)
