"""Clusters of vectors that are the label, of noise, and of what a head sees."""

import math

import numpy as np
import pytest
import torch

from modules.head import head_input
from tests.commands import TARGETS
from trainer.analysis.discriminability import (
    CONCATENATED,
    HEAD_INPUT,
    PRODUCT,
    DiscriminabilityOptions,
    cluster_scores,
    collect,
)


def test_vectors_that_are_the_label_tell_all_of_it():
    clicked = np.arange(400) % 4 == 0
    vector = np.stack([clicked, clicked], axis=1).astype(np.float32)
    found = cluster_scores(vector, clicked, clusters=[2], seeds=[1, 2])
    assert found["nmi"].tolist() == pytest.approx([1.0])
    assert found["adjusted"].tolist() == pytest.approx([1.0])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found["mutual_information"].tolist() == pytest.approx([entropy])
    assert found["nmi_deviation"].tolist() == [0.0]


def test_four_separate_groups_tell_what_one_works_out_by_hand():
    # Two groups of clicks, one of none, and one half and half.
    group = np.repeat(np.arange(4), 100)
    clicked = (group < 2) | ((group == 3) & (np.arange(400) % 2 == 0))
    vector = 100.0 * np.eye(4, dtype=np.float32)[group]
    found = cluster_scores(vector, clicked, clusters=[4], seeds=[3])
    of_label = -(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8))
    known = of_label - math.log(2) / 4  # Only the last group leaves a doubt, of one bit.
    assert found["mutual_information"].tolist() == pytest.approx([known])
    assert found["nmi"].tolist() == pytest.approx([known / ((of_label + math.log(4)) / 2)])


def test_noise_tells_nothing_once_chance_is_taken_off():
    random = np.random.default_rng(1)
    vector, clicked = random.normal(size=(3000, 8)), random.random(3000) < 0.4
    found = cluster_scores(vector.astype(np.float32), clicked, clusters=[2, 50], seeds=[1, 2, 3])
    assert np.abs(found["adjusted"]).max() < 0.01
    assert found["nmi"][0] < 0.002
    # Many clusters tell something of any labels, which `adjusted` takes off.
    assert found["nmi"][1] > 0.003
    assert (found["nmi_deviation"] > 0).all()


def test_more_clusters_than_targets_are_refused():
    with pytest.raises(ValueError, match="--clusters has 9, there are 5 targets"):
        cluster_scores(np.zeros((5, 2)), np.zeros(5, bool), clusters=[2, 9], seeds=[1])


@pytest.mark.parametrize("preset", ["dare", "twin_no_tr", "twin_kdd23"])
def test_vectors_are_what_the_head_sees(preset, open_fresh):
    opened = open_fresh(f"--model.preset={preset}")
    vectors, clicked_T = collect(opened, DiscriminabilityOptions())
    (requests,) = opened.log("test")
    assert clicked_T.tolist() == (requests.label > 0.5).tolist()
    width = vectors[PRODUCT].shape[1]
    target_TD, history_TD = np.split(vectors[CONCATENATED], [width], axis=1)
    np.testing.assert_allclose(vectors[PRODUCT], target_TD * history_TD)
    parts = torch.from_numpy(target_TD), torch.from_numpy(history_TD)
    expected = head_input(*parts, opened.interaction.head.inputs)
    np.testing.assert_array_equal(vectors[HEAD_INPUT], expected.numpy())
    assert vectors[HEAD_INPUT].shape == (TARGETS["test"], (2 if "no_tr" in preset else 3) * width)
    assert not opened.interaction.head._forward_pre_hooks


def test_of_many_targets_some_are_drawn(open_fresh):
    opened = open_fresh()
    whole, all_T = collect(opened, DiscriminabilityOptions())
    some, some_T = collect(opened, DiscriminabilityOptions(targets=300))
    assert 230 < len(some_T) < 370  # Five standard deviations around 300 of 1200.
    again, _ = collect(opened, DiscriminabilityOptions(targets=300))
    np.testing.assert_array_equal(again[PRODUCT], some[PRODUCT])
    other, _ = collect(opened, DiscriminabilityOptions(targets=300, target_seed=2))
    assert other[PRODUCT].tolist() != some[PRODUCT].tolist()
    rows = {tuple(row) for row in whole[HEAD_INPUT].tolist()}
    assert {tuple(row) for row in some[HEAD_INPUT].tolist()} <= rows
    assert len(all_T) == TARGETS["test"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clusters": (0, 2)}, r"--clusters is \[0, 2\]"),
        ({"cluster_seeds": ()}, r"--cluster_seeds is \[\]"),
        ({"targets": 0}, "--targets is 0; at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        DiscriminabilityOptions(**options)
