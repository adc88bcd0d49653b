"""A user's mistake costs one line on stderr, exit code 2, and nothing that was there before."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import dare, data_options, prepare_small
from trainer.cli import main

PLANS = {
    "unknown-table": "tables: {attention_itm: {sharding_types: [row_wise]}}",
    "unknown-type": "tables: {attention_item: {sharding_types: [rowwise]}}",
    "no-tables": "tables: [1]",
    "no-yaml": "tables: [1",
}
CONFIGS = {
    "no-yaml": ("name: [a", "parsing"),
    "a-list": ("- 1\n- 2", "map"),
    "a-text": ("hello there", "map"),
    "empty": ("", "map"),
    "wrong-type": ("loop: {epochs: many}", "loop.epochs is many; it must be int"),
    "unknown-field": ("loop: {epoch: 3}", "epoch"),
    "unknown-section": ("looop: {epochs: 3}", "looop"),
}


def _told(outcome):
    """The one line of an outcome that is a mistake."""
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "commands are doctor, prepare, plan, train"),
        (["train", "--frob", "1"], "--frob"),
        (["train", "--loop.epoch", "3"], "--loop.epoch"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["prepare"], "{synthetic,taobao,tmall,movielens,csv, ...}"),
        (["prepare", "amazon"], "'amazon'"),
        (["prepare", "synthetic"], "--out"),
        (["prepare", "synthetic", "--out", "x", "--users", "-1"], "--users is -1"),
        (["prepare", "synthetic", "--out", "x", "--interests", "3000000"], "from 1 to 262144"),
        (["prepare", "synthetic", "--out", "x", "--session_length", ".inf"], "_length is inf"),
        (["prepare", "taobao", "--raw", "nowhere.csv", "--out", "x"], "--raw is nowhere.csv"),
        (["compare", "--config", "nowhere.yaml", "--out", "x"], "nowhere.yaml"),
        (["compare", "--presets", "[sim]"], "one of 'dare', 'twin'"),
        (["compare", "--presets", "[]"], "--presets is empty"),
        (["compare", "--agreements", "[]"], "--agreements is empty"),
        (["compare", "--agreements", "[0.5, 0.50]"], "--agreements has 0.5 twice"),
        (["compare", "--seeds", "[]"], "--seeds is empty"),
        (["bench", "all", "--sections", "[speed]"], "'step', 'levers'"),
        (["bench", "all", "--seconds", "0"], "--seconds is 0.0; it must be above 0"),
        (["bench", "all", "--repeats", "0"], "--repeats is 0"),
        (["bench", "all", "--ranks", "[]"], "--ranks is empty"),
        (["bench", "all", "--history_lengths", "[200, 0]"], "--history_lengths is 0"),
        (["bench", "check", "--repeats", "0"], "--repeats is 0"),
        (["bench", "train", "--preset", "sim"], "one of 'dare', 'twin'"),
        (["bench", "train", "--steps", "0"], "--steps is 0"),
        (["bench", "train", "--sparse_optimizer", "lion", "--items", "9"], "'rowwise_adagrad'"),
        (["bench", "train", "--targets", "0"], "--targets is 0; it must be at least 1"),
        (["bench", "train", "--history_length", "0"], "--history_length is 0"),
        (["bench", "train", "--targets", "65", "--batch_size", "64"], "--batch_size 64"),
        (["bench", "train", "--top_k", "9", "--history_length", "8"], "--history_length 8"),
        (["bench", "train", "--width", "7", "--items", "9"], "multiple of 4"),
        (["bench", "train", "--folder", "nowhere"], "nowhere"),
        (["bench", "search", "--top_k", "0"], "--top_k is 0"),
        (["bench", "search", "--top_k", "300"], "--top_k is 300"),
        (["bench", "search", "--widths", "[]"], "--widths is []"),
        (["bench", "search", "--widths", "[7]"], "multiple of 4"),
        (["bench", "search", "--preset", "sdim", "--rows", "9"], "--preset is sdim"),
        (["sweep", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["sweep"], "--config is needed"),
        (["sweep", "--config", "nowhere.yaml", "--seeds", "x"], "--seeds is x"),
        (["bench", "prepare", "--rows_a_user", "0"], "--rows_a_user is 0"),
        (["bench", "prepare", "--rows", "0"], "--rows is 0"),
        (["doctor", "--deep"], "--deep"),
    ],
)
def test_a_wrong_command_is_told_in_a_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in _told(dare(*arguments))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.preset=sim", "one of 'dare', 'twin'"),
        ("--model.search.top_k=30", "top_k is 30 but data.history_length is 20"),
        ("--data.schema=nowhere.json", "nowhere.json"),
        ("--data.train=nowhere", "data.train: nowhere"),
        ("--data.val=nowhere", "data.val: nowhere"),
        ("--data.test=nowhere", "data.test: nowhere"),
        ("--data.val=", "data.val is empty"),
        ("--data.layout=request", "data.layout is request"),
        ("--data.item_rows=50", "give at least 101"),
        ("--sharding.plan=nowhere.yaml", "nowhere.yaml"),
        ("--name=a/b", "no slash"),
        ("--seed=-1", "seed is -1"),
        ("--loop.epochs=-1", "loop.epochs is -1"),
        ("--data.batch_size=0", "data.batch_size is 0"),
        ("--checkpoint.keep_last=0", "checkpoint.keep_last is 0"),
        ("--optim.sparse.learning_rate=-1", "optim.sparse.learning_rate is -1"),
        ("--optim.dense.beta1=1.5", "optim.dense.beta1 is 1.5"),
        ("--optim.dense.clip_norm=-1", "optim.dense.clip_norm is -1"),
        ("--optim.schedule.decay=cosine", "decay_steps 0"),
        ("--model.embeddings.attention.item=7", "multiple of 4"),
        ("--model.init.std=-1", "model.init.std is -1.0; it must be"),
        ("--model.init.std=nan", "model.init.std is nan; it must be"),
        ("--loop.l2=.nan", "loop.l2 is nan; it must be finite"),
        (f"--seed={10**30}", "seed is 1000000000000000000000000000000; it must be at most"),
        (f"--data.interval_unit={10**30}", "at most 4611686018427387904"),
    ],
)
def test_a_wrong_option_is_told_in_a_line_and_leaves_nothing(data, tmp_path, option, told):
    assert told in _told(dare("train", *data, f"--out_dir={tmp_path}", option))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config_file_is_told_in_a_line(tmp_path, name):
    content, told = CONFIGS[name]
    file = tmp_path / "run.yaml"
    file.write_text(content)
    assert told in _told(dare("train", f"--config={file}", f"--out_dir={tmp_path / 'runs'}"))


@pytest.mark.parametrize("name", PLANS)
def test_a_wrong_plan_is_told_in_a_line(data, tmp_path, name):
    file = tmp_path / "plan.yaml"
    file.write_text(PLANS[name])
    runs = tmp_path / "runs"
    told = _told(dare("train", *data, f"--out_dir={runs}", f"--sharding.plan={file}"))
    assert "sharding.plan" in told
    assert not runs.exists()


def test_a_model_under_the_name_of_another_is_told_in_a_line(data, tmp_path):
    file = tmp_path / "run.yaml"
    uses = "attention_target: a, attention_history: a"
    uses += ", representation_target: r, representation_history: r"
    file.write_text(f"model: {{preset: twin, embeddings: {{uses: {{{uses}}}}}}}")
    runs = tmp_path / "runs"
    told = _told(dare("train", f"--config={file}", *data, f"--out_dir={runs}"))
    assert "model.preset is twin, but model.embeddings.uses are those of dare" in told
    assert not runs.exists()


def test_two_mistakes_are_two_lines(data, tmp_path):
    options = ["--model.search.top_k=30", "--data.item_rows=50"]
    outcome = dare("train", *data, f"--out_dir={tmp_path}", *options)
    assert outcome.code == 2
    assert [line.split("error: ")[1].split()[0] for line in outcome.err.splitlines()] == [
        "model.search.top_k",
        "data.item_rows",
    ]


def test_a_dataset_is_not_written_over(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert str(dataset) in _told(dare("prepare", "synthetic", f"--out={dataset}", "--users=9"))
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_id_outside_its_table_names_file_and_column(dataset, data, tmp_path, workers):
    (file,) = (dataset / "train").glob("*.parquet")
    table = pq.read_table(file)
    name = next(n for n in table.column_names if "item" in n and "target" not in n)
    column = table[name].combine_chunks()
    values = column.values.to_pylist()
    values[len(values) // 2] = 5000
    changed = pa.LargeListArray if pa.types.is_large_list(column.type) else pa.ListArray
    changed = changed.from_arrays(column.offsets, pa.array(values, column.type.value_type))
    broken = tmp_path / "broken.parquet"
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, table.field(name), changed), broken)
    options = [f"--data.train={broken}", f"--data.workers={workers}"]
    outcome = dare("train", *data, f"--out_dir={tmp_path}", *options)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert line.startswith(f"dare train: error: {broken} row ")
    assert "Traceback" not in outcome.err
    for word in (broken.name, "5000", "item"):
        assert word in line


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupted() -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.doctor.doctor.diagnose", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "dare doctor: interrupted; what is written stays\n"


def test_a_width_that_no_table_has_is_told_by_the_name_of_the_option():
    told = _told(dare("bench", "search", "--widths=[8, 6]"))
    assert "--widths has 6; a width is a multiple of 4" in told


def test_a_run_without_checkpoints_says_what_to_do(data, tmp_path):
    told = _told(dare("evaluate", *data, f"--out_dir={tmp_path}", "--name=none"))
    assert "has no checkpoint: train the run first, or give its config.yaml" in told


def test_a_planted_file_of_another_log_is_told_before_the_first_step(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "data")
    other = prepare_small(tmp_path / "other", "--categories=9")
    shutil.copy(other / "planted.npz", folder)
    outcome = dare("train", *data_options(folder), f"--out_dir={tmp_path / 'runs'}")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{folder / 'planted.npz'} has categories up to 9, " in outcome.err
    assert f"{folder / 'schema.json'} up to 10; it is of another dataset" in outcome.err
    assert not (tmp_path / "runs" / "run" / "config.yaml").exists()


def test_a_planted_file_that_is_cut_off_is_told_before_the_first_step(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "data")
    file = folder / "planted.npz"
    file.write_bytes(file.read_bytes()[:-100])
    outcome = dare("train", *data_options(folder), f"--out_dir={tmp_path / 'runs'}")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{file} is damaged: File is not a zip file; prepare the dataset again" in outcome.err
    assert not (tmp_path / "runs" / "run" / "config.yaml").exists()
