"""What an artefact says of itself: `schema.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.embedding import USES, EmbeddingsConfig, Use
from modules.row_precision import RowPrecision
from trainer.checkpoints.manifest import FileDigest
from trainer.json_files import write_json

FORMAT = 1
SCHEMA_FILE, CONFIG_FILE, PARITY_FILE = "schema.json", "config.yaml", "parity.json"
RANKER_FILE, PROGRAM_FILE = "ranker.safetensors", "ranker.pt2"
_DIGEST = "sha256"


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """A table of an artefact."""

    file: str
    space: str
    feature: str
    rows: int
    width: int
    precision: RowPrecision


@dataclass(frozen=True, kw_only=True)
class ArtefactSchema:
    """What there is, and how it is to be read."""

    name: str
    """Of the run."""
    preset: str
    checkpoint: str
    step: int
    history_length: int
    """Behaviours a history has at most, newest first."""
    top_k: int
    """Behaviours kept of a target."""
    features: list[str]
    """Ids that a behaviour and a target have, each a row of its tables; 0 is padding."""
    ids: str
    """How raw ids become rows, as `data.ids` says: `check` takes them as they are, `hash` hashes
    them into each table (`pipelines.ids.hash_feature`)."""
    uses: dict[str, list[str]]
    """Tables by use, in the order in which their rows lie side by side."""
    tables: dict[str, StoredTable]
    positions: dict[str, int]
    """Width of the position table by space; they are in `ranker.safetensors`."""
    inputs: list[str]
    """What `ranker.pt2` takes, in order."""
    outputs: list[str]
    """What it gives, in order."""
    least_behaviours: int
    """Rows of history that `ranker.pt2` takes at least; shorter ones are padded."""
    metrics: dict[str, float]
    """Of the checkpoint's evaluation in training."""
    versions: dict[str, str]
    files: dict[str, FileDigest]
    """Bytes and SHA-256 of every other file."""
    interval_unit: int = 1
    """Units of the log's timestamps that count as one in the buckets of `interval`, if it is read
    (`pipelines.interval.interval_buckets`)."""
    format: int = FORMAT


def table_files(embeddings: EmbeddingsConfig) -> dict[str, str]:
    """The file of each space's tables: attention and representation apart, shared ones together."""
    readers: dict[str, set[str]] = {}
    for use in USES:
        readers.setdefault(embeddings.space(use), set()).add(use.partition("_")[0])
    return {
        space: f"{'shared' if len(by) > 1 else by.copy().pop()}.safetensors"
        for space, by in readers.items()
    }


def use_tables(embeddings: EmbeddingsConfig) -> dict[str, list[str]]:
    """Tables by use, in the order in which their rows lie side by side."""

    def names(use: Use) -> list[str]:
        space = embeddings.space(use)
        return [f"{space}_{feature}" for feature in embeddings.table_widths(space)]

    return {use: names(use) for use in USES}


def write_schema(folder: Path, schema: ArtefactSchema) -> None:
    """Write `schema.json`, with a digest of its own."""
    content = dataclasses.asdict(schema)
    write_json(folder / SCHEMA_FILE, {**content, _DIGEST: _digest(content)})


def read_schema(folder: Path) -> ArtefactSchema:
    """Read `schema.json`.

    Raises:
        ValueError: it is not there, changed, or of another format.
    """
    path = folder / SCHEMA_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        found, digest = content["format"], content.pop(_DIGEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no artefact of `dare export`: {error}") from error
    if found != FORMAT:
        raise ValueError(f"{path} has format {found}; this version reads {FORMAT}: export again")
    if digest != _digest(content):
        raise ValueError(f"{path} does not hold what was written: export again, or copy it again")
    tables = {name: StoredTable(**table) for name, table in content["tables"].items()}
    files = {name: FileDigest(**file) for name, file in content["files"].items()}
    return ArtefactSchema(**{**content, "tables": tables, "files": files})


def check_file(path: Path, expected: FileDigest) -> None:
    """Compare a file with what was written; about 2 GB/s.

    Raises:
        ValueError: it is missing or another one.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: export again, or copy the whole folder")
    if file_digest(path) != expected:
        raise ValueError(f"{path} does not hold what was written: export again, or copy it again")


def file_digest(path: Path) -> FileDigest:
    """Bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256")
    return FileDigest(path.stat().st_size, found.hexdigest())


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
