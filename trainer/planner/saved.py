"""A plan as rows, one a shard: what `plan.json` holds, what a report shows, and the way back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any, cast, get_args

from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)

from pipelines import storage
from trainer.planner.config import CAPABILITIES, Precision, TopologySpec
from trainer.sharding import DATA_TYPES, Table

Row = dict[str, str | int | float]
_WORDS = ("collection", "table", "sharding", "kernel")
_NUMBERS = ("rank", "first row", "rows", "first column", "columns")
_EXTENTS = (("first row", "rows"), ("first column", "columns"))


def plan_rows(plan: ShardingPlan, tables: Mapping[str, Table]) -> list[Row]:
    """A plan as rows of a table: one row a shard.

    Args:
        plan: of all tables.
        tables: of the model, before sharding.
    """
    rows: list[Row] = []
    for module, placements in plan.plan.items():
        for name, sharding in cast(EmbeddingModuleShardingPlan, placements).items():
            table = tables[name]
            load = sharding.cache_params.load_factor if sharding.cache_params else None
            for rank, (offset, size) in zip(
                cast(list[int], sharding.ranks), _shards(sharding, table), strict=True
            ):
                row: Row = {
                    "collection": module.removeprefix("ranker.embeddings.collections."),
                    "table": name,
                    "sharding": sharding.sharding_type,
                    "kernel": sharding.compute_kernel,
                    "precision": table.precision,
                    "rank": rank,
                    "first row": offset[0],
                    "rows": size[0],
                    "first column": offset[1],
                    "columns": size[1],
                    "bytes": size[0] * size[1] * table.element_bytes,
                }
                rows.append(row | ({"cache load factor": load} if load else {}))
    return rows


def _shards(sharding: ParameterSharding, table: Table) -> list[tuple[list[int], list[int]]]:
    """Offset and size of each; a data-parallel table is whole on every rank."""
    parts = getattr(sharding.sharding_spec, "shards", None)
    if parts is None:
        return [([0, 0], [table.rows, table.width])] * len(cast(list[int], sharding.ranks))
    return [(part.shard_offsets, part.shard_sizes) for part in parts]


def read_rows(path: str) -> list[Row]:
    """The rows of a `plan.json`.

    Raises:
        ValueError: not there, no JSON, or not rows of a plan, one line a mistake.
    """
    if not storage.exists(path):
        raise ValueError(f"sharding.saved_plan is {path}, which is not there")
    with storage.open_file(path, "r") as stream:
        try:
            raw = json.load(stream)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"sharding.saved_plan: {path} is not JSON: {error}") from error
    if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
        raise ValueError(f"sharding.saved_plan: {path} must hold a list of shards")
    mistakes = [
        f"sharding.saved_plan: {path} shard {number}: {name} is {row.get(name)!r}; {wanted}"
        for number, row in enumerate(raw)
        for names, kind, wanted in ((_WORDS, str, "a word"), (_NUMBERS, int, "a whole number"))
        for name in names
        if not isinstance(row.get(name), kind)
    ]
    mistakes += [
        f"sharding.saved_plan: {path} shard {number}: precision is {row['precision']!r}; one of "
        f"{', '.join(get_args(Precision))}"
        for number, row in enumerate(raw)
        if row.get("precision", "fp32") not in get_args(Precision)
    ]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return raw


def saved_precisions(rows: list[Row]) -> dict[str, Precision]:
    """Precision by table."""
    return {str(row["table"]): cast(Precision, row.get("precision", "fp32")) for row in rows}


def restore_plan(
    rows: list[Row], tables: Mapping[str, Table], topology: TopologySpec, path: str
) -> ShardingPlan:
    """The plan that rows describe, checked against the tables and the ranks it is for.

    Args:
        rows: of `read_rows`.
        tables: of the model, with the precisions of the rows.
        topology: the machines that one copy of all tables is spread over.
        path: of the file, for messages.

    Raises:
        ValueError: every mistake, one a line.
    """
    shards: dict[str, list[Row]] = {}
    for row in rows:
        shards.setdefault(str(row["table"]), []).append(row)
    unknown, missing = sorted(shards.keys() - tables.keys()), sorted(tables.keys() - shards.keys())
    mistakes = [f"has {name}, which is no table of the model" for name in unknown]
    mistakes += [f"lacks {name}, a table of the model" for name in missing]
    for name in sorted(shards.keys() & tables.keys()):
        mistakes += _mistakes(name, shards[name], tables[name], topology)
    if mistakes:
        raise ValueError("\n".join(f"sharding.saved_plan: {path} {text}" for text in mistakes))
    plan: dict[str, EmbeddingModuleShardingPlan] = {}
    for name, parts in shards.items():
        module = plan.setdefault(tables[name].path, EmbeddingModuleShardingPlan())
        module[name] = _sharding(parts, topology)
    return ShardingPlan(cast(dict[str, Any], plan))


def _mistakes(name: str, parts: list[Row], table: Table, topology: TopologySpec) -> list[str]:
    can = CAPABILITIES[topology.device, table.kind]
    kernels = can.compute_kernels
    found = []
    for what, allowed in (("sharding", can.sharding_types), ("kernel", kernels)):
        used = {str(part[what]) for part in parts}
        if len(used) > 1:
            found.append(f"{name} has {what} {', '.join(sorted(used))}; one a table")
        found += [
            f"{name} has {what} {word}; {table.kind} tables on {topology.device} take "
            f"{', '.join(allowed)}"
            for word in sorted(used - set(allowed))
        ]
    if table.precision not in can.precisions:
        found.append(f"{name} is {table.precision}; {topology.device}: {', '.join(can.precisions)}")
    numbers = [{key: int(part[key]) for key in _NUMBERS} for part in parts]
    least, most = (bound(part["rank"] for part in numbers) for bound in (min, max))
    if least < 0 or most >= topology.ranks:
        found.append(
            f"{name} is on ranks {least} to {most}; the job has ranks 0 to {topology.ranks - 1}"
        )
    shape = [max(part[f] + part[n] for part in numbers) for f, n in _EXTENTS]
    held = sum(part["rows"] * part["columns"] for part in numbers)
    if shape != [table.rows, table.width] or held != table.rows * table.width:
        found.append(
            f"{name} has shards of {held:,} numbers up to row {shape[0]:,} and column {shape[1]}; "
            f"the table has {table.rows:,} rows of {table.width}"
        )
    elif any(_overlap(*pair) for pair in itertools.combinations(numbers, 2)):
        found.append(f"{name} has shards that overlap; each of its numbers is on one of them")
    if parts[0]["sharding"] in ("table_row_wise", "grid_shard"):
        found += _split_hosts(name, str(parts[0]["sharding"]), numbers, topology.gpus_a_host)
    if parts[0]["sharding"] == "row_wise" and [part["rank"] for part in numbers] != [
        *range(topology.ranks)
    ]:
        found.append(f"{name} is row_wise; that is one shard on each of {topology.ranks} ranks")
    return found


def _split_hosts(
    name: str, sharding: str, numbers: list[dict[str, int]], gpus_a_host: int
) -> list[str]:
    """TorchRec takes each column shard's rows to lie on all ranks of one host."""
    columns: dict[int, list[int]] = {}
    for part in numbers:
        columns.setdefault(part["first column"], []).append(part["rank"])
    return [
        f"{name} is {sharding} and has a column shard on ranks {', '.join(map(str, ranks))}; "
        f"that is one shard on each of the {gpus_a_host} ranks of one host"
        for ranks in columns.values()
        if sorted(ranks) != [*range(ranks[0], ranks[0] + gpus_a_host)] or ranks[0] % gpus_a_host
    ]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[first] < other[first] + other[size] and other[first] < one[first] + one[size]
        for first, size in _EXTENTS
    )


def _sharding(parts: list[Row], topology: TopologySpec) -> ParameterSharding:
    kind, load = str(parts[0]["sharding"]), parts[0].get("cache load factor")
    specification = EnumerableShardingSpec(
        [
            ShardMetadata(
                shard_offsets=[int(part["first row"]), int(part["first column"])],
                shard_sizes=[int(part["rows"]), int(part["columns"])],
                placement=placement(topology.device, int(part["rank"]), topology.gpus_a_host),
            )
            for part in parts
        ]
    )
    half = parts[0].get("precision", "fp32") != "fp32"
    return ParameterSharding(
        sharding_spec=specification,
        sharding_type=kind,
        compute_kernel=str(parts[0]["kernel"]),
        ranks=[int(part["rank"]) for part in parts],
        cache_params=CacheParams(load_factor=float(load)) if load else None,
        output_dtype=DATA_TYPES["fp32"] if half else None,
    )
