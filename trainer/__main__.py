"""`python -m trainer` is `dare`: the form that torchrun starts."""

import atexit
import os
import signal
import sys

from trainer.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is written and closed. While Python takes itself down, a group's threads ended
        # about one process in twenty with SIGABRT (torch 2.13, gloo), which fails the whole job.
        # A Ctrl-C that comes so late would only cut that short, with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
