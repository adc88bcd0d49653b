"""This project's training beside its peers': `make bench-peers PAPER=... FUXICTR=...`.

Peers are the paper's released code (a clone of github.com/thuml/DARE) and FuxiCTR's TWIN (an
environment that has fuxictr 2.3.10). All read the same rows, each in its own format with its own
loader, in the training process; all may use all cores; they take turns. Before the first case the
paper's code and this project are shown to train the same model. A case that is in the result
already, of the same commit and settings, is not measured again.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import peer_paper
from tests.bench.gate import PARITY, check
from tests.bench.ours import write_ours
from tests.bench.race import ROOT, Contestant, race
from tests.bench.rows import Shape, draw, write_fuxictr, write_paper
from tests.bench.tables import to_markdown
from trainer.bench.machine import machine
from trainer.bench.series import ratio
from trainer.host_settings import HOST_SETTINGS

logger = logging.getLogger(__name__)
TOP_K = 20
PEER_TARGETS = 3
"""Targets a request in the rows of the peers. They take each row alone, so their rates would be the
same with others, but for the caches of the processor, which like these best."""
_DARE = [option for option in PARITY if not option.startswith("--optim.sparse.name")]
_TWIN = [f"--model.search.top_k={TOP_K}", "--model.head.auxiliary_weight=0"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared."""

    peer: str
    """paper or fuxictr."""
    items: int
    history_length: int
    batch_size: int
    steps: int
    """Of a peer's turn; divides the batches of the rows."""
    fast_steps: int
    """Of a turn of ours with fused Adam."""
    dense_steps: int
    """Of a turn of ours with dense Adam."""

    def shape(self, targets: int) -> Shape:
        """Of the rows."""
        return Shape(
            items=self.items,
            history_length=self.history_length,
            batch_size=self.batch_size,
            targets=targets,
        )


def _paper(items: int, steps: int, fast_steps: int, dense_steps: int) -> Case:
    return Case(
        peer="paper",
        items=items,
        history_length=200,
        batch_size=2048,
        steps=steps,
        fast_steps=fast_steps,
        dense_steps=dense_steps,
    )


def _fuxictr(history_length: int, batch_size: int, steps: int, fast_steps: int) -> Case:
    return Case(
        peer="fuxictr",
        items=100_000,
        history_length=history_length,
        batch_size=batch_size,
        steps=steps,
        fast_steps=fast_steps,
        dense_steps=fast_steps,
    )


CASES = {
    "paper_4m": _paper(4_068_790, steps=3, fast_steps=12, dense_steps=3),
    "paper_100k": _paper(100_000, steps=6, fast_steps=20, dense_steps=12),
    "fuxictr_200": _fuxictr(200, 1024, steps=8, fast_steps=24),
    "fuxictr_1000": _fuxictr(1_000, 256, steps=12, fast_steps=24),
}


ALONE = ("bytes_on_disk",)
"""Commands that say in JSON what needs no peer."""


def contestants(case: Case, paper: str, fuxictr: str) -> list[Contestant]:
    """The peer, then ours: both optimizers, three targets a request and one."""
    here = [sys.executable, "-m"]
    if case.peer == "paper":
        command = [*here, "tests.bench.peer_paper", paper, "--top_k", str(TOP_K)]
        models = {"dare": [*_DARE]}
    else:
        command = [fuxictr, "-m", "tests.bench.peer_fuxictr", "--top_k", str(TOP_K)]
        models = {name: [f"--model.preset={name}", *_TWIN] for name in ("twin", "twin_kdd23")}
    made = [
        Contestant(name=case.peer, targets=PEER_TARGETS, command=command, steps=case.steps),
    ]
    for model, options in models.items():
        for optimizer, steps in (("adam", case.fast_steps), ("dense_adam", case.dense_steps)):
            for targets in (PEER_TARGETS, 1):
                if model == "twin_kdd23" and (optimizer, targets) == ("adam", 1):
                    continue  # What is nearest to the peer's, and the best of ours, is enough.
                chosen = [*here, "tests.bench.ours", *options, f"--optim.sparse.name={optimizer}"]
                name = f"{model} {optimizer} {targets}"
                made.append(
                    Contestant(
                        name=name,
                        targets=targets,
                        command=chosen,
                        steps=steps,
                        settings=HOST_SETTINGS,
                    )
                )
    return made


def write_rows(case: Case, work: Path) -> dict[int, Path]:
    """Rows for all, each drawn once; folders by targets a request."""
    folders = {}
    for targets in (PEER_TARGETS, 1):
        shape, folder = case.shape(targets), work / f"rows_{targets}"
        rows = draw(shape)
        write_ours(folder / "ours", rows, shape.items)
        shape.save(folder)
        if targets == PEER_TARGETS and case.peer == "paper":
            write_paper(folder / "paper", rows, case.batch_size, case.steps)
        elif targets == PEER_TARGETS:
            write_fuxictr(folder / "fuxictr", rows, shape.items)
        folders[targets] = folder
    return folders


def measure(case: Case, paper: str, fuxictr: str, repeats: int, folder: str) -> dict[str, Any]:
    """One case."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dare-peers-", dir=folder or None) as work:
        data = write_rows(case, Path(work))
        logger.info("  rows are written, %.0f s", time.perf_counter() - started)
        found = race(contestants(case, paper, fuxictr), data, Path(work), repeats)
    for name, figures in found.items():
        if name != case.peer:
            figures["beside"] = ratio(figures["samples_per_s"], found[case.peer]["samples_per_s"])
    return {
        **asdict(case),
        "top_k": TOP_K,
        "width_a_feature": peer_paper.WIDTH,
        "repeats": repeats,
        "commit": machine()["commit"],
        "seconds": round(time.perf_counter() - started),
        "runs": found,
    }


def run_alone(name: str, *arguments: str) -> dict[str, Any]:
    """What a command of this package says.

    Raises:
        RuntimeError: nothing.
    """
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"{name} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parse() -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: it asks for what cannot be.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--paper", default="", help="a clone of github.com/thuml/DARE")
    parser.add_argument("--fuxictr", default="", help="an environment that has fuxictr 2.3.10")
    parser.add_argument(
        "--cases", default="", help=f"of {','.join((*CASES, *ALONE))}; empty: all there can be"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--out", default="runs/peers", help="folder of peers.json and peers.md")
    parser.add_argument("--folder", default="", help="where rows go meanwhile; empty: the system's")
    given = parser.parse_args()
    there = {"paper": given.paper, "fuxictr": given.fuxictr}
    able = [name for name, case in CASES.items() if there[case.peer]]
    everything = [*ALONE, *able] if able else []
    given.cases = given.cases.split(",") if given.cases else everything
    if not given.cases:
        raise ValueError("give --paper, --fuxictr or both; --help says what they are")
    for name in given.cases:
        if name not in (*CASES, *ALONE):
            raise ValueError(f"--cases has {name}; cases are {', '.join((*CASES, *ALONE))}")
        if name in CASES and not there[CASES[name].peer]:
            raise ValueError(f"--cases has {name}, so --{CASES[name].peer} is needed too")
    if given.repeats < 1:
        raise ValueError(f"--repeats is {given.repeats}; at least 1")
    if given.paper:
        peer_paper.load(given.paper)
        given.paper = str(Path(given.paper).resolve())
    if given.fuxictr and Path(given.fuxictr).is_dir():
        given.fuxictr = str(Path(given.fuxictr).absolute() / "bin" / "python")
    if given.fuxictr and not Path(given.fuxictr).is_file():
        raise ValueError(
            f"--fuxictr is {given.fuxictr}, which is no environment; make one with `python -m venv "
            "VENV && VENV/bin/pip install fuxictr==2.3.10 keras_preprocessing torch==2.13.0`"
        )
    return given


def main() -> None:
    """Measure, and write what was found after each case."""
    given = parse()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "peers.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"cases": {}}
    result["machine"] = machine()

    def save() -> None:
        file.write_text(json.dumps(result, indent=1) + "\n")
        (out / "peers.md").write_text(to_markdown(result))

    for name in [name for name in ALONE if name in given.cases]:
        logger.info("%s", name)
        result[name] = run_alone(name)
        save()
    cases = [name for name in given.cases if name in CASES]
    if any(CASES[name].peer == "paper" for name in cases):
        logger.info("gate: do the paper's code and this project train the same model?")
        gate = run_alone("gate", given.paper)
        check(gate)
        logger.info("gate: yes, %s", json.dumps(gate))
        result["gate"] = gate
        save()
    for number, name in enumerate(cases):
        saved, case = result["cases"].get(name, {}), CASES[name]
        asked = {**asdict(case), "repeats": given.repeats, "commit": machine()["commit"]}
        if all(saved.get(key) == value for key, value in asked.items()):
            logger.info("%s is in %s already", name, file)
            continue
        logger.info("%s, case %d of %d", name, number + 1, len(cases))
        found = measure(case, given.paper, given.fuxictr, given.repeats, given.folder)
        result["cases"][name] = found
        save()
    print((out / "peers.md").read_text())


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
