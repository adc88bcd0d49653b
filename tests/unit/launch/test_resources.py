"""Named resources are found by name and ask for what schedulers understand."""

import importlib.metadata
import tomllib

import pytest
from torchx import specs
from torchx.specs.named_resources_aws import EFA_DEVICE, K8S_ITYPE

from launch import resources
from tests.torchx_requests import ROOT, check_installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = PROJECT["entry-points"]["torchx.named_resources"]


def test_every_function_is_registered_under_its_name():
    functions = {name for name in vars(resources) if name[0] != "_" and name[-2:] in ("_1", "_8")}
    assert {name: f"launch.resources:{name}" for name in functions} == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_torchx_finds_a_resource(name):
    check_installed()
    assert specs.named_resources[name] == getattr(resources, name)()
    (entry,) = importlib.metadata.entry_points(group="torchx.named_resources", name=name)
    assert entry.value == NAMES[name]


@pytest.mark.parametrize("gpu", ["a100", "h100", "h200"])
def test_a_slice_is_an_eighth_of_its_host(gpu):
    host, part = (getattr(resources, f"{gpu}_{count}")() for count in (8, 1))
    assert (host.gpu, host.cpu, host.memMB) == (8, 8 * part.cpu, 8 * part.memMB)
    assert part.gpu == 1
    assert not host.capabilities
    assert not host.devices


@pytest.mark.parametrize(
    ("name", "instance", "adapters"),
    [
        ("aws_a100_8", "p4d.24xlarge", 4),
        ("aws_h100_8", "p5.48xlarge", 32),
        ("aws_h200_8", "p5en.48xlarge", 16),
    ],
)
def test_an_instance_type_is_selected_whole(name, instance, adapters):
    resource = getattr(resources, name)()
    assert resource.capabilities == {K8S_ITYPE: instance}
    assert resource.devices == {EFA_DEVICE: adapters}
    if f"aws_{instance}" in specs.AWS_NAMED_RESOURCES:
        assert resource == specs.named_resources[f"aws_{instance}"]
