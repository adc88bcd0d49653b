"""A planner config, `launch/plans/*.yaml`: what it may say, and every mistake of a file at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from pipelines import storage
from trainer.planner.mistakes import Mistakes, shown
from trainer.yaml_file import YamlError, load, read_text

Kind = Literal["unpooled", "pooled"]
"""`unpooled`: a table of an `EmbeddingCollection`; `pooled`: of an `EmbeddingBagCollection`."""
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "fp16"]
Proposer = Literal["grid", "greedy", "uniform", "dynamic_programming"]
_MOST_HOSTS = 4096
"""More would take TorchRec's planner hours."""
GB = 10**9
"""Bytes; memories and bandwidths of a config are in GB."""


@dataclass(frozen=True)
class Capability:
    """What tables of a kind can do on a device, in TorchRec's names."""

    sharding_types: tuple[str, ...]
    compute_kernels: tuple[str, ...]
    precisions: tuple[Precision, ...]


_WHOLE = ("table_wise", "row_wise", "column_wise")
_BAGS = (*_WHOLE, "table_column_wise", "table_row_wise", "grid_shard")
_CUDA_KERNELS = ("fused", "fused_uvm", "fused_uvm_caching")
CAPABILITIES: Mapping[tuple[Device, Kind], Capability] = {
    ("cpu", "unpooled"): Capability(_WHOLE, ("fused",), ("fp32",)),
    ("cpu", "pooled"): Capability(_BAGS, ("fused",), ("fp32",)),
    ("cuda", "unpooled"): Capability(_WHOLE, _CUDA_KERNELS, ("fp32", "fp16")),
    ("cuda", "pooled"): Capability(_BAGS, _CUDA_KERNELS, ("fp32", "fp16")),
}
"""All that is allowed. CUDA's kernels train fp32 and fp16 tables, the CPU's fp32 only. A
data-parallel table would be stepped by the dense optimizer, so there is none."""


@dataclass(frozen=True, kw_only=True)
class TopologySpec:
    """The machines that a plan is for."""

    hosts: int = 1
    gpus_a_host: int = 1
    """Ranks a host; on `device: cpu` its processes."""
    device: Device = "cuda"
    hbm_gb: float = 141.0
    """Memory of a GPU."""
    host_memory_gb: float = 2000.0
    """Memory of a host, shared equally by its ranks."""
    in_host_gb_per_s: float = 450.0
    """From a GPU to the others of its host, one way."""
    between_hosts_gb_per_s: float = 50.0
    """From a GPU to other hosts, one way."""

    @property
    def ranks(self) -> int:
        """Ranks of all hosts."""
        return self.hosts * self.gpus_a_host


@dataclass(frozen=True, kw_only=True)
class ReservationSpec:
    """Memory that is not for tables: dense parameters, activations, readers."""

    hbm_share: float = 0.15
    host_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What the planner may do with a table; an empty list leaves it the choice."""

    sharding_types: tuple[str, ...] = ()
    compute_kernels: tuple[str, ...] = ()
    precision: Precision = "fp32"
    """Type of the weights; optimizer state and looked up rows are fp32."""
    min_partition: int = 0
    """Columns a column-wise shard has at least; 0 for TorchRec's own."""
    cache_load_factor: float = 0.0
    """Share of a `fused_uvm_caching` table's rows that its cache holds; 0 for TorchRec's own."""


@dataclass(frozen=True, kw_only=True)
class ReplicationSpec:
    """2D parallelism: groups of neighbouring ranks, each with all tables (DMPCollection)."""

    groups: int = 1
    sync_every: int = 100
    """Steps between averagings of the tables over the groups."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a planner config says; every section is optional."""

    topology: TopologySpec | None = None
    """None takes the running job's."""
    reservation: ReservationSpec = field(default_factory=ReservationSpec)
    tables: Mapping[str, TableSpec] = field(default_factory=dict)
    """By table, of all tables of the model."""
    proposer: Proposer = "grid"
    """TorchRec's search; all but `greedy` fall back on it."""
    replication: ReplicationSpec = field(default_factory=ReplicationSpec)

    def precisions(self) -> dict[str, Precision]:
        """Precision by table."""
        return {name: table.precision for name, table in self.tables.items()}


def load_plan_config(path: str, kinds: Mapping[str, Kind], device: Device) -> PlanConfig:
    """Read a planner config and check all of it.

    Args:
        path: the YAML file; empty for one that says nothing.
        kinds: every table of the model.
        device: of the running job; a topology in the file names its own.

    Raises:
        ValueError: every mistake of the file, one a line.
    """
    mistakes = Mistakes(f"sharding.plan: {path}: ")
    raw = _read(path) if path else {}
    sections = mistakes.mapping(
        raw, "the file", ("topology", "reservation", "tables", "proposer", "replication")
    )
    topology = _topology(sections["topology"], mistakes) if "topology" in sections else None
    config = PlanConfig(
        topology=topology,
        reservation=_reservation(sections.get("reservation", {}), mistakes),
        tables=_tables(
            sections.get("tables", {}), kinds, topology.device if topology else device, mistakes
        ),
        proposer=mistakes.choice(sections, "proposer", "grid", get_args(Proposer)),
        replication=_replication(sections.get("replication", {}), topology, mistakes),
    )
    if mistakes.lines:
        # What is wrong under `*` is wrong once, whatever the number of tables.
        raise ValueError("\n".join(dict.fromkeys(mistakes.lines)))
    return config


def _read(path: str) -> Any:
    if not storage.exists(path):
        raise ValueError(f"sharding.plan is {path}, which is not there")
    try:
        return load(read_text(path))
    except YamlError as error:
        raise ValueError(f"sharding.plan: {error.of(path)}") from error
    except ValueError as error:
        raise ValueError(f"sharding.plan: {error}") from error


def _topology(raw: Any, mistakes: Mistakes) -> TopologySpec:
    names = tuple(TopologySpec.__dataclass_fields__)
    section = mistakes.mapping(raw, "topology", names)
    values = {
        name: mistakes.number(section, f"topology.{name}", getattr(TopologySpec, name), *limits)
        for name, limits in (
            ("hosts", (1, _MOST_HOSTS)),
            ("gpus_a_host", (1, 64)),
            ("hbm_gb", (0,)),
            ("host_memory_gb", (0,)),
            ("in_host_gb_per_s", (0.001,)),
            ("between_hosts_gb_per_s", (0.001,)),
        )
    }
    device = mistakes.choice(section, "topology.device", "cuda", get_args(Device))
    return TopologySpec(device=device, **values)


def _reservation(raw: Any, mistakes: Mistakes) -> ReservationSpec:
    section = mistakes.mapping(raw, "reservation", ("hbm_share", "host_share"))
    return ReservationSpec(
        hbm_share=mistakes.number(section, "reservation.hbm_share", 0.15, 0, 0.99),
        host_share=mistakes.number(section, "reservation.host_share", 0.1, 0, 0.99),
    )


def _replication(raw: Any, topology: TopologySpec | None, mistakes: Mistakes) -> ReplicationSpec:
    section = mistakes.mapping(raw, "replication", ("groups", "sync_every"))
    groups = mistakes.number(section, "replication.groups", 1, 1)
    if groups > 1 and topology is None:
        mistakes.add(f"replication.groups is {groups}; it needs a topology to divide")
    elif topology is not None and groups > 1:
        size, uneven = divmod(topology.ranks, groups)
        inside, whole = topology.gpus_a_host % max(1, size), size % topology.gpus_a_host
        if uneven or (inside and whole):
            mistakes.add(
                f"replication.groups is {groups}, the topology has {topology.hosts} hosts of "
                f"{topology.gpus_a_host}; a group must be an equal part of a host, or whole hosts"
            )
        if topology.device == "cpu":
            mistakes.add(
                f"replication.groups is {groups}; TorchRec's DMPCollection needs device cuda"
            )
    every = mistakes.number(section, "replication.sync_every", 100, 1)
    return ReplicationSpec(groups=groups, sync_every=every)


def _tables(
    raw: Any, kinds: Mapping[str, Kind], device: Device, mistakes: Mistakes
) -> dict[str, TableSpec]:
    section = mistakes.mapping(raw, "tables", (*kinds, "*"))
    found = {}
    for table, kind in kinds.items():
        key = table if table in section else "*"
        found[table] = _table(section.get(key, {}), f"tables.{key}", kind, device, mistakes)
    return found


def _table(raw: Any, where: str, kind: Kind, device: Device, mistakes: Mistakes) -> TableSpec:
    can = CAPABILITIES[device, kind]
    section = mistakes.mapping(raw, where, tuple(TableSpec.__dataclass_fields__))
    on = f"an {kind} table takes on {device}" if kind == "unpooled" else f"a {kind} one on {device}"
    chosen = {
        name: mistakes.choices(section[name], f"{where}.{name}", getattr(can, name), on)
        for name in ("sharding_types", "compute_kernels")
        if section.get(name) is not None
    }
    precision = section.get("precision", "fp32")
    if precision not in can.precisions:
        mistakes.add(
            f"{where}.precision is {shown(precision)}; {on}: {', '.join(can.precisions)}"
            + ("; FBGEMM has no kernel that trains bf16 tables" if precision == "bf16" else "")
        )
    load = mistakes.number(section, f"{where}.cache_load_factor", 0.0, 0, 1)
    if load and "fused_uvm_caching" not in chosen.get("compute_kernels", ()):
        mistakes.add(
            f"{where}.cache_load_factor is {load}; it needs fused_uvm_caching in compute_kernels"
        )
    columns = mistakes.number(section, f"{where}.min_partition", 0, 0)
    if columns % 4:
        mistakes.add(f"{where}.min_partition is {columns}; it must be a multiple of 4 (FBGEMM)")
    return TableSpec(
        **chosen,
        precision=cast(Precision, precision),
        min_partition=columns,
        cache_load_factor=load,
    )
