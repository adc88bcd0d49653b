"""`dare runs` and `dare runs compare`: their arguments, and what they print."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from trainer.parsing import make_parser
from trainer.runs.find import DEFAULT_FOLDER, find_run, find_runs
from trainer.runs.state import STATES, read_run
from trainer.runs.table import Sort, as_json, as_table, parse_states, sort_runs

_LIST = """List the runs below folders, those of sweeps too: state, step, AUC, preset, ranks. A
state is what the folder tells: running (held by a process), finished (it has a result), stopped
(it has checkpoints to go on from), interrupted (the same, by Ctrl-C), failed, or empty. `dare runs
compare A B` shows how runs differ."""
_COMPARE = """Write one HTML page of how runs differ: config fields, results, curves."""


def list_runs(arguments: list[str]) -> str:
    """What `dare runs` prints.

    Args:
        arguments: of the command line, after `runs`.

    Raises:
        ValueError: a folder is not there, or a state is none.
    """
    parser = make_parser(
        "dare runs",
        _LIST,
        "dare runs [FOLDER ...] [--state STATE,STATE] [--sort BY] [--json] [--remote]",
    )
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", default=[DEFAULT_FOLDER], help="where to look"
    )
    parser.add_argument(
        "--state", default="", metavar="STATE,STATE", help=f"these only: {', '.join(STATES)}"
    )
    parser.add_argument(
        "--sort",
        choices=get_args(Sort),
        default="path",
        help="auc, step and written: highest first",
    )
    parser.add_argument("--json", action="store_true", help="an array of objects, for machines")
    parser.add_argument(
        "--remote",
        action="store_true",
        help="look at checkpoints in object stores too, which takes its time",
    )
    parsed = parser.parse_args(arguments)
    states = parse_states(parsed.state)
    folders = parsed.folders
    found = [read_run(folder, remote=parsed.remote) for folder in find_runs(folders)]
    shown = sort_runs([run for run in found if run.state in states], parsed.sort)
    if parsed.json:
        return as_json(shown)
    if shown:
        return as_table(shown)
    others = f"; {len(found)} in other states" if found else ""
    return f"no runs below {', '.join(folders)}{others}"


def compare_runs(arguments: list[str]) -> str:
    """Write the page of `dare runs compare`, and return its path.

    Args:
        arguments: of the command line, after `runs compare`.

    Raises:
        ValueError: less than two runs, or what is given is none.
    """
    parser = make_parser(
        "dare runs compare", _COMPARE, "dare runs compare A B [C ...] [--out FILE]"
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=f"a run's folder, or the name of one below {DEFAULT_FOLDER}",
    )
    parser.add_argument(
        "--out", default="compare.html", metavar="FILE", help="the page (default: compare.html)"
    )
    parsed = parser.parse_args(arguments)
    # Drawing takes a second that a mistake in the names should not wait for.
    folders = [find_run(given) for given in parsed.runs]
    from trainer.runs.compare import write_comparison

    write_comparison(folders, Path(parsed.out))
    return str(parsed.out)
