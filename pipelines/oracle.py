"""The best AUC that can be expected on a synthetic log, from whole lives or their newest part.

**Whole lives.** No score ranks better than the true probability of a click, so the AUC of the
planted logit on the very rows of a split is the best a model can expect there (`train`, `val`,
`test`).

**The newest L behaviours.** Who sees only those of a life ranks best by the mean of the true
probability over all that may have come before, given what is seen. With `W` and `V` the sums of
attention weights before the softmax divides them and of weights times votes,

    chance_L = mean over pasts of sigmoid(gain * (V_seen + V_past) / (W_seen + W_past) + bias)

Each past is the part older than L of one of 1024 lives that the same world draws beside the log,
with its ages; the AUC of `chance_L` on the rows of test is `test_newest_L`. At L no shorter than a
life nothing is left out and it is the oracle itself. Two things keep it below the best possible by
a little. The pasts are a sample, so a chance is off by a 32nd of the spread that the unseen part
causes. And they are independent of what is seen, while in truth the oldest behaviours seen tell
which categories the window of interests held just before: `4 * interests` sessions of
`session_length` behaviours. What that is worth is at most about what so many behaviours more are.

Letters: C categories + 1 (row 0 is padding), U users, L history, T targets, P pasts.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines.planted import Catalogue, Planted, SyntheticConfig, draw_lives
from pipelines.prepare.writer import SPLITS

_PASTS = 1024


class Tally:
    """What has to be known about all users at the end: oracle inputs and the ids that occurred."""

    def __init__(self, config: SyntheticConfig) -> None:
        self._label: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        self._logit: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        self._seen = {
            "item": np.zeros(config.items + 1, bool),
            "category": np.zeros(config.categories + 1, bool),
        }

    def add(self, split: str, label: np.ndarray, logit: np.ndarray) -> None:
        """Add rows of a split."""
        self._label[split].append(label.ravel())
        self._logit[split].append(logit.ravel())

    def mark(self, table: dict[str, np.ndarray]) -> None:
        """Add ids by feature."""
        for name, seen in self._seen.items():
            seen[table[name]] = True

    def distinct(self) -> dict[str, int]:
        """How many ids occurred, by feature."""
        return {name: int(seen.sum()) for name, seen in self._seen.items()}

    def oracle(self) -> dict[str, float]:
        """AUC and log loss of the planted logit by split, where both are defined."""
        best: dict[str, float] = {}
        for split in SPLITS:
            label, logit = np.concatenate(self._label[split]), np.concatenate(self._logit[split])
            best[split] = auc(label, logit)
            best[f"{split}_logloss"] = logloss(label, logit)
        return {name: value for name, value in best.items() if not math.isnan(value)}


class NewestOracle:
    """The best AUC on test from the newest behaviours alone.

    Args:
        planted: the click model.
        config: of the log; its `newest` says how many are seen.
        catalogue: of the log.
    """

    def __init__(self, planted: Planted, config: SyntheticConfig, catalogue: Catalogue) -> None:
        self._planted, self._lengths = planted, config.newest_lengths
        self._label: list[np.ndarray] = []
        self._chance: dict[int, list[np.ndarray]] = {length: [] for length in self._lengths}
        self._tables: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._past_PL = np.zeros((0, 0), np.int32)
        if self._lengths:
            # A generator of its own: asking for it leaves the log as it is.
            rng = np.random.default_rng([config.seed, 2])
            sizes = [config.chunk_users] * (_PASTS // config.chunk_users)
            sizes += [_PASTS % config.chunk_users] if _PASTS % config.chunk_users else []
            drawn = [draw_lives(config, catalogue, rng, size)["category"] for size in sizes]
            self._past_PL = np.concatenate(drawn).astype(np.int32)

    def add(
        self, label: np.ndarray, target: np.ndarray, history: np.ndarray, end: np.ndarray
    ) -> None:
        """Add the test requests of some users.

        Args:
            label: bool, [U, T].
            target: categories, [U, T].
            history: categories, oldest first, [U, L].
            end: behaviours before the request, [U].
        """
        self._label.append(label.ravel())
        for length, chances in self._chance.items():
            chances.append(self.chance(target, history, end, length).ravel())

    def oracle(self) -> dict[str, float]:
        """AUC of `chance_L` by `test_newest_L`, where it is defined."""
        if not self._lengths:
            return {}
        label = np.concatenate(self._label)
        best = {
            f"test_newest_{length}": auc(label, np.concatenate(chances))
            for length, chances in self._chance.items()
        }
        return {name: value for name, value in best.items() if not math.isnan(value)}

    def chance(
        self, target: np.ndarray, history: np.ndarray, end: np.ndarray, newest: int
    ) -> np.ndarray:
        """Probability of a click given the newest behaviours, [U, T]; arguments as of `add`."""
        mass_UC = self._planted.mass(history, end, last=newest)
        chance = np.empty(target.shape)
        for slot, wanted in enumerate(target.T):
            vote, total = self._planted.votes(wanted, mass_UC)
            for length in np.unique(end):
                (users,) = np.nonzero(end == length)
                past_vote, past_total = self._past(newest, int(length))
                votes = vote[users] + past_vote[:, wanted[users]]
                totals = total[users] + past_total[:, wanted[users]]
                logit = self._planted.logit(votes / np.where(totals > 0, totals, 1.0))
                chance[users, slot] = (1.0 / (1.0 + np.exp(-logit))).mean(axis=0)
        return chance

    def _past(self, newest: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Votes and weights of what is older than the newest in a life of `end`, both [P, C]."""
        if end <= newest:
            nothing = np.zeros((1, len(self._planted.attention)))
            return nothing, nothing
        if (newest, end) not in self._tables:
            planted = self._planted
            # Their newest `end` behaviours: only ages matter, and all parts of a life are alike.
            past_PL = self._past_PL[:, -end:]
            ends = np.full(len(past_PL), end)
            mass_PC = planted.mass(past_PL, ends, first=newest + 1)
            similar = planted.attention @ planted.attention.T
            weight = np.exp(planted.sharpness * (similar - 1.0))
            vote = weight * (planted.meaning @ planted.meaning.T)
            self._tables[newest, end] = mass_PC @ vote.T, mass_PC @ weight.T
        return self._tables[newest, end]


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; a tie counts half. NaN without both classes.

    Args:
        label: bool, [T].
        score: any real numbers, [T].
    """
    _, index, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[index]
    positives = int(label.sum())
    pairs = positives * (label.size - positives)
    if pairs == 0:
        return float("nan")
    return float((rank[label].sum() - positives * (positives + 1) / 2) / pairs)


def logloss(label: np.ndarray, logit: np.ndarray) -> float:
    """Mean negative log likelihood in nats.

    Args:
        label: bool, [T].
        logit: log odds, [T].
    """
    return float((np.logaddexp(0.0, logit) - label * logit).mean())
