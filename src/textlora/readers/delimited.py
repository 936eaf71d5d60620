"""CSV and its kin: records out of lines, whatever is broken in them, and the delimiter when it is not given."""

from __future__ import annotations

import csv
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textlora.errors import DataError, UsageError
from textlora.readers.decoding import TextFile
from textlora.readers.tables import RECORD_LIMIT, BadRow, Confidence, Row, Table, shorten

DELIMITERS = (",", ";", "\t", "|")
_SNIFF_ROWS = 200
_SNIFF_LIMIT = 1 << 20
_FAIR_SHARE = 0.5
_GOOD_SHARE = 0.9


def csv_table(source: TextFile, delimiter: str | None) -> Table:
    """Return a CSV file as a table; the delimiter is found when it is None.

    Raises:
        UsageError: the delimiter is not one character.
        DataError: the header is missing or broken, or no row follows it.
    """
    delimiter = _delimiter_option(delimiter)
    confidence: Confidence = "sure"
    if delimiter is None:
        delimiter, confidence = _find_delimiter(source)
    found = delimiter
    records = _csv_records(source.lines(), found)
    columns = _header(source.path, next(records, None))
    if next(records, None) is None:
        raise DataError(
            f"{source.path} has a header but no rows.", hint="Rows must follow the line that names the columns."
        )
    return Table(
        str(source.path),
        "csv",
        columns,
        lambda: _csv_rows(source, found, len(columns)),
        found,
        confidence,
        source.codec,
        source.meter,
    )


def _delimiter_option(delimiter: str | None) -> str | None:
    named = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    if named is not None and (len(named) != 1 or named in '"\r\n'):
        raise UsageError(
            f"The delimiter is {delimiter!r}, expected one character.", hint="Usual ones: comma, semicolon, | or tab."
        )
    return named


def _header(path: Path, record: _Record | None) -> tuple[str, ...]:
    if record is None:
        raise DataError(f"{path} is empty.", hint="The first line must name the columns, rows must follow.")
    if record.cells is None:
        raise DataError(
            f"The header of {path} (line {record.line}) is broken: {record.reason}.",
            hint="The first line must name the columns.",
        )
    twice = sorted({name for name in record.cells if name and record.cells.count(name) > 1})
    if twice:
        raise DataError(
            f"The header of {path} names {', '.join(map(repr, twice))} more than once.",
            hint="Every column needs a name of its own.",
        )
    return tuple(record.cells)


def _csv_rows(source: TextFile, delimiter: str, width: int) -> Iterator[Row | BadRow]:
    records = _csv_records(source.lines(), delimiter)
    next(records)
    number = 0
    mended = True
    for record in records:
        reason = record.reason or _width_fault(record.cells, width)
        # After a broken quote, the tail of the broken cell may look like a row: its quotes tell.
        if not reason and not mended and record.quotes % 2:
            reason = "stray quote"
        mended = not reason or (mended and "quote" not in reason)
        if reason:
            yield BadRow(record.line, reason, record.raw)
            continue
        yield Row(number, record.line, tuple(record.cells or ()))
        number += 1


def _width_fault(cells: list[str] | None, width: int) -> str:
    found = len(cells or ())
    return "" if found == width else "too few cells" if found < width else "too many cells"


@dataclass(frozen=True, slots=True)
class _Record:
    """Cells of one CSV record, or the reason why there are none; ``lines`` are its raw lines."""

    line: int
    cells: list[str] | None
    reason: str
    lines: tuple[str, ...]

    @property
    def raw(self) -> str:
        return shorten(self.lines)

    @property
    def quotes(self) -> int:
        return sum(line.count('"') for line in self.lines)


class _Feed:
    """Hands lines to ``csv.reader`` and keeps those of the record in hand, to be able to go back.

    A quote that is never closed swallows all that follows. Then the line where the record began
    is given up and reading goes on at the next line. To keep this linear, what is read in vain
    may not exceed four times what was read for good, plus one record's limit.
    """

    def __init__(self, lines: Iterable[str], limit: int) -> None:
        self._lines = iter(lines)
        self._returned: deque[str] = deque()
        self._limit = limit
        self._credit = limit
        self._room = limit
        self.line = 1
        self.held: list[str] = []
        self.cut = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._room <= 0:
            self.cut = True
            raise StopIteration
        self.held.append(self._next_line())
        self._room -= len(self.held[-1])
        if len(self.held[-1]) > RECORD_LIMIT:
            raise csv.Error("oversized line")
        return self.held[-1]

    def _next_line(self) -> str:
        if self._returned:
            return self._returned.popleft()
        try:
            return next(self._lines)
        except StopIteration:
            self.cut = True
            raise

    def begin(self) -> None:
        """Start a record."""
        self.line += len(self.held)
        self._credit += 4 * sum(map(len, self.held))
        self.held, self.cut = [], False
        self._room = max(1, min(self._limit, self._credit))

    def go_back(self) -> None:
        """Return all lines but the first of the failed record."""
        self._credit -= sum(map(len, self.held[1:]))
        self._returned.extendleft(reversed(self.held[1:]))
        del self.held[1:]


def _csv_records(lines: Iterable[str], delimiter: str, limit: int = RECORD_LIMIT) -> Iterator[_Record]:
    """Yield the records that are not blank; broken ones without cells."""
    # The limit is one of the whole process: it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    feed = _Feed(lines, limit)
    while True:
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        try:
            feed.begin()
            for cells in reader:
                if cells and not (len(cells) == 1 and not cells[0].strip()):
                    yield _whole_record(feed, cells)
                feed.begin()
            return
        except csv.Error:
            reason = _fault(feed)
            feed.go_back()
            yield _Record(feed.line, None, reason, tuple(feed.held))


def _whole_record(feed: _Feed, cells: list[str]) -> _Record:
    lines = tuple(feed.held)
    if any("\0" in line for line in lines):
        return _Record(feed.line, None, "nul byte", lines)
    return _Record(feed.line, cells, "", lines)


def _fault(feed: _Feed) -> str:
    first = feed.held[0]
    if "\0" in first:
        return "nul byte"
    if len(first) > RECORD_LIMIT:
        return "oversized"
    return "unclosed quote" if feed.cut or len(feed.held) > 1 else "stray quote"


def _find_delimiter(source: TextFile) -> tuple[str, Confidence]:
    """Return the delimiter that cuts header and first rows into equally many cells."""
    shares = {delimiter: _even_share(source, delimiter) for delimiter in DELIMITERS}
    # Ties go to the earlier one in DELIMITERS.
    best = max(DELIMITERS, key=lambda delimiter: shares[delimiter])
    rivals = [delimiter for delimiter in DELIMITERS if delimiter != best and shares[delimiter] >= _FAIR_SHARE]
    if rivals or not shares[best]:
        return best, "guess"
    if shares[best] >= _GOOD_SHARE:
        return best, "sure"
    return best, "likely" if shares[best] >= _FAIR_SHARE or sum(map(bool, shares.values())) == 1 else "guess"


def _even_share(source: TextFile, delimiter: str) -> float:
    """Return the share of the first rows with as many cells as the header; 0 for one column."""
    records = _csv_records(source.lines(), delimiter, _SNIFF_LIMIT)
    header = next(records, None)
    if header is None or header.cells is None or len(header.cells) == 1:
        return 0.0
    rows = list(itertools.islice(records, _SNIFF_ROWS))
    even = sum(len(row.cells or ()) == len(header.cells) for row in rows)
    # The header alone counts a little, so that it decides where every row is broken.
    return (even + 0.01) / (len(rows) + 0.01)
