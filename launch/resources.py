"""Named resources: whole GPU hosts, and one GPU of one, for `-h` of the components.

`h100_8` and its like describe no maker's machine: they ask for 8 GPUs, and for less CPU and memory
than such a host usually has, so they fit clusters of Kubernetes (`nvidia.com/gpu`) and Slurm
(`--gpus-per-task`). Those that begin with `aws_` are instance types of AWS Batch and EKS: they also
select the type and its network adapters. A name says what is asked for; that the GPUs are H100 is
up to the queue or partition.
"""

from __future__ import annotations

from torchx.specs import Resource
from torchx.specs.named_resources_aws import EFA_DEVICE, K8S_ITYPE, GiB

_GPUS = 8


def a100_8() -> Resource:
    """8 A100: hosts (ND96asr v4, a2-ultragpu-8g, DGX, p4d) have 96 CPUs, 900 GiB or more."""
    return _host(cpu=88, memory_gib=800)


def h100_8() -> Resource:
    """8 H100: hosts (ND96isr H100 v5, a3-highgpu-8g, DGX, p5) have 96 CPUs, 1,700 GiB or more."""
    return _host(cpu=88, memory_gib=1600)


def h200_8() -> Resource:
    """8 H200: hosts (ND96isr H200 v5, a3-ultragpu-8g, p5en) have 96 CPUs, 1,800 GiB or more."""
    return _host(cpu=88, memory_gib=1600)


def a100_1() -> Resource:
    """One GPU of such a host, and an eighth of the rest."""
    return _host(cpu=11, memory_gib=100, gpus=1)


def h100_1() -> Resource:
    """One GPU of such a host, and an eighth of the rest."""
    return _host(cpu=11, memory_gib=200, gpus=1)


def h200_1() -> Resource:
    """One GPU of such a host, and an eighth of the rest."""
    return _host(cpu=11, memory_gib=200, gpus=1)


def aws_a100_8() -> Resource:
    """The instance type p4d.24xlarge: 8 A100 of 40 GB."""
    return _aws("p4d.24xlarge", cpu=96, memory_gib=1152, adapters=4)


def aws_h100_8() -> Resource:
    """The instance type p5.48xlarge: 8 H100."""
    return _aws("p5.48xlarge", cpu=192, memory_gib=2048, adapters=32)


def aws_h200_8() -> Resource:
    """The instance type p5en.48xlarge: 8 H200."""
    return _aws("p5en.48xlarge", cpu=192, memory_gib=2048, adapters=16)


def _host(cpu: int, memory_gib: int, gpus: int = _GPUS) -> Resource:
    return Resource(cpu=cpu, gpu=gpus, memMB=memory_gib * 1024)


def _aws(instance: str, cpu: int, memory_gib: int, adapters: int) -> Resource:
    """A whole instance, as https://aws.amazon.com/ec2/instance-types/ describes it.

    Args:
        instance: its type, to which the job is bound.
        cpu: virtual CPUs.
        memory_gib: less the part that AWS needs itself, as TorchX counts it.
        adapters: Elastic Fabric Adapters, all of which the job gets.
    """
    return Resource(
        cpu=cpu,
        gpu=_GPUS,
        memMB=memory_gib * GiB,
        capabilities={K8S_ITYPE: instance},
        devices={EFA_DEVICE: adapters},
    )
