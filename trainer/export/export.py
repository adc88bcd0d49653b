"""`dare export`: a checkpoint of any ranks and plan as one folder that can be served."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from modules.row_precision import STORED_TYPES, RowPrecision, encode, stored_columns
from modules.serving import ServedRanker
from pipelines.loader import Split
from trainer.checkpoints.manifest import FileDigest
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.export.artefact import load_artefact, make_ranker
from trainer.export.changes import changed_options
from trainer.export.layout import (
    CONFIG_FILE,
    PARITY_FILE,
    PROGRAM_FILE,
    RANKER_FILE,
    ArtefactSchema,
    StoredTable,
    file_digest,
    table_files,
    use_tables,
    write_schema,
)
from trainer.export.parity import (
    Reference,
    check_exact,
    compare,
    read_reference,
    roads,
    score_reference,
    score_served,
)
from trainer.export.program import INPUTS, OUTPUTS, export_program, least_behaviours
from trainer.export.source import TrainedModel, find_trained
from trainer.export.tensor_file import TensorFile
from trainer.json_files import write_json

logger = logging.getLogger(__name__)

ParitySplit = Literal["val", "test", "train", "none"]
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported, and to where."""

    out: str = ""
    """Folder of the artefact, which must not be there yet."""
    at: str = "best"
    """Checkpoint: `best` by validation AUC, `last`, or the name of a checkpoint's folder."""
    precision: RowPrecision = "fp32"
    """Of the tables: `fp32` bit by bit as trained, `bf16`, or `int8` with a scale and a bias a row
    (FBGEMM's format)."""
    representation_precision: RowPrecision | None = None
    """Of tables that the head alone reads, where it is another one."""
    split: ParitySplit = "test"
    """Whose rows the report on parity is made of; `none` for no report, where there is no data."""
    requests: int = 500
    """Requests of the split that are compared; 0 for all."""

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError("--out is missing; give the folder that is to be made")
        if self.requests < 0:
            raise ValueError(f"--requests is {self.requests}; it must be 0 or more")


def export_run(config: TrainConfig, text: str, options: ExportOptions) -> dict[str, Any]:
    """Write an artefact: all of it, or nothing.

    The tables are read one at a time, so it takes about twice the largest one's memory.

    Args:
        config: of the run.
        text: its YAML.
        options: of the export.

    Returns:
        What was written, and how it compares with the trained model.

    Raises:
        ValueError: the folder is there, there is no such checkpoint or it is damaged, or the model
            cannot be served.
        RuntimeError: fp32 scores are not the trained model's.
    """
    out = Path(options.out)
    if out.exists():
        raise ValueError(f"--out is {out}, which is there; remove it, or choose another folder")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "dare export is one process, whatever has trained; start it without torchrun"
        )
    context = RunContext(0, 1, 0, 1, torch.device("cpu"), None)
    trained = find_trained(config, context, options.at)
    ranker = _ranker(config, trained)
    changed = changed_options(config)
    reference = None
    if options.split != "none":
        reference = read_reference(config, options.split, options.requests, context)
    aside = out.with_name(f"{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        tables, files = _write_tables(aside, config, trained, options, reference)
        _write_ranker(aside, ranker, text, config.data.history_length)
        files |= {
            name: file_digest(aside / name) for name in (RANKER_FILE, PROGRAM_FILE, CONFIG_FILE)
        }
        write_schema(aside, _schema(config, trained, ranker, tables, files))
        told: dict[str, Any] = {"out": str(out), "checkpoint": trained.path}
        told |= {"bytes": {name: file.bytes for name, file in files.items()}}
        if reference is not None:
            told["parity"] = _parity(aside, config, trained, reference, options)
            told["parity"]["changed"] = changed
            write_json(aside / PARITY_FILE, told["parity"])
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return told


def _ranker(config: TrainConfig, trained: TrainedModel) -> ServedRanker:
    """The ranker with its weights.

    Raises:
        ValueError: they do not fit the config.
    """
    embeddings = config.model.embeddings
    expected = {
        f"{space}_{feature}": width
        for space, widths in embeddings.spaces().items()
        for feature, width in widths.tables.items()
    }
    held = {name: width for name, (_, width) in trained.shapes.items()}
    if held != expected:
        raise ValueError(
            f"{trained.path} has tables of widths {held}, this config's model has {expected}; give "
            "the config.yaml of the run's folder"
        )
    ranker = make_ranker(
        config, {f: trained.shapes[t][0] for t, (_, f) in _features(config).items()}
    )
    dense = trained.dense()
    wanted = ranker.interaction.state_dict()
    try:
        ranker.interaction.load_state_dict({n: v for n, v in dense.items() if n in wanted})
    except RuntimeError as error:
        raise ValueError(f"{trained.path} does not fit this config's model: {error}") from error
    return ranker


def _features(config: TrainConfig) -> dict[str, tuple[str, str]]:
    """Space and feature by table."""
    return {
        f"{space}_{feature}": (space, feature)
        for space, widths in config.model.embeddings.spaces().items()
        for feature in widths.tables
    }


def _write_tables(
    folder: Path,
    config: TrainConfig,
    trained: TrainedModel,
    options: ExportOptions,
    reference: Reference | None,
) -> tuple[dict[str, StoredTable], dict[str, FileDigest]]:
    """Write the tables' files, a table and a block of rows at a time."""
    by_space = table_files(config.model.embeddings)
    tables = {}
    for name, (space, feature) in _features(config).items():
        head_only = by_space[space].startswith("representation")
        precision = (head_only and options.representation_precision) or options.precision
        rows, width = trained.shapes[name]
        tables[name] = StoredTable(
            file=by_space[space],
            space=space,
            feature=feature,
            rows=rows,
            width=width,
            precision=precision,
        )
    digests = {}
    for file in dict.fromkeys(by_space.values()):
        mine = {name: table for name, table in tables.items() if table.file == file}
        layout = {
            name: (STORED_TYPES[t.precision], (t.rows, stored_columns(t.width, t.precision)))
            for name, t in mine.items()
        }
        with TensorFile(folder / file, layout) as written:
            for name, table in mine.items():
                whole = trained.table(name)
                if reference is not None:
                    reference.keep_rows(name, table.feature, whole)
                for block in torch.split(whole, _BLOCK_ROWS):
                    written.write(encode(block, table.precision))
        digests[file] = written.digest()
    if "shared.safetensors" in digests:
        logger.info(
            "attention and representation share tables in %s: one file for both, "
            "shared.safetensors",
            config.model.preset,
        )
    return tables, digests


def _write_ranker(folder: Path, ranker: ServedRanker, text: str, history_length: int) -> None:
    weights = {n: v.contiguous() for n, v in ranker.interaction.state_dict().items()}
    (folder / RANKER_FILE).write_bytes(save(weights))
    export_program(ranker, folder / PROGRAM_FILE, history_length)
    (folder / CONFIG_FILE).write_text(text)


def _schema(
    config: TrainConfig,
    trained: TrainedModel,
    ranker: ServedRanker,
    tables: Mapping[str, StoredTable],
    files: Mapping[str, FileDigest],
) -> ArtefactSchema:
    embeddings = config.model.embeddings
    return ArtefactSchema(
        name=config.name,
        preset=config.model.preset,
        checkpoint=trained.name,
        step=trained.manifest.step,
        history_length=config.data.history_length,
        top_k=ranker.interaction.search.top_k,
        features=list(embeddings.features),
        ids=config.data.ids,
        uses=use_tables(embeddings),
        tables=dict(tables),
        positions={space: widths.position for space, widths in embeddings.spaces().items()},
        inputs=INPUTS,
        outputs=OUTPUTS,
        least_behaviours=least_behaviours(ranker, config.data.history_length),
        metrics=trained.manifest.metrics,
        versions={
            name: importlib.metadata.version(name) for name in ("torch", "torchrec", "safetensors")
        },
        files=dict(files),
        interval_unit=config.data.interval_unit,
    )


def _parity(
    folder: Path,
    config: TrainConfig,
    trained: TrainedModel,
    reference: Reference,
    options: ExportOptions,
) -> dict[str, Any]:
    """Compare what was written with the trained model, by both roads of the ranker."""
    artefact = load_artefact(folder)
    truth = list(score_reference(reference, config, trained.dense()))
    split: Split = reference.split
    told: dict[str, Any] = {
        "split": split,
        "requests": sum(batch.features.stride() for batch in reference.batches),
        "targets": sum(batch.label.numel() for batch in reference.batches),
        "precisions": {name: table.precision for name, table in artefact.schema.tables.items()},
    }
    exact = {options.precision, options.representation_precision} <= {"fp32", None}
    for name, rank in roads(artefact).items():
        served = [score_served(artefact, rank, batch) for batch in reference.batches]
        told[name] = compare(reference, truth, served)
        if exact and name in ("module", "program"):
            check_exact(told[name])
    return told
