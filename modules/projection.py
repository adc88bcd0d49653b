"""Projections between the tables and their four uses: how the paper tried to part one table.

Letters: N behaviours or targets of a batch, L positions, D width of item, category and
position together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from modules.embedding import USES, EmbeddingsConfig, Use
from modules.feature_rows import FeatureRows
from modules.widths import MOST_WIDTH

Feature = Literal["item", "category", "position"]


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """What is between a table and its use."""

    kind: Literal["none", "linear", "mlp"] = "none"
    """`none`: a use reads the table's rows. `linear`: a matrix first. `mlp`: a small network."""
    place: Literal["features", "joined"] = "features"
    """`features`: each feature has its own, without bias where linear. `joined`: one over item,
    category and position side by side, with bias."""
    features: tuple[Feature, ...] = ("item", "category", "position")
    """Which features are projected; the others are read as they are. `joined` needs all three."""
    shared_by: Literal["none", "target_and_history"] = "none"
    """`none`: each of the four uses has its own. `target_and_history`: attention has one,
    representation another."""
    width: int = 0
    """Width of each projected feature; 0 for the table's own."""
    hidden: tuple[int, ...] = (32,)
    """Widths of an mlp's hidden layers."""

    def __post_init__(self) -> None:
        name = "model.projection"
        widths = (self.width or 1, *self.hidden)
        if not all(1 <= width <= MOST_WIDTH for width in widths):
            raise ValueError(
                f"{name}.width is {self.width}, hidden {self.hidden}; width must be 0 or more, "
                f"hidden widths at least 1, all at most {MOST_WIDTH}"
            )
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(
                f"{name}.features is {list(self.features)}; name at least one, each once"
            )
        whole = self.kind == "linear" and not self.width and len(self.features) == 3
        if self.of_joined and not whole:
            raise ValueError(
                f"{name}.place is joined with kind {self.kind}, width {self.width} and "
                f"features {list(self.features)}; a joined projection is linear, keeps the "
                "width and takes item, category and position: set place to features"
            )

    @property
    def of_features(self) -> bool:
        """Features are projected one by one."""
        return self.kind != "none" and self.place == "features"

    @property
    def of_joined(self) -> bool:
        """All features are projected together."""
        return self.kind != "none" and self.place == "joined"

    def projected(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Widths by feature behind the projection."""
        if not (self.of_features and self.width):
            return dict(widths)
        return {
            name: self.width if name in self.features and width else width
            for name, width in widths.items()
        }


class UseProjection(nn.Module):
    """What one use reads. Called with rows of item, category and what else is looked up.

    Args:
        features: a projection by feature, none for those that are read as they are.
        widths: of the tables, by feature, in the order of the rows.
        joined: a projection of all features together, with bias.
    """

    def __init__(
        self, features: Mapping[str, nn.Module], widths: Mapping[str, int], joined: nn.Linear | None
    ) -> None:
        super().__init__()
        self.features = nn.ModuleDict(dict(features))
        self.joined = joined
        self._widths = [width for name, width in widths.items() if name != "position"]
        self._names = [name for name in widths if name != "position"]

    def forward(self, rows: FeatureRows) -> FeatureRows:
        """Rows of behaviours or targets as the use sees them, feature by feature."""
        if not any(name in self.features for name in self._names):
            return rows
        parts = rows.by_width(self._widths)
        return FeatureRows(
            *(
                self.features[name](part) if name in self.features else part
                for name, part in zip(self._names, parts, strict=True)
            )
        )

    def position(self, table_LP: Tensor) -> Tensor:
        """Rows of the position table as the use sees them."""
        if "position" not in self.features:
            return table_LP
        projected: Tensor = self.features["position"](table_LP)
        return projected

    def join(self, value: Tensor, weight: Tensor | None = None) -> Tensor:
        """Item, category and position side by side as the use sees them.

        Args:
            value: rows, or weighted sums of rows, width last.
            weight: the sum of each sum's weights, which the bias is taken times; None for rows.

        Returns:
            The same shape.
        """
        if self.joined is None:
            return value
        if weight is None:
            return F.linear(value, self.joined.weight, self.joined.bias)
        return F.linear(value, self.joined.weight) + weight.unsqueeze(-1) * self.joined.bias


def make_uses(config: ProjectionConfig, embeddings: EmbeddingsConfig) -> nn.ModuleDict:
    """The projections of all four uses, by use; uses that share one hold the same modules."""
    made: dict[str, tuple[dict[str, nn.Module], nn.Linear | None]] = {}
    uses = nn.ModuleDict()
    for use in USES:
        owner = use if config.shared_by == "none" else use.partition("_")[0]
        widths = feature_widths(embeddings, use)
        if owner not in made:
            made[owner] = _make(config, widths)
        features, joined = made[owner]
        uses[use] = UseProjection(features, widths, joined)
    return uses


def feature_widths(embeddings: EmbeddingsConfig, use: Use) -> dict[str, int]:
    """Widths of the tables a use reads, by feature; the position comes last."""
    space = embeddings.space(use)
    return {**embeddings.table_widths(space), "position": embeddings.spaces()[space].position}


def _make(
    config: ProjectionConfig, widths: Mapping[str, int]
) -> tuple[dict[str, nn.Module], nn.Linear | None]:
    if config.of_joined:
        width = sum(widths.values())
        return {}, nn.Linear(width, width)
    if not config.of_features:
        return {}, None
    make: dict[str, Callable[[int, int], nn.Module]] = {
        "linear": lambda before, after: nn.Linear(before, after, bias=False),
        "mlp": lambda before, after: _network((before, *config.hidden, after)),
    }
    after = config.projected(widths)
    return {
        name: make[config.kind](width, after[name])
        for name, width in widths.items()
        if name in config.features and width
    }, None


def _network(widths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.PReLU(init=0.1)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
