import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from trainer.metrics import METRICS, SplitMetrics


def metrics_of(logit, label, weight=None, user=None):
    metrics = SplitMetrics()
    weight = [1.0] * len(logit) if weight is None else weight
    user = [0] * len(logit) if user is None else user
    metrics.update(
        torch.tensor(logit, dtype=torch.float32),
        torch.tensor(label, dtype=torch.float32),
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(user, dtype=torch.int64),
    )
    return metrics


def sigmoid(logit):
    return 1 / (1 + np.exp(-np.asarray(logit, np.float64)))


def reference(logit, label, weight, user):
    """The same numbers from scikit-learn, user by user."""
    keep = weight > 0
    logit, label, weight, user = logit[keep], label[keep], weight[keep], user[keep]
    rate = np.average(label, weights=weight)
    aucs, sizes = [], []
    for one in np.unique(user):
        mine = user == one
        if len(np.unique(label[mine])) == 2:
            aucs.append(roc_auc_score(label[mine], logit[mine], sample_weight=weight[mine]))
            sizes.append(mine.sum())
    loss = log_loss(label, sigmoid(logit), sample_weight=weight, labels=[0, 1])
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    return {
        "auc": roc_auc_score(label, logit, sample_weight=weight),
        "gauc": np.average(aucs, weights=sizes) if aucs else math.nan,
        "gauc_unweighted": np.mean(aucs) if aucs else math.nan,
        "gauc_users": len(aucs),
        "ne": loss / entropy,
        "logloss": loss,
        "accuracy": accuracy_score(label, logit >= 0, sample_weight=weight),
        "calibration": (weight * sigmoid(logit)).sum() / (weight * label).sum(),
        "samples": keep.sum(),
        "positives": label.sum(),
        "base_rate": rate,
    }


# Logits come from a few values, so that ties within and across users and classes are common.
ROWS = st.lists(
    st.tuples(
        st.sampled_from([-3.0, -0.5, -0.0, 0.0, 1e-3, 2.0]),
        st.integers(0, 1),
        st.sampled_from([0.0, 1.0, 2.5]),
        st.integers(-3, 3),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_every_metric_equals_scikit_learn_with_ties_weights_and_padding(rows) -> None:
    rows += [(0.1, 1, 1.0, 9), (0.2, 0, 1.0, 9)]
    logit, label, weight, user = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics_of(logit, label, weight, user).compute()
    expected = reference(np.float32(logit), label, weight, user)
    assert list(found) == list(METRICS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def test_worked_example_by_hand() -> None:
    # User 1: one positive over one negative and tied with another: (1 + 0.5) / 2 = 0.75, 3 rows.
    # User 2: positive below negative: 0, 2 rows. User 3 has one class and is left out.
    found = metrics_of([2, 1, 2, 0, 5, 1], [1, 0, 0, 1, 0, 1], user=[1, 1, 1, 2, 2, 3]).compute()
    assert found["gauc"] == pytest.approx((3 * 0.75 + 2 * 0) / 5)
    assert found["gauc_unweighted"] == pytest.approx(0.375)
    assert found["gauc_users"] == 2
    assert (found["samples"], found["positives"], found["base_rate"]) == (6, 3, 0.5)
    assert found["ne"] == pytest.approx(found["logloss"] / math.log(2))
    # Above 0 or at it a click is foretold: right are the 1st, the 4th and the last.
    assert found["accuracy"] == pytest.approx(3 / 6)


def test_predicting_the_base_rate_has_ne_one_and_calibration_one() -> None:
    found = metrics_of([math.log(0.25 / 0.75)] * 4, [1, 0, 0, 0]).compute()
    assert found["ne"] == pytest.approx(1)
    assert found["calibration"] == pytest.approx(1)
    assert found["auc"] == 0.5


def test_padding_is_never_counted() -> None:
    clean = metrics_of([1, 2, 0], [0, 1, 0]).compute()
    padded = metrics_of([1, 2, 0, math.nan, 9], [0, 1, 0, 0, 1], [1, 1, 1, 0, 0]).compute()
    assert padded == clean


def test_updates_in_parts_give_the_same_as_one_update() -> None:
    whole = metrics_of([1, 2, 0, 3], [0, 1, 1, 0], user=[7, 7, 8, 8])
    parts = metrics_of([1, 2, 0], [0, 1, 1], user=[7, 7, 8])
    parts.update(torch.tensor([3.0]), torch.zeros(1), torch.ones(1), torch.tensor([8]))
    assert parts.compute() == whole.compute()


@pytest.mark.parametrize("label", [[0, 0], [1, 1]])
def test_one_class_makes_ranking_and_ne_undefined_but_not_the_log_loss(label) -> None:
    found = metrics_of([0.0, 0.0], label).compute()
    assert all(math.isnan(found[name]) for name in ("auc", "gauc", "gauc_unweighted", "ne"))
    assert found["logloss"] == pytest.approx(math.log(2))
    assert found["gauc_users"] == 0
    assert math.isnan(found["calibration"]) == (label == [0, 0])


def test_no_rows_give_counts_of_zero_and_nan_elsewhere() -> None:
    metrics = SplitMetrics()
    found = metrics.compute()
    counts = ("samples", "positives", "gauc_users")
    assert all(found[name] == 0 for name in counts)
    assert all(math.isnan(found[name]) for name in METRICS if name not in counts)
    assert metrics.calibration_curve() == {"predicted": [], "observed": [], "count": []}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_makes_metrics_nan_instead_of_wrong(bad) -> None:
    found = metrics_of([bad, 0.0, 1.0], [1, 0, 1]).compute()
    assert math.isnan(found["auc"])
    assert math.isnan(found["logloss"])
    assert found["samples"] == 3


def test_large_logits_neither_overflow_nor_warn() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = metrics_of([-1e4, 1e4], [0, 1]).compute()
    assert found["logloss"] == 0
    assert found["calibration"] == 1


def test_shapes_that_differ_are_refused() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(RuntimeError, match=r"\(1,\), \(2,\)"):
        SplitMetrics().update(two, two, two, one)


def test_calibration_curve_bins_equal_counts_and_weighs_rows() -> None:
    logit = [0.0, -1.0, 1.0, 2.0]
    metrics = metrics_of(logit, [1, 0, 1, 0], weight=[3, 1, 1, 1])
    metrics.compute()
    curve = metrics.calibration_curve(bins=2)
    p = sigmoid(logit)
    assert curve["count"] == [2, 2]
    assert curve["observed"] == pytest.approx([3 / 4, 1 / 2])
    assert curve["predicted"] == pytest.approx([(p[1] + 3 * p[0]) / 4, (p[2] + p[3]) / 2])


def test_calibration_curve_before_compute_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="compute"):
        metrics_of([0.0], [1]).calibration_curve()


def test_ten_thousand_users_match_scikit_learn() -> None:
    random = np.random.default_rng(5)
    user = random.integers(0, 10_000, 50_000)
    logit = random.normal(size=user.size).round(1).astype(np.float32)
    label = (random.random(user.size) < 0.3).astype(np.float64)
    found = metrics_of(logit, label, user=user).compute()
    order = np.lexsort((logit, user))
    # An independent count over all pairs of a user, for the first 300 users.
    few = user < 300
    expected = reference(logit[few], label[few], np.ones(few.sum()), user[few])
    part = metrics_of(logit[few], label[few], user=user[few]).compute()
    assert part["gauc"] == pytest.approx(expected["gauc"], abs=1e-9)
    assert found["auc"] == pytest.approx(roc_auc_score(label[order], logit[order]), abs=1e-9)
