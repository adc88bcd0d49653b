"""Reads delimited text in blocks, in file order and with line numbers, and sets damaged rows aside.

A block is parsed by Arrow on a worker thread; what a row means is left to a `parse` function, which
marks rows as damaged or dropped and returns the columns of an event log.
"""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipelines import storage
from pipelines.prepare.rows import Parse, Rows
from pipelines.ragged import one_array

BLOCK_BYTES = 1 << 25
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class RawFormat:
    """How a raw file is written.

    Raises:
        ValueError: the delimiter or the quote is not one ASCII character.
    """

    columns: tuple[str, ...] = ()
    """Names of the columns of a file without a header; empty: the first line tells."""
    header: bool = False
    """The first line names the columns. Without it and without `columns` they are 1, 2, ..."""
    needed: tuple[str, ...] = ()
    """Columns to read, by name."""
    delimiter: str = ","
    quote: str = ""
    """Character around values that hold the delimiter; empty: there is none."""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or not self.delimiter.isascii():
            raise ValueError(f"--delimiter is {self.delimiter!r}; give one ASCII character")
        if len(self.quote) > 1 or not self.quote.isascii():
            raise ValueError(f"--quote is {self.quote!r}; give one ASCII character or none")


@dataclass(frozen=True)
class _Block:
    columns: dict[str, Any]
    line: np.ndarray
    """Line within the block of each row without a mark, from 0."""
    num_lines: int
    damaged: list[tuple[int, str, str]]
    dropped: Counter[str]


@dataclass
class ReadCounts:
    """What became of the lines read so far."""

    read: int = 0
    damaged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Quarantine:
    """Writes damaged rows to `<out>/quarantine.csv`: line, reason, text.

    Args:
        folder: the dataset's folder.
        raw: name of the raw file, for messages.
        max_bad_rows: how many damaged rows are still acceptable.
    """

    def __init__(self, folder: str, *, raw: str, max_bad_rows: int) -> None:
        self._raw, self._max_bad_rows = raw, max_bad_rows
        self._path = storage.join(folder, "quarantine.csv")
        self._stream: IO[Any] = storage.open_file(self._path, "w")
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._writer.writerow(["line", "reason", "text"])
        self._first: list[str] = []
        self._count = 0

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def add(self, rows: list[tuple[int, str, str]]) -> None:
        """Set rows aside.

        Raises:
            ValueError: there are more than `max_bad_rows` by now.
        """
        self._writer.writerows(rows)
        self._count += len(rows)
        self._first += [f"line {line}: {reason}" for line, reason, _ in rows[:5]]
        if self._count > self._max_bad_rows:
            raise ValueError(
                f"{self._raw} has {self._count} or more damaged rows, --max_bad_rows allows "
                f"{self._max_bad_rows}; the first: {'; '.join(self._first[:5])}; all found so far "
                f"are in {self._path}"
            )


def check_raw(raw: str) -> None:
    """Make sure that the raw log is a file.

    Raises:
        ValueError: it is missing, or a folder.
    """
    if not storage.exists(raw) or storage.is_folder(raw):
        raise ValueError(f"--raw is {raw}, which is not a file; give the raw log itself")


def read_rows(
    raw: str, form: RawFormat, parse: Parse, quarantine: Quarantine, counts: ReadCounts
) -> Iterator[dict[str, Any]]:
    """Read a raw file in bounded memory.

    Args:
        raw: path of the file.
        form: how it is written.
        parse: what a row means.
        quarantine: takes the damaged rows.
        counts: is kept up to date with every block.

    Yields:
        In file order what `parse` returned, without the marked rows, and `line`: the line number
        in the file, from 1.

    Raises:
        ValueError: the file is missing, has too many damaged rows, or a quote is never closed.
    """
    check_raw(raw)
    with storage.open_file(raw, "rb") as stream, ThreadPoolExecutor(2) as pool:
        names, rest = _columns(stream, form)
        line = 2 if form.header else 1
        _check_names(raw, names, form)
        waiting: deque[Future[_Block]] = deque()
        for block in _blocks(stream, rest):
            waiting.append(pool.submit(_parse_block, block, names, form, parse))
            if len(waiting) == 1:
                continue
            result = waiting.popleft().result()
            yield _account(result, line, quarantine, counts)
            line += result.num_lines
        while waiting:
            result = waiting.popleft().result()
            yield _account(result, line, quarantine, counts)
            line += result.num_lines


def _columns(stream: IO[bytes], form: RawFormat) -> tuple[tuple[str, ...], bytes]:
    """Names of the columns, and what of the file was read for it but holds events."""
    if form.columns:
        return form.columns, b""
    first = stream.readline()
    text = first.removeprefix(_BOM).decode("utf-8", "replace").rstrip("\r\n")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE
    quotechar = form.quote or None
    names = next(csv.reader([text], delimiter=form.delimiter, quoting=quoting, quotechar=quotechar))
    if form.header:
        return tuple(names), b""
    return tuple(str(number + 1) for number in range(len(names))), first


def _check_names(raw: str, names: tuple[str, ...], form: RawFormat) -> None:
    missing = [name for name in form.needed if name not in names]
    if missing:
        raise ValueError(
            f"{raw} has no column {', '.join(missing)}; its columns are "
            f"{', '.join(names) or 'none'} (delimiter {form.delimiter!r})"
        )
    for name in form.needed:
        if names.count(name) > 1:
            raise ValueError(f"{raw} has {names.count(name)} columns {name}; it must have one")


def _account(
    block: _Block, first_line: int, quarantine: Quarantine, counts: ReadCounts
) -> dict[str, Any]:
    counts.read += block.num_lines
    counts.damaged += len(block.damaged)
    counts.dropped.update(block.dropped)
    quarantine.add([(first_line + at, why, text) for at, why, text in block.damaged])
    return {"line": block.line + first_line, **block.columns}


def _blocks(stream: IO[bytes], start: bytes) -> Iterator[bytes]:
    rest = (start + stream.read(BLOCK_BYTES)).removeprefix(_BOM)
    while rest:
        # A block ends where a line does, so that blocks can be parsed apart from each other.
        more = stream.read(BLOCK_BYTES)
        cut = rest.rfind(b"\n") + 1
        if not more:
            yield rest if rest.endswith(b"\n") else rest + b"\n"
            return
        if cut:
            yield rest[:cut]
        rest = rest[cut:] + more


def _parse_block(block: bytes, names: tuple[str, ...], form: RawFormat, parse: Parse) -> _Block:
    if b"\r" in block:
        # Arrow would end a row at a lone carriage return and line numbers would drift.
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    wrong: dict[int, str] = {}

    def set_aside(row: Any) -> str:
        wrong[row.number - 1] = f"{row.actual_columns} fields instead of {row.expected_columns}"
        return "skip"

    table = _arrow_table(_utf8(block), names, form, set_aside)
    num_lines = block.count(b"\n")
    if table.num_rows + len(wrong) != num_lines:
        raise ValueError(
            f"a value in the raw file opens a {form.quote} and never closes it on its line; "
            "give another --quote, or none"
        )
    line = np.arange(num_lines)
    line = line[~np.isin(line, list(wrong))] if wrong else line
    rows = Rows({name: one_array(table[name]) for name in form.needed})
    parsed = parse(rows)
    wrong |= {int(line[row]): reason for row, reason in rows.damaged.items()}
    text = block.split(b"\n") if wrong else []
    damaged = [(at, wrong[at], text[at].decode("utf-8", "replace")) for at in sorted(wrong)]
    alive = pa.array(rows.alive)
    columns = {name: pa.array(values).filter(alive) for name, values in parsed.items()}
    return _Block(columns, line[rows.alive], num_lines, damaged, rows.dropped)


def _arrow_table(
    block: bytes, names: tuple[str, ...], form: RawFormat, set_aside: Callable[[Any], str]
) -> pa.Table:
    return arrow_csv.read_csv(
        pa.BufferReader(block),
        read_options=arrow_csv.ReadOptions(
            use_threads=False, column_names=list(names), block_size=max(len(block) + 1, 1024)
        ),
        parse_options=arrow_csv.ParseOptions(
            delimiter=form.delimiter,
            quote_char=form.quote or False,
            double_quote=bool(form.quote),
            ignore_empty_lines=False,
            invalid_row_handler=set_aside,
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in form.needed},
            include_columns=list(form.needed),
            strings_can_be_null=False,
            null_values=[],
            check_utf8=False,
        ),
    )


def _utf8(block: bytes) -> bytes:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return block.decode("utf-8", "replace").encode("utf-8")
    return block
