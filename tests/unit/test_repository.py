"""Rules of the repository that linters do not have."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for package in ("trainer", "modules", "pipelines", "launch")
    for path in sorted((ROOT / package).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_fit_a_head_and_functions_fit_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            described = len((ast.get_docstring(node) or "").splitlines())
            assert node.end_lineno - node.lineno - described < 60, node.name


def test_both_requirement_lists_pin_the_same_versions():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return dict(line.split("==") for line in lines if "==" in line and line[0] != "#")

    gpu, cpu = pins("requirements.txt"), pins("requirements-cpu.txt")
    assert {name: gpu[name] for name in gpu.keys() & cpu.keys()} == {
        name: cpu[name] for name in gpu.keys() & cpu.keys()
    }
    assert gpu["fbgemm-gpu"] == cpu["fbgemm-gpu-cpu"]
    assert gpu.keys() - cpu.keys() == {"fbgemm-gpu", "torchrec"}


def test_every_package_is_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in SOURCES}
    assert found == set(shipped)


def test_every_python_file_is_linted():
    """Ruff leaves out folders of some names by itself, `dist` among them."""
    ruff = Path(sys.executable).with_name("ruff")
    told = subprocess.run([ruff, "check", "--show-files", "."], cwd=ROOT, capture_output=True)
    linted = {Path(line) for line in told.stdout.decode().splitlines()}
    sources = (
        path
        for top in ("docs", "tests", "trainer", "modules", "pipelines", "launch")
        for path in (ROOT / top).rglob("*.py")
    )
    assert [path for path in sources if path not in linted] == []
