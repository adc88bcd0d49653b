"""`python -m launch.agent`: what a job of `launch/components.py` runs on each host.

The first host's address is known on the hosts only, in a variable that each scheduler names
differently. A shell would expand it; this does so without one, so that nothing a user gave is ever
read as a command. Arguments come percent-encoded, for schedulers have spellings of their own too:
`$x` of TorchX, `$(X)` of Kubernetes, `Ref::x` of AWS Batch, commas in Slurm's `--export`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from urllib.parse import unquote


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the module that the arguments name, in the same process.

    Args:
        arguments: `[--host-variable NAME --port PORT] [--env NAME=VALUE ...] MODULE ARGUMENT ...`,
            percent-encoded but for the options' names.
    """
    parser = argparse.ArgumentParser(prog="python -m launch.agent", allow_abbrev=False)
    parser.add_argument("--host-variable", help="variable that holds the first host's address")
    parser.add_argument("--port", type=int, help="where the first host's rendezvous listens")
    parser.add_argument("--env", action="append", default=[], help="a variable to set")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a module and its arguments")
    given = parser.parse_args(arguments)
    module, *rest = [unquote(word) for word in given.command]
    if given.host_variable is not None:
        # AWS Batch sets it on all hosts but the first, which then is this one.
        host = os.environ.get(given.host_variable) or "localhost"
        rest = [f"--rdzv-endpoint={host}:{given.port}", *rest]
    variables = dict(unquote(pair).split("=", 1) for pair in given.env)
    sys.stdout.flush()
    # The same process, so that signals of the scheduler reach the module itself.
    os.execve(sys.executable, [sys.executable, "-m", module, *rest], {**os.environ, **variables})


if __name__ == "__main__":
    main()
