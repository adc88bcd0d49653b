"""`docs/running.md` is true: TorchX takes its commands, its tables are the code's."""

import re
import shlex
from unittest import mock

import pytest
import torch.distributed.run
from torchx.cli.argparse_util import ArgOnceAction, torchxconfig
from torchx.cli.main import main

from launch import components, resources
from tests.torchx_requests import ROOT, check_installed, same_everywhere

TEXT = (ROOT / "docs" / "running.md").read_text()
_BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [line for line in re.sub(r"\\\n\s*", "", _BLOCKS).splitlines() if line]
TORCHX = [command for command in COMMANDS if command.startswith("torchx run ")]


def rows():
    """Cells of the rows of all tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line.startswith("|")
    ]


def test_there_are_commands_for_each_way_to_run():
    programs = [command.split()[0] for command in COMMANDS]
    assert set(programs) == {"dare", "torchx", "torchrun", "docker"}
    schedulers = {found[1] for found in re.finditer(r" -s (\w+) ", "\n".join(TORCHX))}
    assert schedulers == {"slurm", "kubernetes", "kubernetes_mcad", "aws_batch"}


@pytest.mark.parametrize("command", TORCHX)
def test_torchx_takes_a_command(command, monkeypatch, capsys):
    check_installed()
    monkeypatch.chdir(ROOT)
    _, _, *words = shlex.split(command)
    workspace = [] if "--workspace" in words else ["--workspace", ""]
    # TorchX remembers for a whole process which of its options were given.
    with (
        same_everywhere(),
        mock.patch.object(torchxconfig, "called_args", set()),
        mock.patch.object(ArgOnceAction, "called_args", set()),
    ):
        main(["run", "--dryrun", *workspace, *words])
    request = capsys.readouterr().out.split("=== SCHEDULER REQUEST ===")[1]
    (component,) = [word for word in words if word.startswith("dare.")]
    assert "launch.agent" in request
    assert f"trainer {component.removeprefix('dare.')}" in re.sub(r"[\s',\-]+", " ", request)


def test_torchrun_takes_its_commands():
    given = [command for command in COMMANDS if command.startswith("torchrun ")]
    assert len(given) == 2
    for command in given:
        with mock.patch.object(torch.distributed.run, "run") as run:
            torch.distributed.run.main(shlex.split(command)[1:])
        (parsed,) = run.call_args.args
        assert (parsed.module, parsed.training_script) == (True, "trainer")


def test_settings_are_those_of_the_code():
    told = {
        name: row[1]
        for row in rows()
        for name in row[0].split(", ")
        if re.fullmatch("[A-Z_]+", name)
    }
    assert told == components.SETTINGS
    told = {}
    for row in rows():
        if row[0].split(", ")[0] in components.RENDEZVOUS:
            numbers = [int(number) for number in row[1].split(", ")]
            told |= dict(zip(row[0].split(", "), numbers, strict=True))
    assert told == components.RENDEZVOUS


def test_hosts_are_those_of_the_code():
    told = {
        name for row in rows() for name in row[0].split(", ") if re.fullmatch(r"\w+_[18]", name)
    }
    assert told == {name for name in vars(resources) if re.fullmatch(r"[a-z]\w+_[18]", name)}
    for row in rows():
        if row[0].startswith(("a100_", "h100_")):
            resource = getattr(resources, row[0].split(",")[0])()
            gpus, cpus, gib = (
                int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", row[1])
            )
            assert (gpus, cpus, gib * 1024) == (resource.gpu, resource.cpu, resource.memMB)
