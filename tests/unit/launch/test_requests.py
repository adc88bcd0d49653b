"""Requests to schedulers, made by dry run: as in the golden files, and as the services take them.

The golden files are remade by `make golden`.
"""

import json
import subprocess
import sys

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
from botocore.validate import ParamValidator
from torchx.schedulers.kubernetes_scheduler import sanitize_for_serialization

from tests.torchx_requests import (
    HOSTILE,
    IMAGE,
    REQUESTS,
    SCHEDULERS,
    check_installed,
    export_request,
    golden_of,
    training_request,
)
from tests.unit.launch.test_components import started_by

KUBERNETES = "1.32"
_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_POLICY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "action": {"enum": ["AbortJob", "RestartJob", "RestartTask", "TerminateJob"]},
        "event": {"enum": ["*", "PodFailed", "PodEvicted", "TaskCompleted", "Unknown"]},
    },
}
VOLCANO_JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["tasks"],
    "properties": {
        "maxRetry": {"type": "integer", "minimum": 0},
        "plugins": {"additionalProperties": {"type": "array", "items": {"type": "string"}}},
        "queue": {"type": "string", "maxLength": 253, "pattern": _LABEL},
        "schedulerName": {"type": "string", "maxLength": 63},
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "maxRetry": {"type": "integer", "minimum": 0},
                    "minAvailable": {"type": "integer", "minimum": 0},
                    "name": {"type": "string", "maxLength": 63, "pattern": _LABEL},
                    "policies": {"type": "array", "items": _POLICY},
                    "replicas": {"type": "integer", "minimum": 0},
                    "template": {"type": "object"},
                },
            },
        },
    },
}
"""What `batch.volcano.sh/v1alpha1` asks of those fields of a Job's `spec` that TorchX sets, after
Volcano's own definition (config/crd/volcano/bases/batch.volcano.sh_jobs.yaml of volcano-sh/volcano,
commit 0318bf6); the template is a pod's, which Kubernetes' own schema checks."""


@pytest.fixture(scope="module", autouse=True)
def _installed():
    check_installed()


def check_pod(template):
    """Kubernetes' published schema, without unknown fields."""
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def resource_of(scheduler):
    return sanitize_for_serialization(training_request(scheduler).request.resource)


def check_command(command, host):
    """A container's command becomes torchrun with the user's values as they were given."""
    program, *words = command
    assert program == "python"
    role = type("Role", (), {"args": words})
    started, variables = started_by(role, {host: "first"} if host else {})
    assert f"--rdzv-endpoint={'first' if host else 'localhost'}:29500" in started
    assert started[started.index("--name") + 1] == HOSTILE
    assert variables["NCCL_SOCKET_IFNAME"] == "eth0,eth1"


@pytest.mark.parametrize("component", REQUESTS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_request_is_as_in_its_golden_file(scheduler, component):
    made = f"{REQUESTS[component](scheduler)}\n"
    assert made == golden_of(scheduler, component).read_text(), "meant? then `make golden`"


def test_kubernetes_takes_the_job_and_its_pods():
    job = resource_of("kubernetes")
    assert (job["apiVersion"], job["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    jsonschema.validate(job["spec"], VOLCANO_JOB)
    tasks = job["spec"]["tasks"]
    assert [task["name"] for task in tasks] == ["train-0", "train-1"]
    # Volcano's plugin `env` names a task's hosts so.
    for task, host in zip(tasks, ("TORCHX_RANK0_HOST", "VC_TRAIN_0_HOSTS"), strict=True):
        check_pod(task["template"])
        (container,) = task["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        check_command(container["command"], host)


def test_kubernetes_takes_the_one_pod_of_an_export_which_has_no_gpu():
    job = sanitize_for_serialization(export_request("kubernetes").request.resource)
    jsonschema.validate(job["spec"], VOLCANO_JOB)
    (task,) = job["spec"]["tasks"]
    check_pod(task["template"])
    (container,) = task["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "4000m", "memory": "64000M"}
    assert container["command"][-2:] == ["/runs/served", "--precision=int8"]


def test_the_schema_of_kubernetes_refuses_what_it_does_not_know():
    (template, _) = (task["template"] for task in resource_of("kubernetes")["spec"]["tasks"])
    template["spec"]["containers"][0]["comand"] = ["typo"]
    with pytest.raises(kubernetes_validate.ValidationError, match="comand"):
        check_pod(template)


def test_mcad_takes_pods_and_a_service():
    wrapper = resource_of("kubernetes_mcad")
    *pods, service = [
        item["generictemplate"] for item in wrapper["spec"]["resources"]["GenericItems"]
    ]
    kubernetes_validate.validate(service, KUBERNETES, strict=True)
    hosts = ("TORCHX_RANK0_HOST", "TORCHX_MCAD_TRAIN_0_HOSTS")
    for pod, host in zip(pods, hosts, strict=True):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        (container,) = pod["spec"]["containers"]
        check_command(container["command"], host)


def test_aws_batch_takes_the_job_definition():
    definition = training_request("aws_batch").request.job_def
    service = botocore.session.get_session().get_service_model("batch")
    shape = service.operation_model("RegisterJobDefinition").input_shape
    assert not ParamValidator().validate(definition, shape).has_errors()
    assert ParamValidator().validate({"type": 3}, shape).has_errors()
    nodes = definition["nodeProperties"]
    assert nodes["numNodes"] == 2
    (group,) = nodes["nodeRangeProperties"]
    container = group["container"]
    assert container["instanceType"] == "p5.48xlarge"
    assert {"type": "GPU", "value": "8"} in container["resourceRequirements"]
    assert definition["retryStrategy"]["attempts"] == 3
    check_command(container["command"], "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS")


def test_docker_starts_two_containers_with_gpus():
    containers = training_request("local_docker").request.containers
    assert [container.image for container in containers] == [IMAGE, IMAGE]
    for container in containers:
        assert container.kwargs["device_requests"][0]["Count"] == 8
        assert container.kwargs["restart_policy"]["MaximumRetryCount"] == 3
        check_command(container.command, "TORCHX_RANK0_HOST")


def test_a_batch_script_of_slurm_passes_values_on_unchanged(tmp_path):
    """The script is really run; only `srun`, which ends the test's list of words, is ours."""
    script = training_request("slurm").request.materialize()
    srun = tmp_path / "srun"
    srun.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    srun.chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    words = json.loads(done.stdout.splitlines()[0])
    middle = words.index(":")
    for group in (words[:middle], words[middle + 1 :]):
        start = group.index("/opt/venv/bin/python")
        (exported,) = [word for word in group if word.startswith("--export=")]
        assert all(pair.count("=") == 1 for pair in exported.split(",")[1:])
        assert "--rdzv-id=17" in group
        check_command(["python", *group[start + 1 :]], "SLURM_JOB_NODELIST_HET_GROUP_0")
    assert not (tmp_path / "owned").exists()
