"""`dare prepare csv`: any event log in delimited text, with columns the user names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.prepare.build import Preparation, prepare
from pipelines.prepare.days import seconds_or_iso
from pipelines.prepare.event_kinds import select_events
from pipelines.prepare.event_store import DEFAULT_RESOURCES, RESERVED, Resources
from pipelines.prepare.protocol import PAPER, Protocol
from pipelines.prepare.raw_file import RawFormat
from pipelines.prepare.rows import Parse, Rows
from pipelines.schema import DatasetSchema, Layout, is_feature_name

NO_FEATURES: dict[str, str] = {}
_NAMES = ("user", "item", "category", "time", "event")


def prepare_csv(
    *,
    raw: str,
    out: str,
    user_column: str,
    item_column: str,
    category_column: str,
    time_column: str,
    event_column: str = "",
    events: tuple[str, ...] = (),
    features: dict[str, str] = NO_FEATURES,
    target_features: tuple[str, ...] = (),
    delimiter: str = ",",
    quote: str = '"',
    header: bool = True,
    layout: Layout = "user",
    history_length: int = 200,
    protocol: Protocol = PAPER,
    max_bad_rows: int = 100,
    seed: int = 1,
    resources: Resources = DEFAULT_RESOURCES,
) -> DatasetSchema:
    r"""Turn any event log in delimited text into a dataset.

    Args:
        raw: the log, one event a line.
        out: folder of the new dataset.
        user_column: column with the user, any text; without a header its number, from 1.
        item_column: column with the item, any text.
        category_column: column with the item's category, any text.
        time_column: column with the time: seconds since 1970, or other whole numbers that rise with
            time, as digits alone; or ISO 8601 with its hyphens, such as 2017-11-01 or
            2017-11-01T12:30:00+08:00 (UTC where no zone is said).
        event_column: column with the kind of event; empty: every row is a click.
        events: which kinds of event count as clicks.
        features: further features of a behaviour and their columns, any text, as in
            `{behaviour_type: action, scenario: page}`; ids are numbers from 1, as of items. A model
            reads those that `model.embeddings.attention.features` and `...representation.features`
            name.
        target_features: those of the features that are known before a click, as in `[scenario]`:
            all targets of a request have those of its click. Not what the click itself decides,
            such as its type, which would tell the label.
        delimiter: character between values; \t is a tab.
        quote: character around values that hold the delimiter; empty: there is none.
        header: whether the first line names the columns.
        layout: one row a user, or one row a request.
        history_length: behaviours a row keeps, with the request layout; the user layout keeps all.
        protocol: which clicks become targets.
        max_bad_rows: more damaged rows than this are an error.
        seed: of the negatives.
        resources: what it may take of the machine.

    Raises:
        ValueError: an option or the raw file is not what it should be.
    """
    columns = (user_column, item_column, category_column, time_column, event_column)
    _check_features(features, target_features)
    form = _form((*columns, *features.values()), delimiter, quote, header)
    job = Preparation(
        source="csv",
        raw=raw,
        out=out,
        layout=layout,
        history_length=history_length,
        protocol=protocol,
        resources=resources,
        max_bad_rows=max_bad_rows,
        seed=seed,
        options={
            **_options(columns, events, form),
            "features": dict(features),
            "target_features": list(target_features),
        },
        features=tuple(features),
        target_features=target_features,
    )
    return prepare(job, form, _parser(columns, events, features))


def _check_features(features: Mapping[str, str], target_features: tuple[str, ...]) -> None:
    for name, column in features.items():
        # The event store takes upper and lower case for the same.
        sound = re.fullmatch("[a-z_][a-z0-9_]*", name) and is_feature_name(name)
        if not sound or name in RESERVED or not column:
            raise ValueError(
                f"--features has {name}: {column!r}; give the column of each by a name of "
                f"lower-case letters, digits and _ that is none of {', '.join(RESERVED)} or of the "
                "layout's columns, and does not begin with history_ or target_"
            )
    strange = [name for name in target_features if name not in features]
    if strange:
        raise ValueError(
            f"--target_features has {strange[0]}; --features are {', '.join(features) or 'none'}"
        )


def _form(columns: tuple[str, ...], delimiter: str, quote: str, header: bool) -> RawFormat:
    needed = tuple(dict.fromkeys(name for name in columns if name))
    tab = delimiter.replace("\\t", "\t")
    return RawFormat(header=header, needed=needed, delimiter=tab, quote=quote)


def _options(
    columns: tuple[str, ...], events: tuple[str, ...], form: RawFormat
) -> dict[str, object]:
    return {
        **{f"{name}_column": column for name, column in zip(_NAMES, columns, strict=True)},
        "events": list(events),
        "delimiter": form.delimiter,
        "quote": form.quote,
        "header": form.header,
    }


def _parser(
    columns: tuple[str, ...], events: tuple[str, ...], features: Mapping[str, str]
) -> Parse:
    unnamed = [
        f"--{name}_column"
        for name, column in zip(_NAMES[:4], columns[:4], strict=True)
        if not column
    ]
    if unnamed:
        raise ValueError(f"{', '.join(unnamed)} is empty; name the column")
    event_column = columns[4]
    if bool(event_column) != bool(events):
        raise ValueError(
            f"--event_column is {event_column!r} and --events is {list(events)}; give both to "
            "choose the events that count, or neither to count every row"
        )

    def parse(rows: Rows) -> dict[str, Any]:
        user, item, category = (rows.ids(name) for name in columns[:3])
        time = seconds_or_iso(rows, columns[3])
        event = np.zeros(rows.num_rows, np.int8)
        if event_column:
            event = select_events(rows, event_column, events)
        found = {"user": user, "item": item, "category": category, "event": event, "time": time}
        return found | {name: rows.values(column) for name, column in features.items()}

    return parse
