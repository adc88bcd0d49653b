import io
from pathlib import Path
from typing import IO, Any

import pytest
from iopath.common.file_io import PathHandler

from pipelines import storage
from pipelines.lockstep import BatchStream
from pipelines.row_groups import list_row_groups
from pipelines.stream import RequestDataset
from tests.split_files import (
    draw_users,
    expected_requests,
    requests_of,
    sorted_requests,
    stream_config,
    write_users,
)


class MemoryHandler(PathHandler):  # type: ignore[misc]
    """Files of `memory://`, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.opened: list[str] = []

    def _get_supported_prefixes(self) -> list[str]:
        return ["memory://"]

    def _open(self, path: str, mode: str = "r", *_args: Any, **_options: Any) -> IO[Any]:
        assert mode == "rb"
        self.opened.append(path)
        return io.BytesIO(self.files[path])

    def _exists(self, path: str, **_options: Any) -> bool:
        return path in self.files or self._isdir(path)

    def _isdir(self, path: str, **_options: Any) -> bool:
        return any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def _ls(self, path: str, **_options: Any) -> list[str]:
        start = path.rstrip("/") + "/"
        return [name.removeprefix(start) for name in self.files if name.startswith(start)]


@pytest.fixture(scope="module")
def memory() -> MemoryHandler:
    handler = MemoryHandler()
    storage.register_handler(handler)
    return handler


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in ("b-1.parquet", "a-2.parquet", "a-10.parquet", "_SUCCESS", "schema.json"):
        (tmp_path / name).write_text("x")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a-10.parquet", "a-2.parquet", "b-1.parquet"]),
        ("/", ["a-10.parquet", "a-2.parquet", "b-1.parquet"]),
        ("/a-*.parquet", ["a-10.parquet", "a-2.parquet"]),
        ("/?-1.parquet", ["b-1.parquet"]),
        ("/b-[0-9].parquet", ["b-1.parquet"]),
        ("/b-1.parquet", ["b-1.parquet"]),
    ],
)
def test_a_folder_a_glob_and_a_file_are_found_in_name_order(
    folder: str, pattern: str, found: list[str]
) -> None:
    assert storage.find(folder + pattern) == [f"{folder}/{name}" for name in found]


def test_a_glob_in_the_working_folder_is_found(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert storage.find("a-*.parquet") == ["a-10.parquet", "a-2.parquet"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    (tmp_path / "part[1].parquet").write_text("x")
    (tmp_path / "part1.parquet").write_text("x")
    assert storage.find(f"{tmp_path}/part[1].parquet") == [f"{tmp_path}/part[1].parquet"]


@pytest.mark.parametrize("pattern", ["/none.parquet", "/c-*.parquet", "/none/*.parquet", "/empty"])
def test_nothing_found_names_what_was_given_and_what_is_possible(
    tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.parquet file is there; give a file, a folder or"):
        storage.find(f"{tmp_path}{pattern}")


def test_a_whole_split_is_read_through_a_registered_scheme(
    tmp_path: Path, memory: MemoryHandler
) -> None:
    users = draw_users(30)
    for part, some in enumerate((users[:20], users[20:])):
        path = write_users(tmp_path / "part.parquet", some)
        memory.files[f"memory://bucket/train/part-{part}.parquet"] = Path(path).read_bytes()
    memory.files["memory://bucket/train/_SUCCESS"] = b""
    groups = list_row_groups("memory://bucket/train", "user")
    assert groups == list_row_groups("memory://bucket/train/part-*.parquet", "user")
    dataset = RequestDataset(groups, stream_config(), rank=0, world=1)
    stream = BatchStream(dataset, workers=0, epochs=1, group=None, pin_memory=False)
    assert sorted_requests(requests_of(stream)) == expected_requests(users, 5)
    assert set(memory.opened) == {f"memory://bucket/train/part-{part}.parquet" for part in (0, 1)}
