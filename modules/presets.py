"""The models by name: what each preset sets, and the equations it stands for."""

from __future__ import annotations

import dataclasses

from modules.embedding import UsesConfig
from modules.ranker import Preset

_USES: dict[Preset, UsesConfig] = {
    "dare": UsesConfig(),
    "twin": UsesConfig(
        attention_target="shared",
        attention_history="shared",
        representation_target="shared",
        representation_history="shared",
    ),
}

PRESETS: dict[Preset, dict[str, str]] = {
    name: {f"embeddings.uses.{use}": space for use, space in dataclasses.asdict(uses).items()}
    for name, uses in _USES.items()
}
"""Fields of `model` that make a preset, by dotted name; each sets the same ones.

`dare` (arXiv:2410.02604): score s_i = <e_i^A, v^A> / sqrt(D), keep the K largest, w = softmax of
the kept, h = sum_i w_i e_i^R, logit = MLP([v^R; h; h * v^R]); A and R are different tables.

`twin` (arXiv:2302.02352, in the single-head form the DARE paper compares with): the same with
A = R, one table for both.
"""


def preset_fields(preset: str) -> dict[str, str]:
    """Fields a preset sets, by dotted name below `model`.

    Raises:
        ValueError: no preset of that name.
    """
    for name, fields in PRESETS.items():
        if name == preset:
            return fields
    raise ValueError(f"model.preset is {preset!r}; presets are {', '.join(PRESETS)}")


def check_preset(preset: Preset, uses: UsesConfig) -> None:
    """Refuse a model under the name of another, which would be recorded so.

    Variants of a preset, which are no other preset, keep its name.

    Args:
        preset: the name.
        uses: which space each use reads; what spaces are called does not matter.

    Raises:
        ValueError: the uses are those of another preset.
    """
    for other, theirs in _USES.items():
        if other != preset and _sharing(uses) == _sharing(theirs):
            raise ValueError(
                f"model.preset is {preset}, but model.embeddings.uses are those of {other}; "
                f"set model.preset to {other}, or leave model.embeddings.uses out"
            )


def _sharing(uses: UsesConfig) -> list[int]:
    """For each use, the first that reads the same space."""
    spaces = list(dataclasses.asdict(uses).values())
    return [spaces.index(space) for space in spaces]
