"""What every analysis is given and what it returns, and the options that several of them share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from pipelines.loader import Split
from trainer.config import TrainConfig
from trainer.distributed import RunContext


@dataclass(frozen=True)
class Job:
    """A run to look into, on one process."""

    config: TrainConfig
    text: str
    """The config as YAML."""
    context: RunContext

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.out_dir) / self.config.name

    @property
    def title(self) -> str:
        """Name and preset of the run."""
        return f"{self.config.name} ({self.config.model.preset})"


class Findings(NamedTuple):
    """What an analysis has found."""

    content: dict[str, Any]
    """Of its JSON file; numpy arrays become lists, numbers that JSON does not know become null."""
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """Options of every analysis."""

    out: str = ""
    """Folder to write to; empty for `analysis` in the run's folder."""

    def check_least(self, **least: int) -> None:
        """Compare options with the least they may be.

        Raises:
            ValueError: one is smaller.
        """
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"--{name} is {getattr(self, name)}; at least {value}")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(AnalysisOptions):
    """Options of an analysis that scores a split with a checkpoint."""

    at: str = "best"
    """Checkpoint: `best` by validation AUC, `last`, or the name of its folder."""
    split: Split = "test"
    """Split that is scored."""


@dataclass(frozen=True, kw_only=True)
class BesideOptions(AnalysisOptions):
    """Options of an analysis whose figure can show several runs."""

    beside: tuple[str, ...] = ()
    """Folders of other runs to draw too, each analysed before under the same options."""


_OF_THE_FIGURE = frozenset({"out", "beside", "cases", "case_seed"})
"""Options that decide no number of a curve."""


def read_beside(folder: Path, options: BesideOptions, what: str) -> dict[str, Any]:
    """What an analysis has found of other runs, by name.

    Args:
        folder: of the run that they are drawn beside.
        options: of its analysis, with folders of the others.
        what: the analysis.

    Raises:
        ValueError: a run has not been analysed yet, or under other options, or is named twice.
    """
    found = {}
    beside = options.beside
    for name, other in zip(run_names([folder, *beside])[1:], beside, strict=True):
        path = Path(other) / "analysis" / f"{what}.json"
        if not path.exists():
            raise ValueError(f"--beside: {path} is not there; {_remedy(options, other, what)}")
        content = json.loads(path.read_text())
        its = content.get("options", {})
        for option, value in _deciding(options).items():
            if its.get(option) != value:
                raise ValueError(
                    f"--beside: {path} was made with --{option} {_told(its.get(option))}, this "
                    f"analysis has {_told(value)}; {_remedy(options, other, what)}"
                )
        found[name] = content
    return found


def _deciding(options: AnalysisOptions) -> dict[str, Any]:
    """Options that decide numbers of curves, as JSON has them."""
    plain = json.loads(json.dumps(asdict(options)))
    return {name: value for name, value in plain.items() if name not in _OF_THE_FIGURE}


def _remedy(options: AnalysisOptions, other: str, what: str) -> str:
    """How another run is analysed alike."""
    default = {field.name: field.default for field in fields(options)}
    parts = ["dare", "analyze", what, "--config", str(Path(other) / "config.yaml")]
    for name, value in _deciding(options).items():
        if getattr(options, name) != default[name]:
            parts += [f"--{name}", str(value)]
    return f"`{shlex.join(parts)}` makes it"


def _told(value: object) -> str:
    return "unknown" if value is None else str(value)


def run_names(folders: Sequence[str | Path]) -> list[str]:
    """Names of runs: of their folders, with as many of those above as tell them apart.

    Raises:
        ValueError: a folder is there twice.
    """
    parts = [Path(folder).absolute().parts for folder in folders]
    for last in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-last:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"--beside names a run twice, or {folders[0]} itself")
