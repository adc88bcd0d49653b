"""What a checkpoint says of itself: its step, its files and their digests."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

FORMAT = 2
MANIFEST_FILE = "manifest.json"


class DamagedCheckpointError(ValueError):
    """A checkpoint's files are not what was written."""


@dataclass(frozen=True)
class FileDigest:
    """What was written to a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete checkpoint says of itself; its presence makes it complete."""

    step: int
    samples: int
    """Targets trained, over all ranks."""
    world: int
    seconds: float
    """Spent training, over all resumed runs."""
    optimizers: dict[str, str]
    """Names of the `sparse` and of the `dense` optimizer."""
    metrics: dict[str, float]
    """Of the evaluation at this step; empty where there was none."""
    files: dict[str, FileDigest] = dataclasses.field(default_factory=dict)
    """All files but this one, by name."""
    run: str = ""
    """Name of the run; empty in checkpoints of before it was told."""
    format: int = FORMAT

    def to_json(self) -> str:
        """The manifest as `parse_manifest` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def check_file_name(name: str, path: str) -> None:
    """Refuse what would lead out of a checkpoint's folder.

    Args:
        name: of a file of a checkpoint.
        path: of the file that names it, for the message.

    Raises:
        DamagedCheckpointError: it is no plain name.
    """
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise DamagedCheckpointError(f"{path} names {name!r}, which is no file of a checkpoint")


def parse_manifest(text: str, path: str) -> Manifest:
    """Read a manifest.

    Args:
        text: JSON.
        path: where it is from, for messages.

    Raises:
        DamagedCheckpointError: it is no manifest.
        ValueError: it has another format.
    """
    try:
        raw = json.loads(text)
        found = raw["format"]
        if found == FORMAT:
            files = {name: FileDigest(**digest) for name, digest in raw["files"].items()}
            for name in files:
                check_file_name(name, path)
            return Manifest(**{**raw, "files": files})
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}") from error
    raise ValueError(
        f"{path} has format {found}; this version reads {FORMAT}: go on with the version that "
        "wrote it, or start a new run"
    )
