"""A config file that is wrong, of another version or made to do harm costs a line and runs nothing.

What is wrong with values is told in `test_mistakes.py`.
"""

import pytest
import yaml

from tests.commands import dare, dare_without_report
from trainer.config_file import header
from trainer.yaml_file import MOST_BYTES, MOST_DEPTH, MOST_VALUES, YamlError, load


def _told(path, *options):
    outcome = dare("train", f"--config={path}", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    return [line.removeprefix("dare train: error: ") for line in outcome.err.splitlines()]


def _nested(open_, close, levels):
    return b"name: " + open_ * levels + close * levels


def _laughs(levels):
    """Each line stands for nine of the line before: 9 ** levels values in `levels` lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


FILES = {
    "a-key-twice": (
        b"loop: {epochs: 3}\nname: a\nloop: {epochs: 5}\n",
        "line 3: loop is given twice, first in line 1",
    ),
    "an-inner-key-twice": (
        b"loop:\n  epochs: 3\n  epochs: 5\n",
        "line 3: epochs is given twice, first in line 2",
    ),
    "a-tab": (b"loop:\n\tepochs: 3\n", "line 2: while scanning for the next token, found char"),
    "a-quote-left-open": (b'name: "a\n', "line 2: while scanning a quoted scalar"),
    "billion-laughs": (_laughs(10), f"line 6: more than {MOST_VALUES:,} values, aliases unfolded"),
    "a-chain-of-aliases": (
        b"".join(b"a%d: &a%d [%s]\n" % (n, n, b"*a%d" % (n - 1) if n else b"") for n in range(99)),
        f"line {MOST_DEPTH + 1}: more than {MOST_DEPTH} levels, aliases unfolded",
    ),
    "an-alias-of-itself": (b"loop: &a {epochs: *a}\n", "line 1: an alias stands for something"),
    "a-list-in-itself": (b"&a [*a]\n", "line 1: an alias stands for something that holds it"),
    "an-alias-of-nothing": (b"seed: *a\n", "line 1: found undefined alias"),
    "100,000-lists": (_nested(b"[", b"]", 100_000), f"line 1: more than {MOST_DEPTH} levels"),
    "100,000-sections": (_nested(b"{a: ", b"}", 100_000), f"line 1: more than {MOST_DEPTH} lev"),
    "a-call": (b"name: !!python/object/apply:os.system [touch ran]\n", "line 1: the tag tag:yaml"),
    "a-new-object": (b"a: 1\nname: !!python/object/new:os.system [touch ran]\n", "line 2: the tag"),
    "a-function": (b"name: !!python/name:os.system\n", "line 1: the tag tag:yaml.org,2002:python"),
    "a-set": (b"loop: !!set {epochs}\n", "line 1: the tag tag:yaml.org,2002:set is no plain val"),
    "ordered-pairs": (b"loop: !!omap [epochs: 3]\n", "line 1: the tag tag:yaml.org,2002:omap"),
    "a-number-for-a-name": (b"1: 2\n", "line 1: '1' is no name"),
    "a-list-for-a-name": (b"[1, 2]: 3\n", "line 1: a list or section is no name"),
    "a-merge": (b"loop: {<<: {epochs: 3}}\n", "line 1: '<<' is no name"),
    "two-documents": (b"name: a\n---\nname: b\n", "line 2: a second document begins here"),
    "empty": (b"", "a config maps fields to values"),
    "comments-alone": (b"# a\n# b\n", "a config maps fields to values"),
    "a-list": (b"- 1\n- 2\n", "a config maps fields to values"),
    "a-number": (b"5\n", "a config maps fields to values"),
    "huge": (b"# x\n" * (MOST_BYTES // 4 + 1), f"is larger than {MOST_BYTES:,} bytes"),
    "binary": (bytes(range(1, 256)), "line 2: byte 127 is not UTF-8 text"),
    "utf-16": ("name: x\n".encode("utf-16"), "line 1: byte 0 is not UTF-8 text"),
    "a-nul": (b"name: a\0b\n", "control characters are not allowed"),
    "5,000-digits": (b"name: a\nseed: " + b"9" * 5000, "line 2: a number of 5,000 digits"),
    "a-list-for-a-section": (b"name: a\nloop: [1]\n", "line 2: loop is a section"),
    "a-path-for-a-section": (b"loop: /etc/passwd\n", "line 1: loop is a section"),
    "another-config": (b"config: other.yaml\n", "line 1: config is not known here"),
    "an-option-of-a-command": (b"overwrite: true\n", "line 1: overwrite is not known here"),
    "a-dotted-name": (b"loop.epochs: 3\n", "line 1: loop.epochs is not known here"),
    "a-surrogate": (b'name: "\\ud800"\n', "line 1: while parsing a quoted scalar"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_config_is_told_with_its_line(tmp_path, monkeypatch, name):
    content, problem = FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_bytes(content)
    (line,) = _told("run.yaml")
    assert line.startswith("--config: run.yaml ") or line.startswith("--config: run.yaml: ")
    assert problem in line
    assert len(line) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("name", ["loop.epochs", "checkpoint.asynchronous", "model.preset", "name"])
def test_null_is_no_value_of_a_field(tmp_path, name):
    section, _, field = name.rpartition(".")
    file = tmp_path / "run.yaml"
    file.write_text(f"{section}: {{{field}: null}}" if section else f"{field}: null")
    assert _told(file) == [f"{name} is null; give a value, or leave it out"]


def test_a_folder_or_nothing_is_no_config(tmp_path):
    assert _told(tmp_path) == [f"--config: {tmp_path} is a folder; give a YAML file"]
    missing = tmp_path / "run.yaml"
    assert _told(missing) == [f"--config: {missing} is not there; give a YAML file"]


def test_aliases_and_a_byte_order_mark_are_fine(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\xef\xbb\xbfloop: {epochs: &n 3}\nseed: *n\n")
    outcome = dare("train", f"--config={file}", "--print_config")
    found = yaml.safe_load(outcome.out)
    assert (found["loop"]["epochs"], found["seed"]) == (3, 3)


def test_every_unknown_name_is_a_line_up_to_twenty(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("".join(f"new{number}: 1\n" for number in range(25)))
    told = _told(file)
    assert len(told) == 21
    assert told[19].startswith(f"--config: {file} line 20: new19 is not known here; a config has n")
    assert told[20] == f"--config: {file}: 5 more"


@pytest.fixture
def newer(tmp_path):
    """A config of a version to come."""
    file = tmp_path / "config.yaml"

    def write(text):
        file.write_text(f"# written by dare-torchrec 9.3.1\n{text}")
        return file

    return write


def test_a_field_of_a_newer_version_is_told_with_both_versions(newer):
    here = header().rpartition(" ")[2]
    file = newer("seed: 3\nloop:\n  epochs: 1\n  warp: 9\nfuture: {speed: 3}\n")
    first, second = _told(file)
    assert first.startswith(f"--config: {file} line 5: loop.warp is not known here; loop has epoch")
    assert second.startswith(f"--config: {file} line 6: future is not known here; a config has na")
    for line in (first, second):
        assert f"; the file was written by dare-torchrec 9.3.1, this is {here}: use that" in line


def test_a_type_that_a_newer_version_changed_is_told_with_both_versions(newer):
    (line,) = _told(newer("loop: {epochs: [1, 2]}\n"))
    assert line.startswith("loop.epochs is [1, 2]; it must be int")
    assert "config.yaml was written by dare-torchrec 9.3.1, this is " in line


def test_a_config_of_a_newer_version_that_fits_is_taken(newer):
    outcome = dare("train", f"--config={newer('seed: 3')}", "--print_config")
    assert yaml.safe_load(outcome.out)["seed"] == 3


def test_a_run_writes_which_version_wrote_its_config(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=1"]
    assert dare_without_report("train", *options).code == 0
    for file in ("config.yaml", "checkpoints/step-00000001/config.yaml"):
        first, *_ = (tmp_path / "run" / file).read_text().splitlines()
        assert first == f"# {header()}"
    assert header().startswith("written by dare-torchrec ")
    config = tmp_path / "run" / "config.yaml"
    assert dare("evaluate", f"--config={config}").code == 0


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--loop=[1]", "loop is [1]; it is a section"),
        ("--model=[1]", "model is [1]; it is a section"),
        ("--model.head=3", "model.head"),
        ("--data.feature_rows={a: 1, a: 2}", "data.feature_rows is {a: 1, a: 2}; it must be dict"),
        ("--name=!!python/name:os.system", "name is '!!python/name:os.system'; it names a folder"),
        ("--loop.epochs=null", "loop.epochs is None; it must be int"),
        ("--seed=" + "[" + "1," * 5000 + "]", "it must be int"),
        ("--name=a\nb", "name is 'a\\nb'; it names a folder"),
        ("--name=" + "a" * 201, "at most 200 bytes"),
        ("--name=..", "name is '..'; it names a folder"),
        ("--out_dir=a\0b", "no folder has a NUL in its name"),
    ],
)
def test_an_option_that_is_no_value_of_its_field_is_told_in_a_line(tmp_path, option, told):
    outcome = dare("train", f"--out_dir={tmp_path}", option)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert told in line
    assert len(line) < 1000
    assert not list(tmp_path.iterdir())


def test_values_are_those_of_the_parser():
    """1e-3 is a number, as in the options of the command line, and a date is text."""
    assert load("a: 1e-3\nb: 2017-11-25\nc: [on, ~, 'x']") == {
        "a": 1e-3,
        "b": "2017-11-25",
        "c": [True, None, "x"],
    }
    with pytest.raises(YamlError, match="b is given twice") as caught:
        load("a: 1\nc: {b: 1,\nb: 2}")
    assert (
        caught.value.of("x.yaml")
        == "x.yaml line 3: b is given twice, first in line 2; give it once"
    )
