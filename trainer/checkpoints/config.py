"""When checkpoints are written, where, and which stay: the config's part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, where, and which stay."""

    every: int = 0
    """Steps between checkpoints; 0 for none by steps. Before each evaluation one is written too, so
    that the best can be kept, and one at the end of training."""
    keep_last: int = 2
    """Newest checkpoints that stay; the best by validation AUC stays too."""
    folder: str = ""
    """A local folder, or a URL of a scheme that fsspec knows, such as s3://bucket/run; empty for
    `<out_dir>/<name>/checkpoints`. It is for one run, by its name."""
    asynchronous: bool = False
    """Copy the state and write it while training goes on; takes a second time its memory. What
    goes wrong ends the run at the next checkpoint, or at its end."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every is {self.every}; it must be 0 or more")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last is {self.keep_last}; it must be at least 1")
