"""Feeds the dense references with a ranker's parameters: which reference a preset's name stands
for, and how the ranker names what it needs. Nothing else of the ranker's config is read, so a
preset that sets a wrong field differs from its reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from modules.model_config import RankerConfig
from tests import reference_attentions as attentions
from tests import reference_interests as interests
from tests import reference_models as models
from tests import reference_searches as searches
from tests import small
from tests.reference import FEATURES, Form, Result, Row, Seen, Slots, Tables, finish, padded
from tests.reference_attentions import Heads
from tests.reference_models import USES, Layers, Projections
from trainer.task import TrainTask

ATTENTION, REPRESENTATION = "attention_target", "representation_target"
CONTENT = FEATURES[:-1]
PROJECTED = ("item", "category", "position")


class Source:
    """A ranker's parameters in double precision, by every name they go by."""

    def __init__(self, task: TrainTask, config: RankerConfig, size_TL: Tensor | None) -> None:
        self.ranker, self.config, self.size_TL = task.ranker, config, size_TL
        self.leaves = small.parameters_of(task)
        by_parameter = {
            parameter: self.leaves[name] for name, parameter in task.ranker.named_parameters()
        }
        self._names = {
            name: by_parameter[parameter]
            for name, parameter in task.ranker.named_parameters(remove_duplicate=False)
        }

    def __call__(self, name: str) -> Tensor:
        """A parameter or buffer of the interaction."""
        found = self._names.get(f"interaction.{name}")
        return self.ranker.interaction.get_buffer(name).double() if found is None else found

    def tables(self, use: str, features: Sequence[str] = FEATURES) -> Tables:
        """The tables of the space that a use reads."""
        space = self.config.embeddings.space(use)
        found = {
            feature: value
            for feature in CONTENT
            for name, value in self._names.items()
            if name.endswith(f".{space}_{feature}.weight")
        }
        if "position" in features:
            found["position"] = self(f"positions.tables.{space}")
        return found

    def twin(self, features: Sequence[str] = FEATURES) -> models.Spaces:
        """One set of tables."""
        return models.one_space(self.tables(ATTENTION, features))

    def layers(self, name: str) -> Layers:
        """Linear layers and PReLUs of a module, in their order."""
        module = self.ranker.interaction.get_submodule(name)
        named = {f"{name}.{n}".rstrip("."): part for n, part in module.named_modules()}
        linear = [n for n, part in named.items() if isinstance(part, nn.Linear)]
        return Layers(
            [self(f"{n}.weight") for n in linear],
            [self(f"{n}.bias") for n in linear if named[n].bias is not None],
            [self(f"{n}.weight") for n, part in named.items() if isinstance(part, nn.PReLU)],
        )

    def heads(self) -> Heads:
        """Heads of width W: their numbers lie side by side, head by head."""
        query, key = (self(f"attention_scorer.{name}.weight") for name in ("query", "key"))
        value = self("output.value.weight")
        heads = self.config.attention.heads
        return Heads(
            query.view(heads, -1, query.shape[1]),
            key.view(heads, -1, key.shape[1]),
            value.view(heads, -1, value.shape[1]),
            self("output.output.weight"),
            self("attention_scorer.position.weight")[0],
        )


@dataclass(frozen=True)
class Model:
    """A reference's result, and its dense parameters that the penalty covers."""

    seen: Seen
    penalised: Sequence[Tensor] = ()


Reference = Callable[[Source, Slots, Form], Model]


def _plain(spaces: Callable[[Source], models.Spaces]) -> Reference:
    return lambda source, slots, form: Model(models.dot_attention(spaces(source), slots, form))


def _two(source: Source) -> models.Spaces:
    return models.two_spaces(source.tables(ATTENTION), source.tables(REPRESENTATION))


def _three(source: Source) -> models.Spaces:
    return models.three_spaces(*(source.tables(use) for use in USES[:3]))


def _four(source: Source) -> models.Spaces:
    return models.four_spaces(*(source.tables(use) for use in USES))


def _before(*features: str, owners: Sequence[str]) -> Reference:
    def model(source: Source, slots: Slots, form: Form) -> Model:
        made = [
            {name: source.layers(f"uses.{use}.features.{name}") for name in features}
            for use in owners
        ]
        spread = models.four_spaces if len(owners) == 4 else models.two_spaces
        return _projected(source, slots, form, Projections(before=spread(*made)))

    return model


def _after(owners: Sequence[str]) -> Reference:
    def model(source: Source, slots: Slots, form: Form) -> Model:
        made = [source.layers(f"uses.{use}.joined") for use in owners]
        spread = models.four_spaces if len(owners) == 4 else models.two_spaces
        return _projected(source, slots, form, Projections(after=spread(*made)))

    return model


def _projected(source: Source, slots: Slots, form: Form, projections: Projections) -> Model:
    seen = models.dot_attention(source.twin(), slots, form, projections)
    return Model(seen, projections.decayed())


def _din(source: Source, slots: Slots, form: Form) -> Model:
    scorer = source.layers("attention_scorer")
    return Model(searches.din(source.twin(CONTENT), scorer, slots, form), scorer.decayed())


def _hard(source: Source, slots: Slots, form: Form) -> Model:
    twice = source.config.attention.scale == "position_twice"
    search = searches.released_twin_hard if twice else searches.category_search
    return Model(search(source.twin(), slots, form))


def _sim_hard(source: Source, slots: Slots, form: Form) -> Model:
    heads = source.heads()
    return Model(attentions.sim_hard_heads(source.twin(), heads, slots, form), heads.decayed())


def _sim_soft(source: Source, slots: Slots, form: Form) -> Model:
    own = [source(f"search.scorer.{side}.weight") for side in ("target", "history")]
    heads = source.heads()
    seen = attentions.sim_soft_heads(source.twin(), *own, heads, slots, form)
    return Model(seen, [*own, *heads.decayed()])


def _eta(source: Source, slots: Slots, form: Form) -> Model:
    directions = source("search.scorer.hash.directions_DB").T
    return Model(searches.eta(source.twin(), directions, slots, form))


def _sdim(source: Source, slots: Slots, _form: Form) -> Model:
    directions = source("attention_scorer.hash.directions_DB").T
    groups = directions.unflatten(0, (source.config.attention.hash_groups, -1))
    return Model(attentions.sdim(source.twin(), groups, slots))


def _twin_v2(source: Source, slots: Slots, form: Form) -> Model:
    assert source.size_TL is not None
    return Model(attentions.twin_v2(source.twin(), source.size_TL, slots, form))


def _kdd23(source: Source, slots: Slots, form: Form) -> Model:
    heads = source.heads()
    return Model(attentions.twin_kdd23(source.twin(), heads, slots, form), heads.decayed())


def _mirrn(source: Source, slots: Slots, form: Form) -> Model:
    filters = []
    for number in range(3):
        name = f"interests.filters.{number}"
        weight = source(f"{name}.weight_CHWW")
        filters.append(
            interests.Filter(*weight, source(f"{name}.norm.weight"), source(f"{name}.norm.bias"))
        )
    made = interests.Interests(
        directions_BX=source("search.scorer.hash.directions_DB").T,
        recent=source.config.attention.recent,
        filters=filters,
        query=source("interests.query.weight"),
        key=source("interests.key.weight"),
        value=source("interests.value.weight"),
        output=source("interests.output.weight"),
        heads=source.config.attention.heads,
    )
    return Model(interests.mirrn(source.twin(), made, slots, form), made.decayed())


SIDES = (ATTENTION, REPRESENTATION)
REFERENCES: Mapping[str, Reference] = {
    "dare": _plain(_two),
    "dare_no_tr": _plain(_two),
    "twin": _plain(Source.twin),
    "twin_no_tr": _plain(Source.twin),
    "twin_hard": _hard,
    "twin_proj": _before(*PROJECTED, owners=USES),
    "twin_proj_concat": _after(USES),
    "twin_4e": _plain(_four),
    "three_tables": _plain(_three),
    "din": _din,
    "sim_hard": _sim_hard,
    "sim_soft": _sim_soft,
    "eta": _eta,
    "sdim": _sdim,
    "twin_v2": _twin_v2,
    "twin_kdd23": _kdd23,
    "mirrn": _mirrn,
    "item_linear": _before("item", owners=SIDES),
    "category_linear": _before("category", owners=SIDES),
    "position_linear": _before("position", owners=SIDES),
    "category_position_linear": _before("category", "position", owners=SIDES),
    "larger_embedding": _before(*PROJECTED, owners=SIDES),
    "mlp_projection": _before(*PROJECTED, owners=SIDES),
    "two_linear": _after(SIDES),
    "avoid_domination": _plain(Source.twin),
}


def run(
    task: TrainTask, config: RankerConfig, rows: Sequence[Row], form: Form, size_TL: Tensor | None
) -> tuple[Result, dict[str, Tensor]]:
    """The reference of a preset on a ranker's parameters.

    Args:
        task: has the parameters.
        config: of the ranker; its preset says which reference, its widths what fits.
        rows: what is scored.
        form: all but the head's input, which the preset says.
        size_TL: cluster sizes at their medoids, for `twin_v2`.

    Returns:
        The result, and the gradient of each parameter by the ranker's names.
    """
    if config.preset.endswith("_no_tr") or config.preset == "mirrn":
        form = replace(form, head_input=("target", "history"))
    source, slots = Source(task, config, size_TL), padded(rows)
    interaction = task.ranker.interaction
    head = small.tower_of(source.leaves, "head", interaction.head)
    auxiliary = None
    if interaction.auxiliary_head is not None:
        auxiliary = small.tower_of(source.leaves, "auxiliary_head", interaction.auxiliary_head)
    if config.preset == "avoid_domination":
        return _run_balanced(source, head, auxiliary, slots, form)
    model = REFERENCES[config.preset](source, slots, form)
    result = finish(model.seen, head, auxiliary, slots, form, model.penalised)
    result.loss.backward()
    return result, {name: _gradient(leaf) for name, leaf in source.leaves.items()}


def _run_balanced(source, head, auxiliary, slots, form) -> tuple[Result, dict[str, Tensor]]:
    attention = source.tables(ATTENTION)
    copies = {name: table.detach().clone().requires_grad_() for name, table in attention.items()}
    seen = models.dot_attention(models.two_spaces(attention, copies), slots, form)
    result = finish(seen, head, auxiliary, slots, form)
    mended = models.avoid_domination(result.loss, attention, copies)
    result.loss.backward()
    for feature, table in attention.items():
        table.grad = mended[feature]
    return result, {name: _gradient(leaf) for name, leaf in source.leaves.items()}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
