"""The columns of a parquet file against those of a layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipelines.schema import (
    ID_LIST,
    LAYOUTS,
    Layout,
    history_column,
    is_feature_name,
    layout_schema,
)


def features_of(found: pa.Schema, layout: Layout) -> list[str]:
    """Further features of a file's behaviours: lists of integers beside the layout's columns."""
    names = [
        field.name if layout == "user" else field.name.removeprefix("history_")
        for field in found
        if layout == "user" or field.name.startswith("history_")
    ]
    return [
        name
        for name in names
        if is_feature_name(name)
        and found.names.count(history_column(layout, name)) == 1
        and not list(_differences(found.field(history_column(layout, name)).type, ID_LIST, name))
    ]


def check_columns(
    found: pa.Schema, layout: Layout, path: str, features: Sequence[str] = ()
) -> None:
    """Compare a parquet file's columns with the layout's.

    Args:
        found: the file's.
        layout: to compare with.
        path: of the file.
        features: further features that are read; targets need not have them.

    Raises:
        ValueError: a column is missing, there twice, or has another type. Names of list elements
            and integer widths of list values do not matter; extra columns are ignored.
    """
    base = LAYOUTS[layout].names
    whole = layout_schema(layout, features, [f for f in features if _of_targets(found, layout, f)])
    missing = [name for name in whole.names if name not in found.names]
    if missing:
        fitting = [other for other in LAYOUTS if set(LAYOUTS[other].names) <= set(found.names)]
        needs = f"data.layout {layout}" if missing[0] in base else "the feature of that name"
        raise ValueError(
            f"{path} has no column {missing[0]}, which {needs} needs; "
            f"it has {', '.join(found.names) or 'none'}"
            + "".join(f"; that is data.layout {other}" for other in fitting if other != layout)
        )
    for wanted in whole:
        times = found.names.count(wanted.name)
        if times > 1:
            raise ValueError(f"{path} has {times} columns {wanted.name}; it must have one")
        for problem in _differences(found.field(wanted.name).type, wanted.type, wanted.name):
            raise ValueError(f"{path}: column {problem} (data.layout {layout})")


def _of_targets(found: pa.Schema, layout: Layout, feature: str) -> bool:
    """Whether a file has a feature for targets."""
    if layout == "request":
        return feature in found.names
    if found.names.count("requests") != 1:
        return False
    entries = found.field("requests").type
    return (
        _is_list(entries)
        and pa.types.is_struct(entries.value_type)
        and entries.value_type.get_field_index(feature) >= 0
    )


def _is_list(found: pa.DataType) -> bool:
    return bool(pa.types.is_list(found) or pa.types.is_large_list(found))


def _differences(found: pa.DataType, wanted: pa.DataType, name: str) -> Iterator[str]:
    """What of a column is not as wanted, each with its name and what to do."""
    if pa.types.is_list(wanted):
        if not _is_list(found) or not _same_leaf(found.value_type, wanted.value_type):
            yield f"{name} is {found}, it needs {wanted}; cast it, or write it as that"
        elif pa.types.is_struct(wanted.value_type):
            yield from _field_differences(found, wanted.value_type, name)
    elif not _same_leaf(found, wanted):
        yield f"{name} is {found}, it needs {wanted}; cast it, or write it as that"


def _field_differences(found: pa.ListType, wanted: pa.StructType, name: str) -> Iterator[str]:
    names = Counter(field.name for field in found.value_type)
    for field in wanted:
        if names[field.name] != 1:
            times = "no field" if not names[field.name] else f"{names[field.name]} fields"
            yield f"{name} is {found}, with {times} {field.name}; it needs one"
        else:
            yield from _differences(
                found.value_type.field(field.name).type, field.type, f"{name}.{field.name}"
            )


def _same_leaf(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values can be read as wanted without loss; fields of structs are not looked at."""
    if pa.types.is_struct(wanted):
        return bool(pa.types.is_struct(found))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
