"""Options of an export are compared with the config file that training left."""

import dataclasses

import pytest

from trainer.arguments import parse_run, run_parser
from trainer.config import TrainConfig
from trainer.export.changes import _SERVED, _TRAINING, changed_options
from trainer.telemetry.flat import flat


@pytest.fixture
def config_file(tmp_path):
    """Where the run of these tests has its own config."""
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(parsed(tmp_path)[1])
    return path


def parsed(folder, *options):
    return parse_run(run_parser("test", ""), [f"--out_dir={folder}", *options])


def changed(config_file, *options):
    return changed_options(parsed(config_file.parents[1], *options)[0])


@pytest.mark.parametrize("beginning", [*_SERVED, *_TRAINING])
def test_what_is_compared_and_what_is_not_are_fields(beginning):
    fields = flat(dataclasses.asdict(TrainConfig()))
    assert [name for name in fields if name.startswith(beginning)]


def test_nothing_is_changed_by_the_options_of_training(config_file):
    assert changed(config_file) == {}


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("loop.precision", "float32", "bfloat16"),
        ("data.history_length", 200, 100),
        ("data.ids", "check", "hash"),
        ("data.interval_unit", 1, 1000),
        ("model.head.hidden", [200, 80], [200, 40]),
    ],
)
def test_a_field_that_decides_what_is_served_is_named(config_file, caplog, name, before, now):
    assert changed(config_file, f"--{name}={now}") == {name: {"trained": before, "exported": now}}
    assert f"{name} is {now} and was {before} in training: " in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        ["--model.embeddings.representation_lookup=unpooled"],
        ["--model.embeddings.attention_lookup=scored"],
        ["--model.head.auxiliary_weight=0", "--model.init.std=0.5"],
        ["--loop.epochs=3", "--data.batch_size=64"],
    ],
)
def test_a_field_of_training_alone_is_not_named(config_file, caplog, options):
    assert changed(config_file, *options) == {}
    assert caplog.text == ""


def test_how_gradients_met_in_training_is_not_named(config_file):
    config_file.write_text(parsed(config_file.parents[1], "--model.preset=avoid_domination")[1])
    assert changed(config_file, "--model.preset=twin") == {}


def test_of_another_preset_the_fields_that_it_sets_are_named(config_file):
    config_file.write_text(parsed(config_file.parents[1], "--model.preset=twin")[1])
    assert changed(config_file, "--model.preset=eta") == {
        "model.search.by": {"trained": "attention", "exported": "hamming"}
    }


def test_a_config_file_of_an_earlier_version_is_compared_in_what_it_has(config_file, caplog):
    """One with a value that is refused now, and without a field, and with one of another name."""
    text = config_file.read_text()
    for old, new in (
        ("decay_steps: 0", "decay_steps: 1000"),
        ("  precision: float32\n", "  autocast: bf16\n"),
        ("top_k: 20", "top_k: 7"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    config_file.write_text(text)
    assert changed(config_file, "--loop.precision=bfloat16") == {
        "model.search.top_k": {"trained": 7, "exported": 20}
    }
    assert len(caplog.records) == 1


@pytest.mark.parametrize("content", [b"model: [", b"a: 1\na: 2\n", b"\xff\xfe"])
def test_a_config_file_that_cannot_be_read_is_told_in_a_warning(config_file, caplog, content):
    config_file.write_bytes(content)
    assert changed(config_file, "--model.search.top_k=7") == {}
    (record,) = caplog.records
    assert record.getMessage().startswith("options are not compared with those of training: ")
    assert str(config_file) in record.getMessage()


@pytest.mark.parametrize("content", [None, b"", b"3\n", b"model: 3\n"])
def test_a_config_file_that_says_nothing_changes_nothing(config_file, content):
    config_file.unlink()
    if content is not None:
        config_file.write_bytes(content)
    assert changed(config_file, "--model.search.top_k=7") == {}
