"""A seeded lifelong log with a planted attention structure and a known best AUC.

**Click model.** Each category c has a meaning vector m_c, uniform on the unit sphere, and an
attention vector `a_c = normalise(sqrt(agreement) m_c + sqrt(1 - agreement) n_c)` with n_c
independent of m_c. After behaviours i at positions p_i (newest 1), a target t is clicked with
probability sigmoid(logit), where

    w_i   = softmax_i(sharpness * <a_t, a_i> - recency * log(p_i))    over the whole history
    logit = gain * sum_i w_i <m_t, m_i> + bias

so a behaviour matters by category and by age, and then votes by its meaning. `gain` and `bias` are
set on a pilot of full lives so that the logit has mean 0 and standard deviation `signal`: tasks of
another agreement or length stay about equally hard. They are kept, with all vectors, in
`planted.npz` (see `pipelines.planted`).

**Oracle.** No score ranks better than the true probability, so the AUC of the planted logit on the
very rows of a split is the best a model can expect there. It is `oracle` of `schema.json`: `train`,
`val`, `test`, and with the logloss `train_logloss` and so on; what the newest behaviours alone
allow is `test_newest_200` and so on (see `pipelines.oracle`). The labels are one draw: a model can
end above it by luck, by a standard error or so, and on `train` by memory.

**What it favours.** The planted scores and votes are dot products, so DARE with `width` or more
numbers a category contains the truth at every agreement. One shared table (TWIN) of that width
contains it at agreement 1; a wider one comes close at any, with attention in some large numbers and
meaning in other, small ones. Containing is not finding: a shared table serves both from the first
step on and may settle elsewhere even at agreement 1. So the log shows whether a trainer finds a
structure that is there; that real logs have two structures it does not show. Item ids carry nothing
beyond their category, a target is drawn by popularity without looking at the user, and a clicked
target does not enter the life: all three are simpler than a real log.

**Behaviour.** A user has an endless list of wished categories (popularity: rank^-0.5) and a window
of `interests` of them, which moves on by one every 4 sessions. A session of `session_length`
behaviours on average (geometric) stays with one of the window, except that each behaviour is any
category with probability `stray`. The item is Zipf (rank^-1) in its category. Seconds to the next
behaviour: 2 plus an exponential of mean 60, or of 8 hours between sessions.

**Requests.** A life has `history_length` behaviours, but a share `short_histories` of users has
0, 1, 2, ... 20 in turn. The `requests` train requests and the val request come at sorted uniform
moments of the life's second half, the test request at its end. No request has more than
`history_length` behaviours before it: with the same `data.history_length` a model sees them all.

**Long lives**, whose oldest behaviours decide (`make lifelong`). With `recency` 0 age counts for
nothing. With `sharpness` 20 and `width` 16 a behaviour of the target's own category weighs e^20 and
any other e^8.8 in the mean, since unit vectors of width D have (modified Bessel function I)

    E exp(s cos) = Gamma(D/2) (2/s)^(D/2 - 1) I_(D/2 - 1)(s)

so a single one outweighs 20,000 others about 4 to 1, and the logit mostly says whether the target's
category is anywhere in the life. A wish lasts 4 sessions of 8, so the newest L hold those of about
L/32 + interests - 1 wishes, and `stray` L strays: a category of popularity q is among them with
probability 1 - (1 - q)^(L/32 + interests - 1 + stray L). Over targets, of 1,000 categories, with
3 interests and stray 0.01, that is 0.02 at L = 200, 0.08 at 1,000, 0.27 at 5,000 and 0.62 at 20,000
(0.018, 0.077, 0.27 and 0.61 on a log). What is not seen leaves only popularity to go by, so the
best AUC rises with L to the end of a life; `newest` says how far.

**Defaults** are sized for two CPU cores. At agreement 0, 0.5 and 1 the oracle of test is 0.870,
0.871 and 0.871; the planted logit reaches 0.647, 0.632 and 0.574 without its category term
(sharpness 0), 0.839, 0.841 and 0.853 without recency, so both are needed. With more than 20
behaviours to choose from, the heaviest 20 hold 89 % of the weight, and the votes of those alone
reach 0.868, 0.870 and 0.870.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.oracle import NewestOracle, Tally
from pipelines.planted import (
    START_S,
    Catalogue,
    Planted,
    SyntheticConfig,
    draw_lives,
    draw_vectors,
    life_length,
)
from pipelines.prepare.writer import SPLITS, DatasetWriter, user_table
from pipelines.schema import DatasetSchema, Layout

_log = logging.getLogger(__name__)

_PILOT_USERS = 2_000


@dataclass(frozen=True, kw_only=True)
class _Users:
    """Some users: their full lives, [U, L] oldest first, and their requests, [U, R(, T)]."""

    life: dict[str, np.ndarray]
    end: np.ndarray
    target: dict[str, np.ndarray]


def prepare_synthetic(
    *,
    out: str,
    users: int = 12_000,
    items: int = 1_000,
    categories: int = 60,
    history_length: int = 100,
    requests: int = 8,
    targets: int = 4,
    agreement: float = 0.5,
    sharpness: float = 8.0,
    recency: float = 1.2,
    signal: float = 2.0,
    width: int = 8,
    interests: int = 6,
    session_length: float = 8.0,
    short_histories: float = 0.02,
    stray: float = 0.1,
    newest: str = "",
    layout: Layout = "user",
    seed: int = 1,
) -> DatasetSchema:
    """Make a lifelong log whose attention is planted and whose best possible AUC is known.

    Args:
        out: Folder for `train/ val/ test/ planted.npz schema.json`; without a dataset so far.
        users: Users, each with one life.
        items: Items, shared out evenly over the categories.
        categories: Categories; an item has one.
        history_length: Behaviours of a full life, the most that come before any request.
        requests: Train requests a user; one more is val and one more, the last, is test.
        targets: Targets a request.
        agreement: At 1 what makes a behaviour matter is what it then means, and one shared table
            can hold both; at 0 the two are independent.
        sharpness: How much category similarity matters to the attention, in nats.
        recency: How much age matters to it: a behaviour at position p weighs p^-recency.
        signal: Standard deviation of the click logit; the larger, the higher the best AUC.
        width: Numbers in a planted vector.
        interests: Categories a user is after at a time.
        session_length: Mean behaviours in a session.
        short_histories: Share of users with lives of 0, 1, 2, ... 20 behaviours.
        stray: Share of behaviours of any category instead of one the user is after.
        newest: Numbers of behaviours, such as 200,1000,5000: `schema.json` then tells the best AUC
            on test from so many of the newest.
        layout: One row a user, or one row a request.
        seed: Of every random choice.

    Returns:
        What `schema.json` says, the oracle included.

    Raises:
        ValueError: an option is out of range, or the folder already holds a dataset.
    """
    config = SyntheticConfig(
        users=users,
        items=items,
        categories=categories,
        history_length=history_length,
        requests=requests,
        targets=targets,
        agreement=agreement,
        sharpness=sharpness,
        recency=recency,
        signal=signal,
        width=width,
        interests=interests,
        session_length=session_length,
        short_histories=short_histories,
        stray=stray,
        newest=newest,
        layout=layout,
        seed=seed,
    )
    return _write(out, config)


def _write(out: str, config: SyntheticConfig) -> DatasetSchema:
    rng = np.random.default_rng([config.seed, 0])
    catalogue = Catalogue(config, rng)
    planted = _plant(config, catalogue, rng)
    writer = DatasetWriter(out, layout=config.layout, history_length=config.history_length)
    planted.save(storage.join(out, "planted.npz"))
    tally = Tally(config)
    newest = NewestOracle(planted, config, catalogue)
    for first in range(0, config.users, config.chunk_users):
        user = np.arange(first, min(first + config.chunk_users, config.users))
        length = life_length(user, config)
        # A generator a chunk: with more users the earlier chunks stay as they are.
        rng = np.random.default_rng([config.seed, 1, first])
        chunk = _draw_users(config, catalogue, rng, length)
        logit = planted.logit(_evidence(planted, chunk))
        label = rng.random(logit.shape) < 1.0 / (1.0 + np.exp(-logit))
        for split, slots in zip(SPLITS, _slots(config), strict=True):
            writer.add(split, _rows(user + 1, chunk, label, slots))
            tally.add(split, label[:, slots], logit[:, slots])
        last = chunk.target["category"][:, -1]
        newest.add(label[:, -1], last, chunk.life["category"], chunk.end[:, -1])
        seen = np.arange(config.history_length) < length[:, None]
        tally.mark({name: values[seen] for name, values in chunk.life.items()})
        tally.mark(chunk.target)
        _log.info("synthetic: %d of %d users", user[-1] + 1, config.users)
    return writer.close(
        source="synthetic",
        seed=config.seed,
        protocol=dataclasses.asdict(config),
        distinct=tally.distinct(),
        counts={"users": config.users},
        oracle={**tally.oracle(), **newest.oracle()},
        rows={"item": config.items + 1, "category": config.categories + 1},
    )


def _plant(config: SyntheticConfig, catalogue: Catalogue, rng: np.random.Generator) -> Planted:
    attention, meaning = draw_vectors(
        rng, categories=config.categories, width=config.width, agreement=config.agreement
    )
    position = np.maximum(np.arange(config.history_length + 1), 1)
    planted = Planted(
        attention=attention,
        meaning=meaning,
        recency=-config.recency * np.log(position),
        sharpness=config.sharpness,
    )
    full = np.full(min(_PILOT_USERS, config.chunk_users), config.history_length)
    evidence = _evidence(planted, _draw_users(config, catalogue, rng, full))
    spread = float(evidence.std())
    if spread < 1e-6:
        raise ValueError(
            f"--categories {config.categories} with --width {config.width} leaves all targets "
            "alike; give more of both"
        )
    gain = config.signal / spread
    return dataclasses.replace(planted, gain=gain, bias=-gain * float(evidence.mean()))


def _draw_users(
    config: SyntheticConfig, catalogue: Catalogue, rng: np.random.Generator, length: np.ndarray
) -> _Users:
    life = draw_lives(config, catalogue, rng, len(length))
    moment = rng.uniform(0.5, 1.0, (len(length), config.requests + 1))
    end = np.sort(length[:, None] * moment, axis=1).astype(np.int64)
    end = np.concatenate([end, length[:, None]], axis=1)
    category = catalogue.draw_categories(rng, (*end.shape, config.targets))
    target = {"item": catalogue.draw_items(rng, category), "category": category}
    return _Users(life=life, end=end, target=target)


def _evidence(planted: Planted, users: _Users) -> np.ndarray:
    return planted.evidence(users.target["category"], users.life["category"], users.end)


def _slots(config: SyntheticConfig) -> tuple[slice, slice, slice]:
    train = config.requests
    return slice(0, train), slice(train, train + 1), slice(train + 1, train + 2)


def _rows(user_id: np.ndarray, users: _Users, label: np.ndarray, slots: slice) -> pa.Table:
    end = users.end[:, slots]
    length = end[:, -1]
    lives = users.life["timestamp"]
    seen = np.arange(lives.shape[1]) < length[:, None]
    newest = np.take_along_axis(lives, np.clip(end - 1, 0, None), axis=1)
    target = {name: values[:, slots].ravel() for name, values in users.target.items()}
    return user_table(
        user_id,
        {name: values[seen] for name, values in users.life.items()},
        np.concatenate([[0], np.cumsum(length)]),
        {
            "history_end": end.ravel(),
            "timestamp": np.where(end > 0, newest + 1, START_S).ravel(),
        },
        np.arange(len(end) + 1) * end.shape[1],
        {**target, "label": label[:, slots].ravel().astype(np.float32)},
        np.arange(end.size + 1) * label.shape[2],
    )
