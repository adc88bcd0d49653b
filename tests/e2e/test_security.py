"""What a run reads runs no code, what it deletes is its own, what it knows of secrets it keeps.

Damaged and malicious checkpoints are in `test_damaged_checkpoints.py`, malicious YAML in
`test_config_files.py`.
"""

import ast
import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from tests.commands import dare, dare_without_report
from tests.saved import name_a_file

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for package in ("trainer", "modules", "pipelines", "launch")
    for path in (ROOT / package).rglob("*.py")
)
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "pty.spawn"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "joblib.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader"),
    *("importlib.import_module", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
ALLOWED = {"pickle.Unpickler": "trainer/checkpoints/tensor_files.py"}
"""Its only use knows the classes of DCP's metadata by name and no other."""
SECRETS = ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")


def _called(node):
    """The dotted name of what is named, such as `torch.load`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_called(node.value)}.{node.attr}"
    return ""


def _dangers(source, place):
    """Line and name of each use of what could run code of a file or of a config."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Name | ast.Attribute):
            names = [_called(node)]
        elif isinstance(node, ast.keyword):
            unsafe = {"shell": True, "allow_pickle": True, "weights_only": False}
            of = node.value.value if isinstance(node.value, ast.Constant) else None
            bad = node.arg == "shell" and of is not False
            bad |= node.arg in unsafe and of is unsafe[node.arg]
            names = [f"{node.arg}="] if bad else []
        else:
            continue
        dangerous = {*FORBIDDEN, *ALLOWED, "shell=", "allow_pickle=", "weights_only="}
        found += [
            (node.lineno if hasattr(node, "lineno") else 0, name)
            for name in names
            if name in dangerous and ALLOWED.get(name) != place
        ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_evaluates_or_starts_a_shell(path):
    assert _dangers(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import pickle\npickle.loads(b'')",
        "from pickle import Unpickler",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\nf('x', weights_only=False)",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "eval('1')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=value)",
    ],
)
def test_the_check_above_sees_each_danger(source):
    assert _dangers(source, "trainer/x.py")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run, and everything that was printed for it."""
    out = tmp_path_factory.mktemp("trained")
    done = dare_without_report("train", *data, f"--out_dir={out}", "--loop.steps=2")
    assert done.code == 0, done.err
    return out / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs" / "run")


def _options(data, run):
    return [*data, f"--out_dir={run.parent}", f"--name={run.name}", "--loop.steps=1"]


def _told(outcome):
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    return line.partition("error: ")[2]


def _tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is no run's, with what a run could take for its own."""
    folder = tmp_path / "elsewhere"
    for name in ("step-00000001", "step-notes"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text("seed: 1")
    (folder / "precious.txt").write_text("precious")
    return folder


@pytest.mark.parametrize("name", ["..", ".", "../x", "/tmp/x", "a/b", "", ".x", "a\0b", "a\nb"])
def test_a_run_stays_below_its_folder_of_runs(data, tmp_path, name):
    told = _told(dare("train", *data, f"--out_dir={tmp_path / 'runs'}", f"--name={name}"))
    assert told.startswith("name is ")
    assert not list(tmp_path.iterdir())


def test_overwriting_does_not_follow_the_link_that_a_run_is(data, tmp_path, elsewhere):
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "run"
    link.symlink_to(elsewhere)
    before = _tree(elsewhere)
    told = _told(dare("train", *_options(data, link), "--overwrite"))
    assert told.startswith(f"{link} is a link; --overwrite deletes what is in a folder of its own")
    assert _tree(elsewhere) == before
    assert link.is_symlink()


def test_overwriting_does_not_follow_the_link_that_its_checkpoints_are(data, run, elsewhere):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(elsewhere)
    before = _tree(run.parent.parent)
    told = _told(dare("train", *_options(data, run), "--overwrite"))
    assert told.startswith(f"{run / 'checkpoints'} is a link; --overwrite deletes what is in")
    assert _tree(run.parent.parent) == before


@pytest.mark.parametrize("name", ["checkpoints/step-00000001", "tensorboard", "x"])
def test_overwriting_removes_links_in_a_run_and_not_what_they_mean(data, run, elsewhere, name):
    link = run / name
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(elsewhere / "step-00000001" if "/" in name else elsewhere)
    before = _tree(elsewhere)
    outcome = dare_without_report("train", *_options(data, run), "--overwrite")
    assert outcome.code == 0, outcome.err
    assert _tree(elsewhere) == before
    assert not link.is_symlink()


def test_overwriting_deletes_nothing_where_no_run_is(data, elsewhere):
    (elsewhere / "config.yaml").unlink()
    before = _tree(elsewhere)
    outcome = dare_without_report("train", *_options(data, elsewhere), "--overwrite")
    assert outcome.code == 0, outcome.err
    now = _tree(elsewhere)
    assert {path: now[path] for path in before} == before


def test_a_folder_of_checkpoints_loses_checkpoints_alone(data, tmp_path, elsewhere):
    options = [*data, f"--out_dir={tmp_path / 'runs'}", f"--checkpoint.folder={elsewhere}"]
    outcome = dare_without_report("train", *options, "--overwrite", "--loop.steps=1")
    assert outcome.code == 0, outcome.err
    assert (elsewhere / "precious.txt").read_text() == "precious"
    assert (elsewhere / "config.yaml").read_text() == "seed: 1"
    assert (elsewhere / "step-notes" / "manifest.json").read_text() == "{}"
    # That one is called as checkpoints are, and was replaced.
    assert (elsewhere / "step-00000001" / "manifest.json").read_text() != "{}"


@pytest.mark.parametrize("at", ["../checkpoints", "..", "/etc", "step-00000002/..", "a\0b"])
def test_a_checkpoint_is_one_of_the_folder_by_its_name(run, at):
    config = f"--config={run / 'config.yaml'}"
    told = _told(dare("evaluate", config, f"--out_dir={run.parent}", f"--at={at}"))
    assert told.startswith(f"--at is {at}; {run / 'checkpoints'} has step-00000002")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "..", "", "a\0b"])
def test_a_manifest_cannot_name_files_outside_its_checkpoint(run, name):
    checkpoint = run / "checkpoints" / "step-00000002"
    (run / "checkpoints" / "secret").write_text("secret")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    digest = {"bytes": 6, "sha256": sha256(b"secret").hexdigest()}
    manifest["files"][name] = digest
    del manifest["digest"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    outcome = dare("evaluate", f"--config={run / 'config.yaml'}", f"--out_dir={run.parent}")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"names {name!r}, which is no file of a checkpoint" in outcome.err


@pytest.mark.parametrize("place", ["../../../secret", "/etc/hostname"])
def test_metadata_cannot_name_files_outside_its_checkpoint(run, place):
    checkpoint = run / "checkpoints" / "step-00000002"
    name_a_file(checkpoint, place)
    told = _told(dare("evaluate", f"--config={run / 'config.yaml'}", f"--out_dir={run.parent}"))
    assert f"names {place!r}, which is no file of a checkpoint" in told


def test_a_report_shows_markup_as_text(data, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=1", f"--name={name}"]
    assert dare("train", *options).code == 0
    page = (tmp_path / name / "report.html").read_text()
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page


def test_secrets_of_the_environment_are_neither_printed_nor_written(data, tmp_path, monkeypatch):
    marker = "marker-0d9c5b7e"
    for name in SECRETS:
        monkeypatch.setenv(name, f"{marker}-{name}")
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2", "--telemetry.tensorboard=true"]
    config = f"--config={tmp_path / 'run' / 'config.yaml'}"
    outcomes = [
        dare("train", *options),
        dare("evaluate", config),
        dare("analyze", "convergence", config),
        dare("plan", config),
        dare("doctor"),
        dare("train", *options, "--resume", "--data.val=nowhere"),
    ]
    assert [outcome.code for outcome in outcomes[:2]] == [0, 0]
    printed = "".join(outcome.out + outcome.err for outcome in outcomes)
    files = _tree(tmp_path)
    assert len(files) > 8
    assert marker not in printed
    assert [path for path, content in files.items() if marker.encode() in content] == []
    assert [path for path in files if marker in str(path)] == []
