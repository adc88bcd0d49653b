"""The command `dare`: one function a subcommand, arguments read by jsonargparse."""

from __future__ import annotations

import gc
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence

from trainer import commands
from trainer.doctor.probes import first_line
from trainer.host_settings import apply_host_settings
from trainer.parsing import in_one_line
from trainer.reliability.last_words import does_not_load, last_words

_INTRODUCTION = """dare: train DARE and other long-sequence recommendation models on TorchRec

  dare doctor                    check versions, libraries and devices
  dare prepare SOURCE --out DIR  a raw log, or a synthetic one, to parquet; or check your own
  dare plan --config FILE        where the tables would live on other machines, and what it costs
  dare train --config FILE       train, evaluate, report
  dare evaluate --config FILE    score a split with a checkpoint of a run
  dare export --config F --out D a checkpoint as one folder to serve from, with a parity report
  dare replay FILE               a batch whose loss was not finite, again, on one CPU
  dare analyze WHAT --config F   what a run has learned: attention, retrieval, discriminability,
                                 gradients, convergence
  dare sweep --config FILE       seeds, presets and any fields, to a table of mean ± std
  dare compare                   one table against two and four, where one is enough and not
  dare runs                      what runs there are: state, step, AUC, where
  dare runs compare A B          how runs differ, one HTML page: config, results, curves
  dare bench all                 the benchmark page: a step and its floor, growth, choices
  dare bench check               ratios that hold on any machine; exit code 1 where one does not
  dare bench train               samples/s and memory at the paper's setting, of any preset
  dare bench search              time of the search alone, against width and history length
  dare bench serve               time of one request's search: vectors of 8 to 128, 32 to 8 bits
  dare bench exchange            bytes between ranks, representation pooled and not
  dare bench prepare             time and memory of preparing a large log

`dare COMMAND --help` explains a command and every option. Two to start with:
  dare prepare synthetic --out data/synthetic
  dare train --config launch/recipes/synthetic_dare.yaml
"""

_WITHOUT_TORCH = ("doctor", "prepare", "runs")
"""Commands that need not load it, or tell what is wrong where it does not load."""
_TOLD = (ArgumentError, ImportError, MemoryError, ValueError, RuntimeError, OSError)
"""Errors that end a command in words; others are mistakes of this program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a failure, also where the doctor found errors or one of several
        runs failed, 2 for a user's mistake, 124 for a run that hung, 130 for Ctrl-C, 143 for
        SIGTERM.
    """
    apply_host_settings()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    known: dict[str, Callable[[list[str]], int]] = {
        "doctor": commands.doctor,
        "prepare": commands.prepare,
        "plan": commands.plan,
        "train": commands.train,
        "evaluate": commands.evaluate,
        "export": commands.export,
        "replay": commands.replay,
        "analyze": commands.analyze,
        "sweep": commands.sweep,
        "compare": commands.compare,
        "runs": commands.runs,
        "bench": commands.bench,
    }
    command = arguments[0] if arguments else "--help"
    try:
        if command in ("-h", "--help"):
            print(_INTRODUCTION)
            return 0
        if command not in known:
            print(
                f"dare: error: {command!r} is no command; commands are {', '.join(known)}",
                file=sys.stderr,
            )
            return 2
        if command not in _WITHOUT_TORCH and "torch" not in sys.modules:
            load_torch()
        return known[command](arguments[1:])
    except KeyboardInterrupt:
        print(f"dare {command}: interrupted; what is written stays", file=sys.stderr)
        return 130
    except _TOLD as error:
        if os.environ.get("DARE_TRACEBACK"):
            raise
        text = _in_words(error, command)
        tells, code = last_words(error, text)
        for line in text.splitlines() if tells else ():
            print(f"dare {command}: error: {line}", file=sys.stderr)
        return code


def load_torch() -> None:
    """Import what everything that trains needs.

    All of it stays, so that the garbage collector would look through it again and again for
    nothing, which takes a fifth of the time of a start.
    """
    gc.disable()
    try:
        import trainer.arguments  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def _in_words(error: Exception, command: str) -> str:
    if isinstance(error, ArgumentError):
        return f"{in_one_line(error)} (`dare {command} --help` explains all)"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".removesuffix(": ")
    # FBGEMM's libraries do not load where CUDA's build finds no driver, or both are there.
    if does_not_load(error):
        return f"{first_line(error)}\n`dare doctor` says what does not fit, and what to do"
    return str(error)
