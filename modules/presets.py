"""The models by name: what each preset sets, and the equations it stands for.

Every target t has a score s_i for each behaviour i, keeps the K best, weighs them by
w = softmax(s) and predicts from `MLP([v^R; h; h * v^R])`, h = sum_i w_i e_i^R. Superscripts say
which use reads: attention A, representation R. Unless said otherwise s_i = <e_i^A, v^A> / sqrt(D)
in the two terms of the released code (`attention.scale`), and the auxiliary head sees the softmax
over all.
From arXiv:2410.02604 (the paper, its released code, appendix C for ways that failed):

* `dare`: tables A and R are different.
* `twin`: A = R, one table for all, single-headed and without projections.
* `dare_no_tr`, `twin_no_tr`: the head sees `[v; h]`, no target-aware product.
* `twin_hard`: `twin` that keeps behaviours of the target's category, the newest first.
* `twin_proj`: one table; each use u reads W_u^f e^f, a matrix a feature f in {item, category,
  position} and use. `twin_proj_concat`: each use reads W_u [e^item; e^category; e^position] + b_u.
* `twin_4e`: four tables, one a use. `three_tables`: A of target and of history apart, one R.
* `item_linear`, `category_linear`, `position_linear`, `category_position_linear`: one table; W^f
  for the named features only, one for attention and one for representation.
* `two_linear`: as `twin_proj_concat`, one for attention and one for representation.
* `larger_embedding`: one table of any width; W^f to 16 numbers, one for attention and one for
  representation. `mlp_projection`: likewise, a network with one hidden layer, no other width.
* `avoid_domination`: `twin`, where the gradient of attention in each table is scaled to the norm
  of the representation's.
* `din` (arXiv:1706.06978 with a search, as released): one table without position;
  s_i = MLP([v, e_i, v - e_i, v * e_i]) / D.

From elsewhere, made here with the head and the training above, since nobody has released them:

* `sim_hard` (arXiv:2006.05639): search by category; multi-head attention as in `twin_kdd23`.
* `sim_soft` (same): search by g_i = (W_a v) (W_b e_i), which is trained by an auxiliary head that
  sees sum_i g_i e_i over all behaviours; W_a and W_b start equal. Multi-head attention as in
  `twin_kdd23`.
* `eta` (arXiv:2108.04468): `twin` that searches by Hamming distance of SimHash bits.
* `sdim` (arXiv:2205.10249): no search; h is the mean over groups of hashes of the sum, brought to
  length 1, of behaviours that fall in the target's bucket.
* `twin_v2` (arXiv:2407.16357): `twin` over clusters; s_i + ln(size of i's cluster).
* `twin_kdd23` (arXiv:2302.02352, TWIN as published): head j has
  s_ij = (W_q^j v) (W_h^j e_i) / sqrt(d_j) + b p_i, with the position p for the cross features;
  search by the sum over heads; h = W_o [..; sum_i w_ij W_v^j e_i; ..]. The paper keeps 100.
* `mirrn` (arXiv:2411.15005 and its released code, without dropout): one table; three queries, v,
  the mean of the newest 16 e_i and the mean of all. Each keeps the K behaviours whose SimHash has
  most bits in common with its own, in order of time: X_g. An interest is the mean over time of
  LN(X_g + F^-1(F(X_g) W_g)), F the Fourier transform over time, W_g a complex matrix a head;
  h = multi-head attention of v to the three interests, without biases; the head sees `[v; h]`.
  Positions, added to e_i there, lie beside it here; the code's option of another attention, to the
  newest behaviours alone, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.embedding import USES, UsesConfig
from modules.model_config import Preset, RankerConfig

_SHARED: dict[str, Any] = {f"embeddings.uses.{use}": "shared" for use in USES}
_BASE: dict[str, Any] = {
    **{f"embeddings.uses.{use}": space for use, space in vars(UsesConfig()).items()},
    "embeddings.position_encoding": "rank",
    "embeddings.gradients": "summed",
    "projection.kind": "none",
    "projection.place": "features",
    "projection.features": ["item", "category", "position"],
    "projection.shared_by": "none",
    "projection.width": 0,
    "search.by": "attention",
    "search.cluster_size": 0,
    "attention.scorer": "dot",
    "head.inputs": "target_history_product",
}


def _projected(*features: str, **changes: Any) -> dict[str, Any]:
    """One table with projections, one for attention and one for representation."""
    return {
        **_SHARED,
        "projection.kind": "linear",
        "projection.shared_by": "target_and_history",
        "projection.features": list(features or ("item", "category", "position")),
        **{f"projection.{name}": value for name, value in changes.items()},
    }


_NO_TR = {"head.inputs": "target_history"}
_MULTI_HEAD = {**_SHARED, "attention.scorer": "multi_head"}
_CHANGES: dict[Preset, dict[str, Any]] = {
    "dare": {},
    "twin": _SHARED,
    "dare_no_tr": _NO_TR,
    "twin_no_tr": {**_SHARED, **_NO_TR},
    "twin_hard": {**_SHARED, "search.by": "category"},
    "twin_proj": _projected(shared_by="none"),
    "twin_proj_concat": _projected(shared_by="none", place="joined"),
    "twin_4e": {f"embeddings.uses.{use}": use for use in USES},
    "three_tables": {f"embeddings.uses.{use}": use for use in USES if use.startswith("attention")},
    "din": {**_SHARED, "embeddings.position_encoding": "none", "attention.scorer": "mlp"},
    "sim_hard": {**_MULTI_HEAD, "search.by": "category"},
    "sim_soft": {**_MULTI_HEAD, "search.by": "own"},
    "eta": {**_SHARED, "search.by": "hamming"},
    "sdim": {**_SHARED, "search.by": "none", "attention.scorer": "buckets"},
    "twin_v2": {**_SHARED, "search.cluster_size": 4},
    "twin_kdd23": _MULTI_HEAD,
    "mirrn": {**_SHARED, **_NO_TR, "search.by": "hamming", "attention.scorer": "interests"},
    "item_linear": _projected("item"),
    "category_linear": _projected("category"),
    "position_linear": _projected("position"),
    "category_position_linear": _projected("category", "position"),
    "two_linear": _projected(place="joined"),
    "larger_embedding": _projected(width=16),
    "mlp_projection": _projected(kind="mlp"),
    "avoid_domination": {**_SHARED, "embeddings.gradients": "balanced"},
}

PRESETS: dict[Preset, dict[str, Any]] = {
    name: {**_BASE, **changes} for name, changes in _CHANGES.items()
}
"""Fields of `model` that make a preset, by dotted name; each sets the same ones."""


def preset_fields(preset: str) -> dict[str, Any]:
    """Fields a preset sets, by dotted name below `model`.

    Raises:
        ValueError: no preset of that name.
    """
    for name, fields in PRESETS.items():
        if name == preset:
            return fields
    raise ValueError(f"model.preset is {preset!r}; presets are {', '.join(PRESETS)}")


def check_preset(model: RankerConfig) -> None:
    """Refuse a model under the name of another, which would be recorded so.

    Variants of a preset, which are no other preset, keep its name.

    Args:
        model: its config; what its spaces are called does not matter.

    Raises:
        ValueError: all that makes a preset is as in another one.
    """
    mine = {name: _field(model, name) for name in _BASE}
    for other, theirs in PRESETS.items():
        if other != model.preset and _normal(mine) == _normal(theirs):
            own = _normal(PRESETS[model.preset])
            differing = [name for name, value in _normal(mine).items() if own[name] != value]
            uses = [name for name in differing if name.startswith("embeddings.uses.")]
            told = [*(["embeddings.uses"] if uses else []), *(set(differing).difference(uses))]
            one = len(told) == 1 and not uses
            raise ValueError(
                f"model.preset is {model.preset}, but "
                f"{', '.join(f'model.{name}' for name in sorted(told))} "
                f"{'is that' if one else 'are those'} of {other}; set model.preset to {other}, or "
                f"leave {'it' if one else 'them'} out"
            )


def _field(model: RankerConfig, name: str) -> Any:
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def _normal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, each space named by the first use that reads it."""
    spaces = [fields[f"embeddings.uses.{use}"] for use in USES]
    sharing = {
        f"embeddings.uses.{use}": USES[spaces.index(space)]
        for use, space in zip(USES, spaces, strict=True)
    }
    return {**fields, **sharing}
