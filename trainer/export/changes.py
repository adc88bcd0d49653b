"""What an export changes of the model that was trained: options that its config file had not."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from trainer.arguments import parse_run, run_parser
from trainer.config import TrainConfig
from trainer.export.layout import CONFIG_FILE
from trainer.telemetry.flat import flat

logger = logging.getLogger(__name__)

_SERVED = ("model.", "data.history_length", "data.ids", "data.interval", "loop.autocast")
_TRAINING = ("model.init.", "model.head.auxiliary")
"""Which make no difference to what is served."""


def changed_options(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Fields that make another model of the weights than the one that was trained, and both values.

    Args:
        config: that is exported. Where its run's folder has no config file any more, nothing is
            known to be changed.
    """
    path = Path(config.out_dir) / config.name / CONFIG_FILE
    if not path.is_file():
        return {}
    trained = parse_run(run_parser("dare export", ""), [f"--config={path}"])[0]
    before, now = (flat(dataclasses.asdict(one)) for one in (trained, config))
    found = {
        name: {"trained": before.get(name), "exported": now.get(name)}
        for name in sorted(before.keys() | now)
        if name.startswith(_SERVED)
        and not name.startswith(_TRAINING)
        and before.get(name) != now.get(name)
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
