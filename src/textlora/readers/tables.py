"""What every reader gives: a table that yields whole and broken records in the order of the source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from textlora.readers.unpacking import Meter

Confidence = Literal["sure", "likely", "guess"]
Format = Literal["csv", "jsonl", "parquet", "frame", "text"]

RECORD_LIMIT = 1 << 24
"""Characters of one record; longer ones count as broken and are never put together."""
RAW_LIMIT = 2_000
"""Characters of a broken record that are kept for the user to see."""
SAMPLE_ROWS = 1_000
"""Rows that ``Table.head`` gives to find the columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A whole record.

    Attributes:
        number: index among the whole records, from 0, as a data frame's index would be.
        line: line of the file where the record starts, from 1; for Parquet and data frames the
            row, from 1.
        values: one per column; text for CSV, native Python objects elsewhere, None for missing.
    """

    number: int
    line: int
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that is broken in itself; ``reason`` is one of a few stable short texts."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Table:
    """Rows with named columns; every iteration reads the source from its start."""

    name: str
    format: Format
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Row | BadRow]] = field(repr=False)
    delimiter: str | None = None
    delimiter_confidence: Confidence | None = None
    encoding: str | None = None
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    """Told how far the last iteration has come; stays at 0 where that is not known."""

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Yield whole and broken records in the order of the source."""
        return self.read()

    @property
    def unit(self) -> str:
        """What ``line`` counts: lines of a text file, else rows."""
        return "line" if self.format in ("csv", "jsonl", "text") else "row"

    def head(self, count: int = SAMPLE_ROWS) -> list[Row]:
        """Return the whole rows among the first ``count`` records."""
        return [row for row in itertools.islice(self, count) if isinstance(row, Row)]


def shorten(lines: Iterable[str]) -> str:
    """Return the start of a broken record, as ``BadRow.raw`` keeps it."""
    return "".join(line[:RAW_LIMIT] for line in itertools.islice(lines, 20))[:RAW_LIMIT].rstrip("\r\n")
