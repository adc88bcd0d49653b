"""The image's recipe, its parts one by one, as a build needs a Docker engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torchx_requests import ROOT

RECIPE = ROOT / "Dockerfile"


def instructions():
    """Name and text of each instruction, continued lines joined."""
    lines = [line for line in RECIPE.read_text().splitlines() if not re.match(r"\s*(#|$)", line)]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def texts_of(name):
    return [text for given, text in instructions() if given == name]


def test_a_linter_of_dockerfiles_finds_no_fault():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint has no wheel for this kind of machine")
    done = subprocess.run(
        [program, str(RECIPE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_exists_and_is_not_kept_back():
    copied = [source for text in texts_of("COPY") for source in text.split()[:-1]]
    assert {"requirements.txt", "pyproject.toml", "launch"} <= set(copied)
    kept_back = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source not in kept_back
    assert {".git", ".venv", "data", "runs"} <= set(kept_back)


def test_every_package_is_in_the_image():
    copied = {source for text in texts_of("COPY") for source in text.split()[:-1]}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied
    assert packages == {"trainer", "modules", "pipelines", "launch"}


def test_jobs_do_not_run_as_root():
    (user,) = texts_of("USER")
    assert user == "1000:1000"
    assert "--uid 1000" in " ".join(texts_of("RUN"))
    names = [name for name, _ in instructions()]
    assert "RUN" not in names[names.index("USER") :]


def test_the_image_installs_what_make_setup_installs_on_a_gpu_host():
    rule = re.search(
        r"ifeq \(\$\(GPU\),yes\)\n(.*?)\nelse.*?endif\n(.*?)\n\n",
        (ROOT / "Makefile").read_text(),
        re.DOTALL,
    )
    setup = re.findall(r"\$\(BIN\)/(pip install .*)", f"{rule[1]}\n{rule[2]}")
    for_work_on_it = " -r requirements-dev.txt"
    assert any(for_work_on_it in command for command in setup)
    wanted = [line.replace(" --quiet", "").replace(for_work_on_it, "") for line in setup]
    made = [line for line in texts_of("RUN") if line.startswith("pip")]
    assert [line.replace(" --no-cache-dir", "") for line in made] == wanted


def test_torchx_gives_the_whole_command():
    names = [name for name, _ in instructions()]
    assert "ENTRYPOINT" not in names
    assert names[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", texts_of("FROM")[0])
