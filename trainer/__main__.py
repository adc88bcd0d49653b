"""`python -m trainer` is `dare`: the form that torchrun starts."""

import sys

from trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
