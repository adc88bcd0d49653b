"""Parquet that is wrong from the start: one line with file, row and column, and nothing is written.

What a row can have wrong is told by file and row in `tests/unit/pipelines/test_parquet.py`; here it
is told through the commands. What goes wrong once a run has begun is in `test_data_that_breaks.py`.
"""

import shutil

import pyarrow as pa
import pytest

from tests.broken_data import (
    FILES,
    ROW,
    options_of,
    prepare_files,
    rows,
    table,
    with_row,
    with_type,
)
from tests.broken_data import write as write_table
from tests.commands import dare, dare_without_report

NAME = "part-2.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {layout: prepare_files(folder / layout, layout) for layout in ("user", "request")}


@pytest.fixture
def copy(whole, tmp_path):
    return lambda layout: shutil.copytree(whole[layout], tmp_path / "data")


def write(content):
    return lambda path: write_table(path, content)


def label(value):
    return write(with_row("user", lambda row: row["requests"][0].update(label=[value, 0.0])))


def row(**fields):
    return write(with_row("user", lambda row: row.update(fields)))


def request(**fields):
    def change(row):
        row["requests"] = [dict(row["requests"][0], **fields)]

    return write(with_row("user", change))


def request_row(**fields):
    return write(with_row("request", lambda row: row.update(fields)))


def twice(path):
    whole = table("user")
    names = [*whole.column_names, "item"]
    write_table(path, pa.Table.from_arrays([*whole.columns, whole["item"]], names=names))


def without_category(path):
    entries = [
        [{name: v for name, v in entry.items() if name != "category"} for entry in row["requests"]]
        for row in rows("user")
    ]
    write_table(path, table("user").set_column(4, "requests", pa.array(entries)))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path):
    path.unlink()
    path.symlink_to("nowhere.parquet")


UNREADABLE = {
    "cut off": (cut_off, "is not a readable parquet file: Parquet magic bytes not found"),
    "halved": (halved, "is not a readable parquet file: Parquet magic bytes not found"),
    "empty": (lambda path: path.write_bytes(b""), "Parquet file size is 0 bytes; put the whole"),
    "no parquet": (lambda path: path.write_text("user,item\n1,2\n"), "magic bytes not found"),
    "a folder": (a_folder, "is not a readable parquet file: Is a directory; put the whole file"),
    "a link to nothing": (a_link_to_nothing, "is not a readable parquet file: No such file"),
    "no columns": (write(pa.table({})), "has no column user_id, which data.layout user needs; it"),
    "a column missing": (write(table("user").drop_columns("category")), "has no column category"),
    "a column twice": (twice, "has 2 columns item; it must have one"),
    "a field missing": (without_category, "with no field category; it needs one"),
    "text ids": (
        write(with_type("user", "item", pa.list_(pa.string()), ["1", "2", "3", "4"])),
        "column item is list<element: string>, it needs list<item: int64>; cast it",
    ),
    "text users": (
        write(with_type("user", "user_id", pa.string(), "seven")),
        "column user_id is string, it needs int64; cast it",
    ),
    "decimal ids": (
        write(with_type("user", "item", pa.list_(pa.float64()))),
        "column item is list<element: double>, it needs list<item: int64>",
    ),
    "lists of one length": (
        write(with_type("user", "item", pa.list_(pa.int64(), 4))),
        "column item is fixed_size_list<element: int64>[4], it needs list<item: int64>; cast it",
    ),
    "labels of true and false": (
        write(with_type("user", "requests.label", pa.list_(pa.bool_()), [True, False])),
        "column requests.label is list<element: bool>, it needs list<item: float>; cast it",
    ),
    "a fraction of a behaviour": (
        write(with_type("user", "requests.history_end", pa.float32())),
        "column requests.history_end is float, it needs int32; cast it",
    ),
    "times with a type": (
        write(with_type("user", "timestamp", pa.list_(pa.timestamp("s")), [1, 2, 3, 4])),
        "column timestamp is list<element: timestamp[ms]>, it needs list<item: int64>",
    ),
}
ROWS = {
    "a null in a list": (row(item=[1, None, 3, 4]), "item has a null; every entry needs a value"),
    "a null of a list": (row(category=None), "category is null; an empty list is allowed"),
    "a null of a user": (row(user_id=None), "user_id has a null; every entry needs a value"),
    "a null of a request": (row(requests=[None]), "requests.item is null; an empty list is"),
    "a null in a request": (request(history_end=None), "requests.history_end has a null"),
    "a label of nan": (label(float("nan")), "requests.label is nan; it must be from 0 to 1"),
    "an infinite label": (label(float("inf")), "requests.label is inf; it must be from 0 to 1"),
    "a label of 2": (label(2.0), "requests.label is 2.0; it must be from 0 to 1"),
    "a label below 0": (label(-0.25), "requests.label is -0.25; it must be from 0 to 1"),
    "a label just above 1": (
        write(with_type("user", "requests.label", pa.list_(pa.float64()), [1 + 1e-12, 0.0])),
        "requests.label is 1.000000000001; it must be from 0 to 1",
    ),
    "an unsigned id too large": (
        write(with_type("user", "item", pa.list_(pa.uint64()), [1, 2, 3, 2**63 + 5])),
        "item has 9223372036854775813; integers go to 9223372036854775807: make them int64",
    ),
    "a history beyond the life": (
        request(history_end=5),
        "requests.history_end is 5, the life has 4 behaviours",
    ),
    "a history of -1": (request(history_end=-1), "requests.history_end is -1, the life has 4"),
    "unequal lists": (row(item=[1, 2, 3]), "item has 3 entries, category 4; they must be equally"),
    "unequal targets": (request(label=[1.0]), "requests.item has 2 entries, requests.label 1"),
}
REQUEST_ROWS = {
    "a null of a list": (request_row(history_item=None), "history_item is null; an empty list is"),
    "unequal lists": (request_row(history_item=[1]), "history_item has 1 entries, history_categ"),
    "a label of nan": (request_row(label=[float("nan"), 0.0]), "label is nan; it must be from 0"),
}
IDS = {
    "a negative id": (row(category=[1, -2, 3, 4]), "category has id -2, the category table has 5"),
    "a huge id": (row(item=[1, 2, 3, 2**62]), "item has id 4611686018427387904, the item table"),
}
ROWS_OF_ALL = [("user", name, *ROWS[name]) for name in ROWS]
ROWS_OF_ALL += [("request", name, *REQUEST_ROWS[name]) for name in REQUEST_ROWS]


def _train(folder, layout, out, *options):
    return dare("train", *options_of(folder, layout), f"--out_dir={out}", *options)


def _told(outcome):
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    return line.partition("error: ")[2]


def _described(folder, layout):
    (folder / "schema.json").unlink()
    return dare("prepare", "parquet", f"--out={folder}", f"--layout={layout}")


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_before_anything_is_written(copy, tmp_path, fault):
    folder = copy("user")
    file = folder / "train" / NAME
    breaks, problem = UNREADABLE[fault]
    breaks(file)
    told = _told(_train(folder, "user", tmp_path / "runs"))
    assert told.startswith(f"data.train: {file}")
    assert problem in told
    assert not (tmp_path / "runs").exists()
    told = _told(_described(folder, "user"))
    assert told.startswith(str(file))
    assert problem in told
    assert not (folder / "schema.json").exists()


def test_a_file_that_is_gone_is_missed_by_its_schema(copy, tmp_path):
    folder = copy("user")
    file = folder / "train" / NAME
    file.unlink()
    told = _told(_train(folder, "user", tmp_path / "runs"))
    assert told.startswith(f"data.train: {file} is missing; {folder / 'schema.json'} lists it with")
    assert not (tmp_path / "runs").exists()
    shutil.rmtree(folder / "test")
    told = _told(_train(folder, "user", tmp_path / "runs"))
    assert told.startswith(f"data.train: {file} is missing")
    write_table(file, table("user"))
    assert "data.test: " in _told(_train(folder, "user", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kept", [0, 20])
def test_a_file_with_fewer_rows_than_its_schema_says_is_told(copy, tmp_path, kept):
    folder = copy("user")
    file = folder / "val" / "part-0.parquet"
    write_table(file, table("user").slice(0, kept))
    told = _told(_train(folder, "user", tmp_path / "runs"))
    assert told.startswith(f"data.val: {file} has {kept} rows; {folder / 'schema.json'} lists it w")
    assert not (tmp_path / "runs").exists()


def test_one_of_the_files_alone_can_be_meant(copy, tmp_path):
    folder = copy("user")
    options = [*options_of(folder, "user"), f"--out_dir={tmp_path}", "--data.batch_size=64"]
    options += [f"--data.train={folder}/train/part-[0].parquet"]
    assert dare_without_report("train", *options).result["samples"] == 24 * 2 * 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["a null of a request", "a label of nan", *IDS])
def test_training_names_a_row_that_is_wrong(copy, tmp_path, workers, fault):
    """The readers are those of `test_describing_names_a_row_that_is_wrong_and_writes_nothing`."""
    breaks, problem = (ROWS | IDS)[fault]
    folder = copy("user")
    file = folder / "train" / NAME
    breaks(file)
    told = _told(_train(folder, "user", tmp_path, f"--data.workers={workers}"))
    assert told.startswith(f"{file} row {ROW}: {problem}")


@pytest.mark.parametrize(("layout", "fault", "breaks", "problem"), ROWS_OF_ALL)
def test_describing_names_a_row_that_is_wrong_and_writes_nothing(
    copy, layout, fault, breaks, problem
):
    folder = copy(layout)
    file = folder / "train" / NAME
    breaks(file)
    told = _told(_described(folder, layout))
    where = 0 if "just above" in fault or "unsigned" in fault else ROW
    assert told.startswith(f"{file} row {where}: {problem}")
    assert not (folder / "schema.json").exists()


def _result(folder, out):
    options = [*options_of(folder, "user"), f"--out_dir={out}", "--loop.steps=30"]
    result = dare_without_report("train", *options).result
    return {name: result[name] for name in ("auc", "logloss", "samples")}


@pytest.fixture(scope="module")
def plain(whole, tmp_path_factory):
    return _result(whole["user"], tmp_path_factory.mktemp("plain"))


TYPES = [
    ("item", pa.list_(pa.int32()), None),
    ("category", pa.list_(pa.uint8()), None),
    ("item", pa.large_list(pa.uint64()), None),
    ("item", pa.list_(pa.dictionary(pa.int8(), pa.int64())), None),
    ("requests.label", pa.list_(pa.float64()), None),
    ("requests.label", pa.list_(pa.float16()), None),
    ("requests.label", pa.list_(pa.int8()), [1, 0]),
    ("requests.history_end", pa.int64(), None),
    ("user_id", pa.int16(), None),
]


@pytest.mark.parametrize("first", range(0, len(TYPES), FILES))
def test_types_that_hold_the_same_numbers_train_to_the_same_result(copy, tmp_path, plain, first):
    folder = copy("user")
    for number, narrow in enumerate(TYPES[first : first + FILES]):
        write_table(folder / "train" / f"part-{number}.parquet", with_type("user", *narrow))
    assert _result(folder, tmp_path / "runs") == plain
    assert _described(folder, "user").code == 0


def test_files_of_other_programs_in_the_folder_change_nothing(copy, tmp_path, plain):
    folder = copy("user")
    for name in ("_SUCCESS", "README.txt", "._part-0.parquet", "_metadata.parquet"):
        (folder / "train" / name).write_text("no data")
    (folder / "train" / "_temporary").mkdir()
    (folder / "train" / "part-9.parquet.tmp").write_bytes(b"half")
    assert _result(folder, tmp_path / "runs") == plain
    assert _described(folder, "user").code == 0


def test_requests_without_targets_are_left_out_and_all_others_train(copy, tmp_path):
    folder = copy("user")
    request(item=[], category=[], label=[])(folder / "train" / NAME)
    assert _described(folder, "user").code == 0
    options = [*options_of(folder, "user"), f"--out_dir={tmp_path}", "--data.batch_size=64"]
    result = dare_without_report("train", *options).result
    assert result["samples"] == FILES * 24 * 2 * 2 - 2 * 2


def test_histories_out_of_order_are_counted_and_newest_first_is_refused(copy):
    folder = copy("user")
    for split in ("train", "val", "test"):
        for file in (folder / split).iterdir():
            write_table(file, with_type("user", "timestamp", pa.list_(pa.int64()), [4, 3, 2, 1]))
    told = _told(_described_again(folder))
    assert "histories are newest first, the timestamps of all 288 fall; a history is old" in told
    assert not (folder / "schema.json").exists()
    row(timestamp=[1, 3, 2, 4])(folder / "train" / NAME)
    outcome = _described_again(folder)
    # Of six files one is new: five of 24 users are as before, and two requests of its row 5.
    assert outcome.code == 0
    assert "242 requests have a history that is not in order of its timestamps" in outcome.err


def _described_again(folder):
    (folder / "schema.json").unlink(missing_ok=True)
    return dare("prepare", "parquet", f"--out={folder}")


def test_a_file_that_may_not_be_read_is_named(copy, tmp_path, monkeypatch):
    """The superuser, who may run these tests, may read everything."""
    folder = copy("user")
    file = str(folder / "train" / NAME)

    def refused(path, mode="r"):
        if path == file:
            raise PermissionError(13, "Permission denied", path)
        return opens(path, mode)

    from pipelines import storage

    opens = storage.open_file
    monkeypatch.setattr(storage, "open_file", refused)
    for outcome in (_train(folder, "user", tmp_path / "runs"), _described(folder, "user")):
        assert f"{file} is not a readable parquet file: Permission denied; put" in _told(outcome)
    assert not (tmp_path / "runs").exists()
