"""Every preset of the ranker against its dense reference: logits, losses, attention and the
gradient of every parameter, tables included.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.presets import PRESETS
from pipelines.schema import Layout
from tests import small
from tests.preset_step import CANCELLED, check_all_trained, compare, make_config
from tests.reference_presets import REFERENCES


def cancelled(preset: str) -> list[str]:
    return [CANCELLED[preset]] if preset in CANCELLED else []


def test_there_is_a_reference_for_every_preset() -> None:
    assert REFERENCES.keys() == PRESETS.keys()


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_equals_its_equations(preset: str, layout: Layout, tmp_path: Path) -> None:
    log = small.users()
    gradients = compare(make_config(preset), log, small.read(log, layout, tmp_path))
    check_all_trained(gradients, *cancelled(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_with_interval_behaviour_type_and_scenario_a_preset_equals_its_equations(
    preset: str, tmp_path: Path
) -> None:
    """Projections of features, which name item, category and position, leave the others alone."""
    log = small.users()
    side = "interval: 4, features: {scenario: 4, behaviour_type: 4}"
    widths = f"{{item: 8, category: 4, position: 4, {side}}}"
    sections = ("attention", "representation")
    config = make_config(preset, *(f"--model.embeddings.{name}={widths}" for name in sections))
    batch = small.read(log, "user", tmp_path, config.embeddings.features)
    # The target's interval and type are as constant as its position.
    check_all_trained(compare(config, log, batch, rounding=5e-6), *cancelled(preset))


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "sim_soft"])
def test_without_an_auxiliary_head_a_preset_equals_its_equations(
    preset: str, tmp_path: Path
) -> None:
    log = small.users()
    config = make_config(preset, "--model.head.auxiliary_weight=0")
    gradients = compare(config, log, small.read(log, "user", tmp_path))
    check_all_trained(gradients, *cancelled(preset))
