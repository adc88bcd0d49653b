"""The tables of a model: spaces, the four uses that read them, and the lookups.

A *space* is a set of tables: one for each feature that is looked up (item, category, and what else
a model reads), and one of positions. A *use* is one reading of an embedding: attention or
representation, of the target or of the history. Which use reads which space is the whole difference
between TWIN (one space), DARE (two) and TWIN-4E (four).
Letters: R requests, N behaviours or targets of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchrec import (
    DataType,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    JaggedTensor,
    KeyedJaggedTensor,
)

from modules.feature_rows import FeatureRows
from modules.pooled import PooledEmbeddings, Rows, Searched, Side
from modules.widths import FIRST, WidthsConfig

Use = Literal[
    "attention_target", "attention_history", "representation_target", "representation_history"
]
USES: tuple[Use, ...] = get_args(Use)
Lookups = dict[str, dict[str, JaggedTensor] | Rows | Searched]
"""By collection: by feature one row a behaviour or a target; or rows that stay on their shards."""


@dataclass(frozen=True, kw_only=True)
class UsesConfig:
    """Which space each use reads; equal names share their tables."""

    attention_target: str = "attention"
    """Space of the target where it is searched for and attended with."""
    attention_history: str = "attention"
    """Space of the behaviours where they are scored."""
    representation_target: str = "representation"
    """Space of the target where the head sees it."""
    representation_history: str = "representation"
    """Space of the behaviours where they are summed."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingsConfig:
    """Tables of a model."""

    uses: UsesConfig = field(default_factory=UsesConfig)
    """Which use reads which space."""
    attention: WidthsConfig = field(default_factory=WidthsConfig)
    """Widths of the spaces that attention reads."""
    representation: WidthsConfig = field(default_factory=WidthsConfig)
    """Widths of the spaces that the head reads."""
    representation_lookup: Literal["pooled", "unpooled"] = "pooled"
    """`pooled`: each shard sums the behaviours it holds, and one vector a target crosses the
    network. `unpooled`: every behaviour's own vector does. A space that attention reads too, as in
    TWIN, is always read unpooled."""
    attention_lookup: Literal["unpooled", "scored"] = "unpooled"
    """`unpooled`: every behaviour's own vector crosses the network, once a request. `scored`: the
    target's vector goes to the shards and a number a behaviour and target comes back, which is
    less where a request has fewer targets than a feature has numbers, over slow networks or long
    histories. A space that the head reads too is always read unpooled."""
    position_encoding: Literal["rank", "none"] = "rank"
    """`rank`: the target has position 0, the newest behaviour 1, the next 2. `none`: no position
    tables, whatever their widths."""
    gradients: Literal["summed", "balanced"] = "summed"
    """How the gradients of attention and representation meet in tables that they share.
    `balanced` first scales attention's, table by table, to the norm of the representation's."""

    def __post_init__(self) -> None:
        spaces = self.spaces()
        tables = [f"{name}_{table}" for name in spaces for table in self.table_widths(name)]
        twice = {table for table in tables if tables.count(table) > 1}
        if twice:
            raise ValueError(
                f"two spaces of model.embeddings.uses would have a table {min(twice)}; tables are "
                "called <space>_<feature>: give one of the spaces another name"
            )
        names = {self.space(use) for use in USES}
        if self.gradients == "balanced" and len(names) > 1:
            raise ValueError(
                f"model.embeddings.gradients is balanced, but the uses read {len(names)} spaces, "
                f"{', '.join(sorted(names))}; it is for one space that all four uses share"
            )

    def space(self, use: Use) -> str:
        """Name of the space a use reads."""
        name: str = getattr(self.uses, use)
        return name

    def spaces(self) -> dict[str, WidthsConfig]:
        """Widths by space.

        Raises:
            ValueError: a space is read by attention and by the head with different widths, or the
                target's and the history's width differ within one of the two.
        """
        found: dict[str, WidthsConfig] = {}
        for use in USES:
            widths = self.attention if use.startswith("attention") else self.representation
            if self.position_encoding == "none":
                widths = replace(widths, position=0)
            name = self.space(use)
            if not name.isidentifier():
                raise ValueError(f"model.embeddings.uses.{use} is {name!r}; use letters, digits, _")
            if found.setdefault(name, widths) != widths:
                raise ValueError(
                    f"space {name} is shared by attention and representation, whose widths differ: "
                    f"model.embeddings.attention is {self.attention}, "
                    f"model.embeddings.representation is {self.representation}; make them equal"
                )
        return found

    def table_widths(self, space: str) -> dict[str, int]:
        """Widths of a space's sharded tables, in the order in which rows lie side by side."""
        return self.spaces()[space].tables

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature that some space looks up, item and category first."""
        names = {name for widths in self.spaces().values() for name in widths.tables}
        first = [name for name in FIRST if name in names]
        return (*first, *sorted(names.difference(first)))

    @property
    def pooled_space(self) -> str | None:
        """The space whose shards sum their behaviours, if there is one."""
        space = self.space("representation_history")
        for_attention = {self.space("attention_target"), self.space("attention_history")}
        pooled = self.representation_lookup == "pooled" and space not in for_attention
        return space if pooled else None

    @property
    def scored_space(self) -> str | None:
        """The space whose shards score their behaviours, if there is one."""
        space = self.space("attention_history")
        for_head = {self.space("representation_target"), self.space("representation_history")}
        scored = self.attention_lookup == "scored" and space not in for_head
        return space if scored else None

    def readers(self, space: str) -> list[Side]:
        """`history` and `target`, as far as one of their uses reads the space."""
        sides: tuple[Side, ...] = ("history", "target")
        return [
            side
            for side in sides
            if any(self.space(use) == space for use in USES if use.endswith(side))
        ]


class Embeddings(nn.Module):
    """The collections that hold all tables but those of positions.

    A space whose behaviours stay on their shards is one `PooledEmbeddings`. Of all others there is
    one collection a space and width, because an `EmbeddingCollection` takes one width only.

    Args:
        config: spaces and widths.
        rows: rows of the tables by feature.
        device: `meta` where the tables are made by sharding.
        whole_histories: the head sums whole histories beside what the search keeps.
        table_types: type of the weights by table, float32 for those that are not named.
    """

    def __init__(
        self,
        config: EmbeddingsConfig,
        rows: dict[str, int],
        device: torch.device,
        *,
        whole_histories: bool,
        table_types: Mapping[str, DataType],
    ) -> None:
        super().__init__()
        self.config = config
        self.collections = nn.ModuleDict()
        for space, widths in config.spaces().items():
            if space in (config.pooled_space, config.scored_space):
                self.collections[f"{space}_pooled"] = PooledEmbeddings(
                    [
                        EmbeddingBagConfig(
                            name=f"{space}_{table}",
                            embedding_dim=width,
                            num_embeddings=rows[table],
                            feature_names=[table],
                            data_type=table_types.get(f"{space}_{table}", DataType.FP32),
                        )
                        for table, width in widths.tables.items()
                    ],
                    sides=config.readers(space),
                    whole=whole_histories or space == config.scored_space,
                    device=device,
                )
                continue
            for width in sorted(set(widths.tables.values())):
                tables = [
                    EmbeddingConfig(
                        name=f"{space}_{table}",
                        embedding_dim=width,
                        num_embeddings=rows[table],
                        feature_names=[f"{side}_{table}" for side in config.readers(space)],
                        data_type=table_types.get(f"{space}_{table}", DataType.FP32),
                    )
                    for table, its_width in widths.tables.items()
                    if its_width == width
                ]
                self.collections[f"{space}_{width}"] = EmbeddingCollection(
                    tables=tables, device=device
                )

    def forward(self, features: KeyedJaggedTensor) -> Lookups:
        """Look everything up, straight-line, so that TorchRec can send the ids ahead.

        Args:
            features: keys `history_<feature>` and `target_<feature>`, stride R.

        Returns:
            By collection: by feature the rows of its ids, [N, D], or rows that stay on their
            shards.
        """
        return {name: collection(features) for name, collection in self.collections.items()}

    def view(self, lookups: Lookups, use: Use) -> FeatureRows:
        """What one use sees of its behaviours or targets.

        Args:
            lookups: the result of `forward`.
            use: the reader.

        Returns:
            Item, category and all other features that are looked up.
        """
        space, side = self.config.space(use), use.rpartition("_")[2]
        parts = []
        for table, width in self.config.table_widths(space).items():
            found = cast(dict[str, JaggedTensor], lookups[f"{space}_{width}"])
            parts.append(found[f"{side}_{table}"].values())
        return FeatureRows(*parts)

    def rows(self, lookups: Lookups, space: str) -> Rows:
        """The rows of a space that stay on their shards."""
        return cast(Rows, lookups[f"{space}_pooled"])

    def searched(self, lookups: Lookups, space: str) -> Searched:
        """The same, where only kept behaviours are asked for."""
        return cast(Searched, lookups[f"{space}_pooled"])

    def by_table(self, value: Tensor, space: str) -> list[Tensor]:
        """What `view` has side by side, cut apart along the last dimension, table by table."""
        return list(torch.split(value, list(self.config.table_widths(space).values()), dim=-1))
