"""The models by name: what each preset sets, and the equations it stands for."""

from __future__ import annotations

from typing import Any

from modules.ranker import Preset

_TWIN: dict[str, Any] = {
    "embeddings.uses.attention_target": "shared",
    "embeddings.uses.attention_history": "shared",
    "embeddings.uses.representation_target": "shared",
    "embeddings.uses.representation_history": "shared",
}

PRESETS: dict[Preset, dict[str, Any]] = {"dare": {}, "twin": _TWIN}
"""Fields of `model` that differ from their defaults, by dotted name.

`dare` (arXiv:2410.02604): score s_i = <e_i^A, v^A> / sqrt(D), keep the K largest, w = softmax of
the kept, h = sum_i w_i e_i^R, logit = MLP([v^R; h; h * v^R]); A and R are different tables.

`twin` (arXiv:2302.02352, in the single-head form the DARE paper compares with): the same with
A = R, one table for both.
"""


def preset_fields(preset: str) -> dict[str, Any]:
    """Fields a preset sets, by dotted name below `model`.

    Raises:
        ValueError: no preset of that name.
    """
    for name, fields in PRESETS.items():
        if name == preset:
            return fields
    raise ValueError(f"model.preset is {preset!r}; presets are {', '.join(PRESETS)}")
