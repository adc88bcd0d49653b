"""What decides a run's result besides its options: the files it reads, and the version."""

import importlib.metadata
import shutil

import pytest

from tests.unit.trainer.sweep.datasets import leave_schema
from trainer.sweep.grid import Dataset
from trainer.sweep.runs import read_run


@pytest.fixture
def home(tmp_path):
    """A dataset of two files for training and one of each other split."""
    leave_schema(
        tmp_path / "d", train=["0.parquet", "1.parquet"], val=["0.parquet"], test=["0.parquet"]
    )
    return tmp_path / "d"


def asked_of(folder, *options):
    places = Dataset("d", str(folder)).options()
    return read_run([*(f"--{name}={value}" for name, value in places.items()), *options])


def unlike(first, second):
    """Names of what is another."""
    return {name for name in first.keys() | second if first.get(name) != second.get(name)}


def test_a_run_asks_for_the_files_of_each_split_by_digest(home):
    asked = asked_of(home)
    assert asked["data.train"] == {
        "train/0.parquet": "digest of train/0.parquet",
        "train/1.parquet": "digest of train/1.parquet",
    }
    assert asked["data.val"] == {"val/0.parquet": "digest of val/0.parquet"}
    assert asked["data.test"] == {"test/0.parquet": "digest of test/0.parquet"}
    assert "data.schema" not in asked


def test_without_a_test_split_it_is_another_run(home):
    without = asked_of(home, "--data.test=")
    assert without["data.test"] == {}
    assert unlike(asked_of(home), without) == {"data.test"}


def test_other_files_for_training_are_another_run(home, tmp_path):
    one = asked_of(home, f"--data.train={home}/train/1.parquet")
    assert one["data.train"] == {"train/1.parquet": "digest of train/1.parquet"}
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "0.parquet"
    other.write_bytes(b"abcde")
    elsewhere = asked_of(home, f"--data.train={tmp_path / 'other'}")
    assert elsewhere["data.train"] == {str(other.resolve()): 5}
    for changed in (one, elsewhere):
        assert unlike(asked_of(home), changed) == {"data.train"}
    other.write_bytes(b"abcdef")
    assert asked_of(home, f"--data.train={tmp_path / 'other'}")["data.train"] == {str(other): 6}
    (home / "train" / "2.parquet").write_bytes(b"ab")
    assert asked_of(home)["data.train"]["train/2.parquet"] == 2


def test_a_dataset_that_was_moved_is_the_same(home, tmp_path, monkeypatch):
    before = asked_of(home)
    shutil.move(home, tmp_path / "e")
    assert asked_of(tmp_path / "e") == before
    monkeypatch.chdir(tmp_path / "e")
    assert asked_of(".") == before
    names = [f"--data.{split}={split}" for split in ("train", "val", "test")]
    assert read_run(["--data.schema=schema.json", *names]) == before


def test_every_split_without_files_is_told(home):
    for split in ("train", "test"):
        shutil.rmtree(home / split)
    with pytest.raises(ValueError, match=r"no \.parquet file is there") as error:
        asked_of(home)
    assert [line.split(";")[0] for line in str(error.value).splitlines()] == [
        f"data.{split}: {home}/{split}: no .parquet file is there" for split in ("train", "test")
    ]


def test_a_run_asks_for_this_version(home):
    assert asked_of(home)["version"] == importlib.metadata.version("dare-torchrec")
