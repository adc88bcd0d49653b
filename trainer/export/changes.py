"""What an export changes of the model that was trained: options that its config file had not."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.export.layout import CONFIG_FILE
from trainer.telemetry.flat import flat
from trainer.yaml_file import load, read_text

logger = logging.getLogger(__name__)

_SERVED = ("model.", "data.history_length", "data.ids", "data.interval", "loop.precision")
_TRAINING = (
    *("model.init.", "model.head.auxiliary"),
    *("model.embeddings.representation_lookup", "model.embeddings.attention_lookup"),
    *("model.embeddings.gradients", "model.preset"),
)
"""Which make no difference to what is served; what a preset sets are fields of their own."""


def changed_options(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Fields that make another model of the weights than the one that was trained, and both values.

    The run's config file may be of an earlier version, so it is taken as plain YAML, and of no
    field that it lacks is it known what it was in training.

    Args:
        config: that is exported. Where its run's folder has no config file any more, or none that
            can be read, nothing is known to be changed.
    """
    before = _trained(Path(config.out_dir) / config.name / CONFIG_FILE)
    now = {name: _plain(value) for name, value in flat(dataclasses.asdict(config)).items()}
    found = {
        name: {"trained": before[name], "exported": now[name]}
        for name in sorted(before.keys() & now)
        if name.startswith(_SERVED) and not name.startswith(_TRAINING) and before[name] != now[name]
    }
    for name, values in found.items():
        logger.warning(
            "%s is %s and was %s in training: what is exported is another model with the same "
            "weights, and parity is that of this one",
            name,
            values["exported"],
            values["trained"],
        )
    return found


def _trained(path: Path) -> dict[str, Any]:
    """Values of a config file by dotted name."""
    try:
        if not path.is_file():
            return {}
        values = load(read_text(str(path)))
    except (OSError, ValueError) as error:
        logger.warning("options are not compared with those of training: %s: %s", path, error)
        return {}
    return flat(values) if isinstance(values, dict) else {}


def _plain(value: Any) -> Any:
    """As YAML has it, which knows no tuples."""
    return list(value) if isinstance(value, tuple) else value
