"""Variants of presets, and presets of short histories, against their dense references."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.presets import PRESETS
from tests import small
from tests.preset_step import CANCELLED, check_all_trained, compare, make_config

VARIANTS = [
    ("twin", "attention.scale=joint"),
    ("dare", "embeddings.attention={item: 4, category: 8, position: 3}"),
    ("dare", "embeddings.representation_lookup=unpooled"),
    ("dare", "embeddings.attention_lookup=scored"),
    ("three_tables", "embeddings.representation_lookup=unpooled"),
    ("twin_4e", "embeddings.representation_lookup=unpooled"),
    ("twin_hard", "attention.scale=position_twice"),
    ("twin_hard", "search.top_k=4"),
    ("twin_proj", "attention.scale=joint"),
    ("twin_proj_concat", "attention.scale=joint"),
    ("two_linear", "attention.scale=joint"),
    ("larger_embedding", "projection.width=6"),
    ("larger_embedding", "attention.scale=joint"),
    ("mlp_projection", "projection.hidden=[6,5]"),
    ("mlp_projection", "projection.width=3"),
    ("din", "attention.hidden=5"),
    ("sim_hard", "attention.heads=2"),
    ("sim_soft", "search.own_width=3"),
    ("eta", "search.hash_bits=2"),
    ("eta", "search.top_k=4"),
    ("sdim", "attention.hash_bits=1"),
    ("sdim", "attention.hash_groups=3"),
    ("twin_v2", "search.cluster_size=2"),
    ("twin_v2", "search.cluster_size=9"),
    ("twin_kdd23", "attention.heads=1"),
    ("mirrn", "search.top_k=4"),
    ("mirrn", "search.top_k=5"),
    ("mirrn", "attention.recent=2"),
    ("mirrn", "attention.heads=1"),
    ("mirrn", "search.hash_bits=2"),
]


@pytest.mark.parametrize(("preset", "option"), VARIANTS)
def test_a_variant_equals_its_equations(preset: str, option: str, tmp_path: Path) -> None:
    log = small.users()
    config = make_config(preset, f"--model.{option}")
    gradients = compare(config, log, small.read(log, "request", tmp_path))
    check_all_trained(gradients, *([CANCELLED[preset]] if preset in CANCELLED else []))


@pytest.mark.parametrize("lengths", [(0, 0), (1, 20)], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_short_histories_equal_the_equations(
    preset: str, lengths: tuple[int, ...], tmp_path: Path
) -> None:
    log = small.users(lengths)
    gradients = compare(make_config(preset), log, small.read(log, "user", tmp_path))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
