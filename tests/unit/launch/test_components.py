"""What a component asks a scheduler for."""

import os
import sys
from unittest import mock

import pytest
from torchx.specs.file_linter import validate
from torchx.specs.finder import ComponentValidationException

from launch import agent, components
from tests.torchx_requests import HOSTILE, ROOT, check_installed

COMPONENTS = ("train", "evaluate", "export", "prepare", "sweep")


def role_of(app):
    (role,) = app.roles
    return role


def started_by(role, environment=()):
    """Program, arguments and variables with which a host's agent goes on."""
    assert role.args[:2] == ["-m", "launch.agent"]
    with (
        mock.patch.dict(os.environ, dict(environment), clear=True),
        mock.patch.object(os, "execve") as execve,
    ):
        agent.main(role.args[2:])
    (call,) = execve.call_args_list
    program, words, variables = call.args
    assert program == words[0] == sys.executable
    return words[1:], variables


@pytest.mark.parametrize("name", COMPONENTS)
def test_torchx_finds_no_fault_in_a_component(name):
    assert validate(str(ROOT / "launch" / "components.py"), name) == []


def test_an_installed_package_offers_its_components_beside_those_of_torchx():
    check_installed()
    from torchx.specs.finder import get_components

    names = set(get_components())
    assert {name for name in names if name.startswith("dare.")} == {
        f"dare.{name}" for name in COMPONENTS
    }
    assert {"dist.ddp", "utils.echo"} <= names


def test_a_training_job_goes_on_when_it_is_started_again():
    role = role_of(components.train("--loop.epochs=3", config="a.yaml", plan="p.yaml", j="2x8"))
    words, _ = started_by(role)
    assert words[words.index("trainer") :] == [
        *("trainer", "train", "--config", "a.yaml", "--sharding.plan", "p.yaml"),
        *("--loop.epochs=3", "--resume"),
    ]
    assert role.max_retries == 3
    assert "--max-restarts=3" in words
    with pytest.raises(ComponentValidationException, match="--overwrite would delete the run"):
        components.train("--overwrite", config="a.yaml")


@pytest.mark.parametrize(
    ("j", "least", "hosts", "processes"),
    [("1x1", 1, 1, 1), ("2x8", 2, 2, 8), ("2:4x8", 2, 4, 8), ("3", 3, 3, 1), ("1:2", 1, 2, 1)],
)
def test_hosts_and_processes_are_read(j, least, hosts, processes):
    role = role_of(components.train(config="a.yaml", j=j))
    assert (role.min_replicas, role.num_replicas) == (least, hosts)
    words, _ = started_by(role)
    assert f"--nnodes={least}:{hosts}" in words
    assert f"--nproc-per-node={processes}" in words


@pytest.mark.parametrize("j", ["", "x8", "2y8", "0x1", "1x0", "3:2x8", "-1x1", "2:x8", "1x2x3"])
def test_impossible_hosts_are_refused(j):
    with pytest.raises(ComponentValidationException, match="-j"):
        components.train(config="a.yaml", j=j)


def test_processes_are_the_gpus_of_a_host_and_no_more():
    check_installed()
    words, _ = started_by(role_of(components.train(config="a.yaml", j="2", h="h100_8")))
    assert "--nproc-per-node=8" in words
    with pytest.raises(ComponentValidationException, match=r"which has 8 GPUs.*-j 2x8"):
        components.train(config="a.yaml", j="2x9", h="h100_8")
    with pytest.raises(ComponentValidationException, match=r"-h h100_9: .*h100_8"):
        components.train(config="a.yaml", h="h100_9")


def test_a_host_without_a_name_grows_with_its_processes():
    resource = role_of(components.train(config="a.yaml", j="1x2")).resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (8, 0, 32_000)
    resource = role_of(components.train(config="a.yaml", cpu=1, gpu=1, memMB=900)).resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (1, 1, 900)


def test_several_hosts_meet_at_the_first_and_one_needs_no_port():
    several = role_of(components.train(config="a.yaml", j="2x1", rdzv_port=1234, rdzv_timeout=9))
    assert several.port_map == {"c10d": 1234}
    role = components.specs.macros.Values(
        img_root="", app_id="job7", replica_id="1", rank0_env="FIRST"
    ).apply(several)
    words, _ = started_by(role, {"FIRST": "node-a"})
    assert words[:3] == ["-m", "launch.torchrun", "--rdzv-endpoint=node-a:1234"]
    assert "--rdzv-id=job7" in words
    assert any("join_timeout=9," in word for word in words)
    # AWS Batch does not set it on the first host itself.
    words, _ = started_by(role)
    assert words[2] == "--rdzv-endpoint=localhost:1234"
    words, _ = started_by(role_of(components.train(config="a.yaml", j="1x2")))
    assert words[2] == "--rdzv-endpoint=localhost:0"


def test_an_export_is_one_process_that_asks_for_no_gpu():
    role = role_of(components.export("--at=last", config="runs/a/config.yaml", out="served/$x"))
    words, variables = started_by(role)
    command = ["trainer", "export", "--config", "runs/a/config.yaml", "--out", "served/$x"]
    assert words == ["-m", *command, "--at=last"]
    assert "OMP_NUM_THREADS" not in variables
    assert (role.resource.cpu, role.resource.gpu, role.resource.memMB) == (4, 0, 16_000)
    assert components.export(config="runs/a/config.yaml", out="x").name == "export-a"


def test_settings_are_of_one_table_and_can_be_replaced():
    role = role_of(components.train(config="a.yaml", j="1x2"))
    assert role.env == components.SETTINGS
    role = role_of(components.train(config="a.yaml", j="1x2", env={"NCCL_DEBUG": "INFO", "A": "b"}))
    assert role.env == {**components.SETTINGS, "NCCL_DEBUG": "INFO", "A": "b"}


def test_one_process_may_use_all_of_its_host():
    role = role_of(components.train(config="a.yaml"))
    assert components.SETTINGS.items() - role.env.items() == {("OMP_NUM_THREADS", "1")}
    role = role_of(components.train(config="a.yaml", env={"OMP_NUM_THREADS": "3"}))
    assert role.env["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("value", [HOSTILE, "${app_id} $$x $(X) %41 Ref::a,b\n'", "", "é=="])
def test_values_that_schedulers_read_as_their_own_arrive_unchanged(value):
    env = {"NAME": f"{value}=", "A B,C": "plain"}
    role = role_of(components.train("--name", value, config=value, env=env))
    words, variables = started_by(
        components.specs.macros.Values(
            img_root="", app_id="id", replica_id="0", rank0_env="FIRST"
        ).apply(role)
    )
    assert words[words.index("--config") + 1] == value
    assert words[words.index("--name") + 1] == value
    assert env.items() <= {**role.env, **variables}.items()
    for word in [*role.args, *role.env, *role.env.values()]:
        plain = word.replace("${app_id}", "").replace("${rank0_env}", "")
        assert not set(plain) & set("$`'\"\\;&|<>()*? \n"), word
        assert "::" not in word


def test_an_image_brings_its_own_python():
    assert role_of(components.train(config="a.yaml")).entrypoint == sys.executable
    role = role_of(components.train(config="a.yaml", image="i:1"))
    assert (role.entrypoint, role.image) == ("python", "i:1")


def test_other_commands_are_started_too():
    words, _ = started_by(role_of(components.evaluate("--at", "last", config="runs/a/config.yaml")))
    assert words[-6:] == ["trainer", "evaluate", "--config", "runs/a/config.yaml", "--at", "last"]
    words, _ = started_by(role_of(components.prepare("--out", "data/a", source="synthetic")))
    assert words == ["-m", "trainer", "prepare", "synthetic", "--out", "data/a"]
    words, _ = started_by(role_of(components.sweep("--seeds", "5", config="a.yaml", j="1x2")))
    assert words == [
        *("-m", "trainer", "sweep", "--config", "a.yaml", "--seeds", "5"),
        *("--launcher", "torchrun --nproc-per-node 2 -m trainer"),
    ]
    with pytest.raises(ComponentValidationException, match="a sweep runs on one host"):
        components.sweep(config="a.yaml", j="2x1")


def test_a_job_has_a_name_that_every_scheduler_takes():
    assert components.train(config="x/Taobao_DARE v2.yaml").name == "taobao-dare-v2"
    assert components.train(config="a.yaml", name="é $(x)").name == "x"
    assert components.train(config="a.yaml", name="!").name == "dare"
    assert len(components.train(config="a.yaml", name="n" * 99).name) == 40
