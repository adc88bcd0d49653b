"""Compiled loops run wherever the program does, also where what is compiled cannot be kept."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from modules import compiling
from modules.compiling import compiled


def _double(value_N: Any) -> None:
    for n in range(value_N.size):
        value_N[n] *= 2


def _doubles(function: Callable[..., None]) -> bool:
    value_N = np.array([1.0, 2.0])
    function(value_N)
    return bool(value_N.tolist() == [2.0, 4.0])


def _hits(function: Any) -> int:
    return sum(function.stats.cache_hits.values())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_what_is_compiled_is_there_for_the_next_process() -> None:
    first, second = compiled(_double), compiled(_double)
    assert _doubles(first)
    assert _doubles(second)
    assert (_hits(first), _hits(second)) == (0, 1)


def test_a_change_of_what_is_compiled_into_all_loops_compiles_them_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _doubles(compiled(_double))
    monkeypatch.setattr(compiling, "_sources", lambda: "other flags")
    other = compiled(_double)
    assert _doubles(other)
    assert _hits(other) == 0


def test_loops_run_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a root that is read-only, and a user without a home."""
    # The one place left to look for is a zip file that the program was imported from.
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "ZipCacheLocator")
    assert _doubles(compiled(_double))


@pytest.mark.parametrize("method", ["load", "save"])
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES])
def test_loops_run_where_the_folder_is_full_or_another_users(
    monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(IndexDataCacheFile, method, fail)
    assert _doubles(compiled(_double))


@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
def test_what_was_kept_and_is_damaged_is_compiled_and_kept_anew(folder: Path, pattern: str) -> None:
    assert _doubles(compiled(_double))
    (file,) = folder.rglob(pattern)
    file.write_bytes(file.read_bytes()[: 20 if pattern == "*.nbc" else 0])
    assert _doubles(compiled(_double))
    after = compiled(_double)
    assert _doubles(after)
    assert _hits(after) == 1
