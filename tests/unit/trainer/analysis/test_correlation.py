"""Correlations of maps against SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from trainer.analysis.correlation import correlations


def test_correlations_by_hand():
    found = correlations(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]]))
    # Covariance 1, variances 2 and 2.
    assert found["pearson"] == pytest.approx(0.5)
    assert found["spearman"] == pytest.approx(0.5)
    powers = correlations(np.array([[1.0, 10.0, 100.0]]), np.array([[1.0, 2.0, 3.0]]))
    assert powers["spearman"] == pytest.approx(1.0)
    assert powers["pearson"] < 0.95


def test_maps_correlate_as_in_scipy_over_the_cells_that_both_have():
    random = np.random.default_rng(2)
    one, other = random.integers(0, 5, (3, 4, 6)).astype(float), random.normal(size=(3, 4, 6))
    one[0, 1, 2] = other[2, 0, 0] = np.nan
    found = correlations(one, other)
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        both = np.isfinite(left) & np.isfinite(right)
        pearson = pearsonr(left[both], right[both]).statistic
        spearman = spearmanr(left[both], right[both]).statistic
        assert found["pearson_by_map"][number] == pytest.approx(pearson)
        assert found["spearman_by_map"][number] == pytest.approx(spearman)
    assert found["pearson"] == pytest.approx(np.mean(found["pearson_by_map"]))
    assert found["spearman"] == pytest.approx(np.mean(found["spearman_by_map"]))


def test_a_flat_map_correlates_with_nothing_and_leaves_the_mean_alone():
    flat, rising = np.ones(3), np.arange(3.0)
    found = correlations(np.stack([flat, rising]), np.stack([rising, rising]))
    assert math.isnan(found["pearson_by_map"][0])
    assert found["pearson"] == found["spearman"] == pytest.approx(1.0)
    assert math.isnan(correlations(flat[None], rising[None])["spearman"])
