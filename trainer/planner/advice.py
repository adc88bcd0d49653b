"""Why no plan fits, and which change would make one fit: each is tried before it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from trainer.config import TrainConfig
from trainer.optim import SparseOptimizerConfig
from trainer.planner.config import PlanConfig, TableSpec, TopologySpec
from trainer.planner.planning import DoesNotFitError, fits, shortfall
from trainer.planner.workload import Workload

MakeWorkload = Callable[[TrainConfig, PlanConfig], Workload]
_MOST_TIMES_HOSTS = 16
_MOST_RANKS = 1024
"""More are tried as twice those there are only: planning thousands takes a minute."""
_LEAST_WIDTH = 4
_SIDES = ("target", "history")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a run's config or of its planner config."""

    told: str
    config: TrainConfig
    plan: PlanConfig


def explain(
    config: TrainConfig, workload: Workload, failed: DoesNotFitError, make_workload: MakeWorkload
) -> str:
    """Lines for a user: what lacks where, and what would help.

    Args:
        config: of the run.
        workload: that does not fit.
        failed: the planner's answer to it.
        make_workload: the workload of changed configs.
    """
    lack = shortfall(workload, failed.nearest)
    where = f"sharding.plan {config.sharding.plan or '(none)'}"
    found = find_changes(config, workload, lack.table, make_workload)
    lines = [f"{where}: it would fit with {told}" for told in found]
    if not lines:
        lines = [f"{where}: no change of {lack.table}, machines or batch that was tried helps"]
    return "\n".join([f"{where}: no plan fits: {lack}", *lines])


def find_changes(
    config: TrainConfig, workload: Workload, table: str, make_workload: MakeWorkload
) -> list[str]:
    """The changes that let a plan fit, each planned with; where none alone does, several at once.

    Args:
        config: of the run.
        workload: that does not fit.
        table: that takes most of the memory that lacks.
        make_workload: the workload of changed configs.
    """
    alone = [
        change.told
        for steps in _changes(config, workload.config, table, workload.topology)
        if (change := _first_that_fits(steps, make_workload)) is not None
    ]
    return alone or _changes_together(config, workload, table, make_workload)


def _changes_together(
    config: TrainConfig, workload: Workload, table: str, make_workload: MakeWorkload
) -> list[str]:
    """The smallest change of each kind on top of the others, until it fits."""
    plan, told = workload.config, list[str]()
    for kind in range(len(_changes(config, plan, table, workload.topology))):
        steps = _changes(config, plan, table, workload.topology)[kind]
        change = _first_that_fits(steps, make_workload)
        if change is not None:
            return [", ".join([*told, change.told])]
        if steps:
            config, plan = steps[0].config, steps[0].plan
            told.append(steps[0].told)
    return []


def _first_that_fits(steps: list[Change], make_workload: MakeWorkload) -> Change | None:
    return next((c for c in steps if fits(make_workload(c.config, c.plan))), None)


def _changes(
    config: TrainConfig, plan: PlanConfig, table: str, machines: TopologySpec
) -> list[list[Change]]:
    """By kind, changes of rising size."""
    on_cuda = machines.device == "cuda"
    kinds = [
        _precision(config, plan, table) if on_cuda else (),
        _kernel(config, plan, table) if on_cuda else (),
        _sharding(config, plan, table) if machines.ranks > 1 else (),
        _optimizer(config, plan),
        _width(config, plan, table),
        _hosts(config, plan, machines),
        _batch(config, plan),
    ]
    return [list(kind) for kind in kinds]


def _with_table(plan: PlanConfig, table: str, spec: TableSpec) -> PlanConfig:
    return replace(plan, tables={**plan.tables, table: spec})


def _precision(config: TrainConfig, plan: PlanConfig, table: str) -> Iterator[Change]:
    spec = plan.tables[table]
    if spec.precision == "fp32":
        yield Change(
            told=f"tables.{table}.precision fp16",
            config=config,
            plan=_with_table(plan, table, replace(spec, precision="fp16")),
        )


def _kernel(config: TrainConfig, plan: PlanConfig, table: str) -> Iterator[Change]:
    spec = plan.tables[table]
    if "fused_uvm_caching" not in spec.compute_kernels:
        yield Change(
            told=f"tables.{table}.compute_kernels [fused_uvm_caching]",
            config=config,
            plan=_with_table(plan, table, replace(spec, compute_kernels=("fused_uvm_caching",))),
        )


def _sharding(config: TrainConfig, plan: PlanConfig, table: str) -> Iterator[Change]:
    spec = plan.tables[table]
    if spec.sharding_types and "row_wise" not in spec.sharding_types:
        yield Change(
            told=f"tables.{table}.sharding_types [row_wise]",
            config=config,
            plan=_with_table(plan, table, replace(spec, sharding_types=("row_wise",))),
        )


def _optimizer(config: TrainConfig, plan: PlanConfig) -> Iterator[Change]:
    if "adam" in config.optim.sparse.name:
        # With the learning rate and eps of the run; Adam's betas it has none of.
        given = config.optim.sparse
        sparse = SparseOptimizerConfig(
            name="rowwise_adagrad", learning_rate=given.learning_rate, eps=given.eps
        )
        yield Change(
            told="optim.sparse.name rowwise_adagrad",
            config=replace(config, optim=replace(config.optim, sparse=sparse)),
            plan=plan,
        )


def _hosts(config: TrainConfig, plan: PlanConfig, machines: TopologySpec) -> Iterator[Change]:
    """Twice as many, four times, ...; machines of all copies of the tables."""
    whole, times = plan.topology or machines, 2
    while times == 2 or times <= min(_MOST_TIMES_HOSTS, _MOST_RANKS / whole.ranks):
        topology = replace(whole, hosts=times * whole.hosts)
        yield Change(
            told=f"topology.hosts {topology.hosts}",
            config=config,
            plan=replace(plan, topology=topology),
        )
        times *= 2


def _batch(config: TrainConfig, plan: PlanConfig) -> Iterator[Change]:
    """Half the batch, down to a sixteenth: fewer ids and rows that are under way."""
    size = config.data.batch_size // 2
    while size >= max(1, config.data.batch_size // 16):
        data = replace(config.data, batch_size=size)
        yield Change(told=f"data.batch_size {size}", config=replace(config, data=data), plan=plan)
        size //= 2


def _width(config: TrainConfig, plan: PlanConfig, table: str) -> Iterator[Change]:
    """Half the width, a quarter, ...; of all sections that the table's space takes it from."""
    embeddings = config.model.embeddings
    (space, feature), *_ = (
        (space, feature)
        for space, widths in embeddings.spaces().items()
        for feature in widths.tables
        if table == f"{space}_{feature}"
    )
    sections = [
        section
        for section in ("attention", "representation")
        if space in (getattr(embeddings.uses, f"{section}_{side}") for side in _SIDES)
    ]
    width = getattr(embeddings, sections[0]).tables[feature] // 2
    while width >= _LEAST_WIDTH:
        if width % 4 == 0:
            changed: dict[str, Any] = {
                section: getattr(embeddings, section).with_width(feature, width)
                for section in sections
            }
            model = replace(config.model, embeddings=replace(embeddings, **changed))
            further = "features." if feature in embeddings.spaces()[space].features else ""
            yield Change(
                told=" ".join(f"model.embeddings.{s}.{further}{feature} {width}" for s in sections),
                config=replace(config, model=model),
                plan=plan,
            )
        width //= 2
