"""What a checkpoint says of itself: its step, its files and their digests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = 2
MANIFEST_FILE = "manifest.json"
SCORES_FILE = "metrics.json"
"""What the evaluation of a complete checkpoint found, in a file of its own beside the manifest: a
write that is cut short costs the scores, which can be made up, and not the checkpoint."""
_DIGEST = "digest"
_SHA256 = re.compile("[0-9a-f]{64}")


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
    """Of the evaluation at this step; empty where there was none. Earlier versions wrote them here,
    now they are read from beside it."""
    files: dict[str, FileDigest] = dataclasses.field(default_factory=dict)
    """All files but this one and the scores, by name."""
    run: str = ""
    """Name of the run; empty in checkpoints of before it was told."""
    format: int = FORMAT

    def to_json(self) -> str:
        """The manifest as `parse_manifest` reads it, with a digest of itself."""
        content = dataclasses.asdict(self)
        return json.dumps(content | {_DIGEST: _digest(content)}, indent=1) + "\n"


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


def parse_manifest(content: bytes, path: str) -> Manifest:
    """Read a manifest.

    Args:
        content: JSON.
        path: where it is from, for messages.

    Raises:
        DamagedCheckpointError: it is no manifest, or not what was written.
        ValueError: it has another format.
    """
    try:
        raw = json.loads(content)
        if not isinstance(raw, dict):
            raise TypeError(f"it holds {type(raw).__name__}, not an object")
        # Manifests of before it have none.
        if (told := raw.pop(_DIGEST, None)) is not None and told != _digest(raw):
            raise ValueError("it does not hold what was written")
        found = raw["format"]
        if found == FORMAT:
            return _manifest(raw, path)
    except DamagedCheckpointError:
        raise
    except KeyError as error:
        raise DamagedCheckpointError(f"{path} is damaged: it has no {error.args[0]}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}") from error
    raise ValueError(
        f"{path} has format {str(found)[:40]}; this version reads {FORMAT}: go on with the version "
        "that wrote it, or start a new run"
    )


def scores_to_json(metrics: Mapping[str, float], manifest: bytes) -> str:
    """What `SCORES_FILE` holds.

    Args:
        metrics: all finite.
        manifest: what the checkpoint's own holds; scores are of no other.
    """
    content = {"metrics": dict(metrics), "manifest": hashlib.sha256(manifest).hexdigest()}
    return json.dumps(content | {_DIGEST: _digest(content)}, indent=1) + "\n"


def parse_scores(content: bytes, manifest: bytes) -> dict[str, float] | None:
    """Read what `scores_to_json` wrote.

    Args:
        content: JSON.
        manifest: what the checkpoint's own holds.

    Returns:
        The metrics; None where the file is not what was written, or is of another checkpoint.
    """
    try:
        raw = json.loads(content)
        metrics, told = dict(raw["metrics"]), raw.pop(_DIGEST)
        its_own = raw["manifest"] == hashlib.sha256(manifest).hexdigest()
        sound = told == _digest(raw) and its_own and all(map(_is_number, metrics.values()))
        return metrics if sound else None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _digest(content: dict[str, Any]) -> str:
    """Of all that a manifest says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifest(raw: dict[str, Any], path: str) -> Manifest:
    """The manifest that a JSON object is, each field as it must be.

    Raises:
        DamagedCheckpointError: it names a file outside its folder.
        KeyError: a field is not there.
        TypeError: one is not known.
        ValueError: one has a value that it cannot have.
    """
    for name, least in (("step", 0), ("samples", 0), ("world", 1)):
        _check(_is_count(raw[name], least), name, raw)
    _check(_is_number(raw["seconds"]) and raw["seconds"] >= 0, "seconds", raw)
    named, scores, digests = raw["optimizers"], raw["metrics"], raw["files"]
    _check(isinstance(named, dict) and set(named) == {"sparse", "dense"}, "optimizers", raw)
    _check(all(isinstance(name, str) for name in named.values()), "optimizers", raw)
    _check(isinstance(scores, dict) and all(map(_is_number, scores.values())), "metrics", raw)
    _check(isinstance(raw.get("run", ""), str), "run", raw)
    _check(isinstance(digests, dict) and len(digests) > 0, "files", raw)
    files = {name: FileDigest(**digest) for name, digest in digests.items()}
    for name, digest in files.items():
        check_file_name(name, path)
        _check(_is_count(digest.bytes, 0) and _is_sha256(digest.sha256), "files", raw)
    return Manifest(**{**raw, "files": files})


def _check(holds: bool, name: str, raw: dict[str, Any]) -> None:
    if not holds:
        raise ValueError(f"{name} is {str(raw[name])[:200]}")


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least  # True is no number.


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
