"""`dare analyze WHAT`: the analyses by name, from the command line to files."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.analysis.attention import AttentionOptions, attention
from trainer.analysis.convergence import ConvergenceOptions, convergence
from trainer.analysis.discriminability import DiscriminabilityOptions, discriminability
from trainer.analysis.gradients import GradientsOptions, gradients
from trainer.analysis.options import AnalysisOptions, Findings, Job
from trainer.analysis.retrieval import RetrievalOptions, retrieval
from trainer.arguments import parse_run, run_parser
from trainer.distributed import run_context
from trainer.json_files import write_json
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Analysis:
    """One analysis of the command line."""

    summary: str
    options: type[Any]
    """Its dataclass of options, an `AnalysisOptions`."""
    make: Callable[[Job, Any], Findings]


ANALYSES = {
    "attention": Analysis(
        "What a model attends to, by category and position, beside what tells about clicks.",
        AttentionOptions,
        attention,
    ),
    "retrieval": Analysis(
        "Whether the search ranks first what tells most about clicks: NDCG and hits by k.",
        RetrievalOptions,
        retrieval,
    ),
    "discriminability": Analysis(
        "What clusters of the vectors that the head sees tell about clicks.",
        DiscriminabilityOptions,
        discriminability,
    ),
    "gradients": Analysis(
        "Whether attention and representation want the same of the tables that they share.",
        GradientsOptions,
        gradients,
    ),
    "convergence": Analysis(
        "Validation metrics by step of one run or several, and steps to reach a level.",
        ConvergenceOptions,
        convergence,
    ),
}


def introduction() -> str:
    """What `dare analyze --help` says."""
    lines = [f"  {name:<17}{analysis.summary}" for name, analysis in ANALYSES.items()]
    return "\n".join(
        [
            "usage: dare analyze WHAT --config RUN/config.yaml [--OPTION VALUE ...]",
            "",
            "Look into a run that is trained; leaves WHAT.json and WHAT.png in RUN/analysis/ and",
            "prints the path of the first.",
            "",
            *lines,
            "",
            "`dare analyze WHAT --help` explains an analysis and its options.",
        ]
    )


def analyze_run(what: str, arguments: list[str]) -> Path:
    """Make one analysis and write it.

    Args:
        what: its name.
        arguments: of the command line after the name.

    Returns:
        Path of its JSON file.

    Raises:
        ValueError: no analysis of that name, an option out of range, several processes, or what
            the analysis itself refuses.
    """
    if what not in ANALYSES:
        raise ValueError(f"{what!r} is no analysis; analyses are {', '.join(ANALYSES)}")
    analysis = ANALYSES[what]
    about = f"{analysis.summary} Its own options come last."
    parser = run_parser(f"dare analyze {what}", about, "[--OPTION VALUE]")
    parser.add_class_arguments(analysis.options)
    config, text, parsed = parse_run(parser, arguments)
    names = [field.name for field in dataclasses.fields(analysis.options)]
    options: AnalysisOptions = analysis.options(**{name: parsed[name] for name in names})
    with run_context() as context:
        if context.world > 1:
            raise ValueError(
                f"dare analyze runs on one process, {context.world} were started; start it "
                "without torchrun"
            )
        configure_logging(context.rank)
        job = Job(config, text, context)
        found = analysis.make(job, options)
        head = {"analysis": what, "run": config.name, "preset": config.model.preset}
        return write_findings(
            Findings({**head, **found.content}, found.figure),
            Path(options.out) if options.out else job.folder / "analysis",
            what,
        )


def write_findings(found: Findings, folder: Path, name: str) -> Path:
    """Write an analysis to a folder, which is made where it is missing.

    Returns:
        Path of the JSON file; the PNG is beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(path, plain(found.content))
    picture = path.with_suffix(".png")
    found.figure.savefig(picture, dpi=150)
    logger.info("figure: %s", picture)
    return path


def plain(value: Any) -> Any:
    """The same in JSON's own kinds: lists for arrays, None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
