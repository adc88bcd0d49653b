"""`python -m trainer` is `dare`: the form that torchrun starts."""

from trainer.start import run

if __name__ == "__main__":
    run()
