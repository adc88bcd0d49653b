"""The gradient of shared tables, split into attention's part and the representation's.

Letters: N behaviours or targets of a batch, C rows of a table, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from modules.embedding import USES, EmbeddingsConfig, Use
from modules.feature_rows import FeatureRows
from modules.projection import UseProjection

Table = Literal["category", "position"]
_ROLES = ("attention", "representation")


class RoleGradients(NamedTuple):
    """The two parts of a table's gradient, float64 on the CPU; together they are all of it.

    Attention's is what reaches the table: under `model.embeddings.gradients` balanced it is scaled.
    """

    attention_CD: Tensor
    representation_CD: Tensor


def shared_spaces(config: EmbeddingsConfig) -> list[str]:
    """Spaces that both attention and the representation read, in the order of the uses."""
    roles: dict[str, set[str]] = {}
    for use in USES:
        roles.setdefault(config.space(use), set()).add(use.partition("_")[0])
    return [space for space, of_space in roles.items() if len(of_space) == len(_ROLES)]


class GradientWatch:
    """Sees the gradient of each use of a shared space while a step goes backward.

    Args:
        config: which use reads which space.
        rows: of the category tables.
    """

    def __init__(self, config: EmbeddingsConfig, rows: int) -> None:
        self._config, self._spaces = config, shared_spaces(config)
        self._category_rows = rows
        self._position_shapes: dict[str, torch.Size] = {}
        self._seen: dict[tuple[Table, Use], Tensor] = {}

    @contextmanager
    def watching(self, uses: nn.ModuleDict) -> Iterator[None]:
        """Watch a model.

        Args:
            uses: its `UseProjection`s, by use.
        """
        handles, shadowed = [], []
        for use in USES:
            if self._config.space(use) in self._spaces:
                projection = cast(UseProjection, uses[use])
                handles.append(projection.register_forward_pre_hook(self._before(use)))
                # On this object alone, in place of its class's, since positions come through a
                # method that no hook sees.
                vars(projection)["position"] = self._position_of(use, projection.position)
                shadowed.append(projection)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for projection in shadowed:
                del vars(projection)["position"]

    def take(self, features: KeyedJaggedTensor) -> dict[tuple[str, Table], RoleGradients]:
        """Gradients by space and table of the step that has just gone backward.

        Args:
            features: its ids.
        """
        found: dict[tuple[str, Table], RoleGradients] = {}
        for space in self._spaces:
            of_category = [self._categories(space, role, features) for role in _ROLES]
            found[space, "category"] = self._reaching(*of_category)
            shape = self._position_shapes.get(space, torch.Size((0, 0)))
            if shape[1]:
                of_position = [self._positions(space, role, shape) for role in _ROLES]
                found[space, "position"] = self._reaching(*of_position)
        self._seen.clear()
        return found

    def _reaching(self, attention_CD: Tensor, representation_CD: Tensor) -> RoleGradients:
        """The parts as the table gets them; uses are watched before `modules.balance` scales."""
        norm = attention_CD.norm()
        if self._config.gradients == "balanced" and norm > 0:
            attention_CD = attention_CD * (representation_CD.norm() / norm)
        return RoleGradients(attention_CD, representation_CD)

    def _categories(self, space: str, role: str, features: KeyedJaggedTensor) -> Tensor:
        """Gradients of equal ids added up."""
        widths = self._config.table_widths(space)
        names = list(widths)
        first = sum(widths[name] for name in names[: names.index("category")])
        columns = slice(first, first + widths["category"])
        total_CD = torch.zeros(self._category_rows, widths["category"], dtype=torch.float64)
        for use, grad_ND in self._of("category", space, role):
            id_N = features[f"{use.rpartition('_')[2]}_category"].values().cpu()
            total_CD.index_add_(0, id_N, grad_ND[:, columns])
        return total_CD

    def _positions(self, space: str, role: str, shape: torch.Size) -> Tensor:
        total_CD = torch.zeros(shape, dtype=torch.float64)
        for _, grad_CD in self._of("position", space, role):
            total_CD += grad_CD
        return total_CD

    def _of(self, table: Table, space: str, role: str) -> Iterator[tuple[Use, Tensor]]:
        for (of_table, use), grad in self._seen.items():
            if of_table == table and use.startswith(role) and self._config.space(use) == space:
                yield use, grad

    def _position_of(
        self, use: Use, project: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        def position(table_LP: Tensor) -> Tensor:
            self._position_shapes[self._config.space(use)] = table_LP.shape
            return project(self._watched("position", use, table_LP))

        return position

    def _before(self, use: Use) -> Callable[[nn.Module, tuple[FeatureRows]], tuple[FeatureRows]]:
        def give_its_own(_module: nn.Module, given: tuple[FeatureRows]) -> tuple[FeatureRows]:
            return (FeatureRows(self._watched("category", use, given[0].joined)),)

        return give_its_own

    def _watched(self, table: Table, use: Use, value: Tensor) -> Tensor:
        """The same values as a tensor of this use alone; uses of one space share theirs."""
        if not (value.requires_grad and torch.is_grad_enabled()):
            return value
        mine = value.view_as(value)

        def remember(grad: Tensor) -> None:
            self._seen[table, use] = grad.detach().double().cpu()

        mine.register_hook(remember)  # type: ignore[no-untyped-call]
        return mine
