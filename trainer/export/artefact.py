"""An artefact in memory: its tables, mapped from their files, and its ranker; runs no code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from modules.embedding import Use
from modules.row_precision import decode
from modules.serving import ServedRanker
from pipelines.ids import hash_feature
from pipelines.schema import INTERVAL
from trainer.arguments import parse_config
from trainer.config import TrainConfig
from trainer.export.layout import (
    CONFIG_FILE,
    PROGRAM_FILE,
    RANKER_FILE,
    ArtefactSchema,
    check_file,
    read_schema,
)
from trainer.export.program import load_program

Half = Literal["attention", "representation"]
Rank = Callable[..., tuple[Tensor, ...]]
"""From the inputs of `ServedRanker.forward` to logits, kept behaviours and their weights."""


@dataclass(frozen=True)
class Artefact:
    """What `dare export` has written, whole or one service's half."""

    folder: Path
    schema: ArtefactSchema
    tables: Mapping[str, Tensor]
    """As they are stored, by name; mapped from the files, so that rows are read when asked for."""
    ranker: ServedRanker

    def rows(self, use: Use, ids: Mapping[str, Tensor]) -> Tensor:
        """Look ids up.

        Args:
            use: the reader.
            ids: by feature, int64 [N] each, as the log has them.

        Returns:
            The tables' rows side by side, float32, value_ND.

        Raises:
            IndexError: an id is outside its table.
        """
        return self._look_up(use, self.named(ids))

    def named(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of the tables that ids name: hashed where training has hashed them.

        Args:
            ids: by feature, int64 [N] each, as the log has them; of `interval`, buckets
                (`pipelines.interval.interval_buckets`), 0 for a target.
        """
        if self.schema.ids != "hash":
            return dict(ids)
        sizes = {table.feature: table.rows for table in self.schema.tables.values()}
        return {
            name: torch.from_numpy(hash_feature(name, values.numpy(), sizes[name]))
            if name in sizes and name != INTERVAL
            else values
            for name, values in ids.items()
        }

    def inputs(self, targets: Mapping[str, Tensor], history: Mapping[str, Tensor]) -> list[Tensor]:
        """What a ranker takes of a request.

        Args:
            targets: ids by feature, int64 [T] each, as `named` takes them.
            history: likewise, [N], newest first; at most the schema's `history_length`.

        Raises:
            IndexError: an id is outside its table.
        """
        return self.inputs_of_rows(self.named(targets), self.named(history))

    def inputs_of_rows(
        self, targets: Mapping[str, Tensor], history: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """As `inputs`, of rows of the tables in place of ids."""
        there = history["item"].numel()
        missing = max(0, self.schema.least_behaviours - there)
        padded = {name: F.pad(rows, (0, missing)) for name, rows in history.items()}
        return [
            self._look_up("attention_target", targets),
            self._look_up("attention_history", padded),
            self._look_up("representation_target", targets),
            self._look_up("representation_history", padded),
            targets["category"],
            padded["category"],
            torch.tensor(there),
        ]

    def _look_up(self, use: Use, rows: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for name in self.schema.uses[use]:
            about = self.schema.tables[name]
            row_N = rows[about.feature]
            outside = (row_N < 0) | (row_N >= about.rows)
            if outside.any():
                raise IndexError(
                    f"{about.feature} {int(row_N[outside][0])} is outside table {name}, which has "
                    f"{about.rows} rows; give ids as the log has them that was trained on"
                )
            parts.append(decode(self.tables[name].index_select(0, row_N), about.precision))
        return torch.cat(parts, dim=1)

    def program(self) -> Rank:
        """The ranker as `torch.export` has written it; the same results as `ranker`."""
        rank: Rank = load_program(self.folder / PROGRAM_FILE).module()
        return rank


def load_artefact(folder: str | os.PathLike[str], half: Half | None = None) -> Artefact:
    """Read an artefact after comparing its files with their digests.

    Args:
        folder: of the artefact.
        half: of whose uses the tables are needed; None for all, and the others' file need not be
            there.

    Raises:
        ValueError: it is damaged, of another format, or has no such half.
    """
    path = Path(folder)
    schema = read_schema(path)
    wanted = {
        name for use, names in schema.uses.items() if half in (None, _half(use)) for name in names
    }
    files = {schema.tables[name].file for name in wanted}
    unused = {table.file for table in schema.tables.values()} - files
    for file, digest in schema.files.items():
        if file not in unused:
            check_file(path / file, digest)
    tables = {}
    try:
        for file in files:
            with safe_open(path / file, framework="pt") as opened:
                for name in wanted.intersection(opened.keys()):
                    tables[name] = opened.get_tensor(name)
        weights = load_file(path / RANKER_FILE)
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    return Artefact(path, schema, tables, _ranker(schema, read_config(path), weights))


def read_config(folder: Path) -> TrainConfig:
    """The config of the run that was exported."""
    return parse_config([f"--config={folder / CONFIG_FILE}"])[0]


def make_ranker(config: TrainConfig, rows: dict[str, int]) -> ServedRanker:
    """The ranker of a run, without its weights; arguments as of `ServedRanker`."""
    return ServedRanker(
        config.model,
        rows=rows,
        history_length=config.data.history_length,
        autocast=config.loop.autocast,
    )


def _ranker(
    schema: ArtefactSchema, config: TrainConfig, weights: Mapping[str, Tensor]
) -> ServedRanker:
    ranker = make_ranker(config, {table.feature: table.rows for table in schema.tables.values()})
    ranker.interaction.load_state_dict(weights)
    return ranker


def _half(use: str) -> str:
    return use.partition("_")[0]
