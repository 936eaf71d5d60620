"""When rows were written: numbers, or dates in the usual spellings, as numbers that can be compared."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.preparation.ledger import Entry, Ledger, Place

MISSING = "missing time"
SHOWN_PROBLEMS = 10

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(.*)", re.ASCII)
_DOTS = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(.*)", re.ASCII)
_YEAR_FIRST = re.compile(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})(.*)", re.ASCII)
_ZONE = re.compile(r" ?(UTC|GMT|Z)$")
_NAMED = (
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400e6
_HINT = "Dates such as 2024-01-31 or 2024-01-31T18:30:00+01:00 and plain numbers are understood; correct these or remove the rows."


@dataclass(frozen=True, slots=True)
class Time:
    """A value that was understood.

    Attributes:
        kind: ``number``, ``date`` (a time without a zone) or ``zoned``.
        value: the number, or microseconds since 1970.
        month_first: the value where 3/4/2024 is the 4th of March; else the 3rd of April.
    """

    kind: str
    value: float
    month_first: float


@dataclass(frozen=True, slots=True)
class Times:
    """When each row was written.

    Attributes:
        column: its name, for messages.
        values: (N,) numbers, or microseconds since 1970; NaN where there is none.
        dates: whether the values are dates rather than plain numbers.
    """

    column: str
    values: NDArray[np.float64]
    dates: bool

    def show(self, value: float) -> str:
        """Return a time as a person would write it."""
        if not self.dates:
            return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
        moment = _EPOCH + timedelta(microseconds=float(value))
        return moment.strftime("%Y-%m-%d" if not value % _DAY else "%Y-%m-%d %H:%M:%S")


@dataclass(slots=True)
class Clock:
    """Reads the times of all rows and keeps them, eight bytes each, beside the rows.

    Args:
        column: its name, for messages.
    """

    column: str
    _values: array[float] = field(default_factory=lambda: array("d"))
    _month_first: array[float] = field(default_factory=lambda: array("d"))
    _bad: list[tuple[Place, str]] = field(default_factory=list)
    _bad_count: int = 0
    _kinds: dict[str, tuple[Place, str]] = field(default_factory=dict)

    def read(self, entry: Entry, text: str) -> None:
        """Take in the time of the next row; an empty text is none."""
        time = parse_time(text) if text else Time("", np.nan, np.nan)
        place = entry.origin, entry.line
        if time is None:
            self._bad_count += 1
            self._bad += [(place, text)] if len(self._bad) < SHOWN_PROBLEMS else []
            time = Time("", np.nan, np.nan)
        if time.kind:
            self._kinds.setdefault(time.kind, (place, text))
        if np.isnan(time.value) != np.isnan(time.month_first):
            self._kinds.setdefault("month first" if np.isnan(time.value) else "day first", (place, text))
        elif time.value != time.month_first and time.kind:
            self._kinds.setdefault("either", (place, text))
        self._values.append(time.value)
        self._month_first.append(time.month_first)

    def times(self, where: str, ledger: Ledger) -> Times:
        """Return the times of all rows.

        Raises:
            DataError: values that cannot be read or compared with each other, all together.
        """
        problems = [f"{ledger.places([place], 1)}: {text[:60]!r} is no date and no number" for place, text in self._bad]
        if self._bad_count > len(problems):
            problems.append(f"{self._bad_count - len(problems):,} more")
        problems += self._mixed(ledger)
        if problems:
            message = f"The column {self.column!r} of {where} has times that cannot be used:"
            raise DataError(message, problems=problems, hint=_HINT)
        chosen = self._month_first if "month first" in self._kinds else self._values
        return Times(self.column, np.frombuffer(chosen), "number" not in self._kinds)

    def _mixed(self, ledger: Ledger) -> list[str]:
        """Return what contradicts each other, in words."""

        def first(kind: str) -> str:
            place, text = self._kinds[kind]
            return f"{text!r} ({ledger.places([place], 1)})"

        pairs = (
            ("number", "date", "{0} is a plain number, {1} is a date"),
            ("number", "zoned", "{0} is a plain number, {1} is a date"),
            ("date", "zoned", "{0} has no time zone, {1} has one; either all have one or none"),
            ("day first", "month first", "{0} has the day first, {1} the month"),
        )
        found = [
            words.format(first(one), first(other))
            for one, other, words in pairs
            if one in self._kinds and other in self._kinds
        ]
        if "either" in self._kinds and not {"day first", "month first"} & self._kinds.keys():
            found.append(f"nothing tells whether {first('either')} has the day or the month first")
        return found


def parse_time(text: str) -> Time | None:
    """Return a number or date, or None for anything else."""
    if _NUMBER.fullmatch(text):
        return Time("number", float(text), float(text))
    if match := _SLASHES.fullmatch(text):
        one, other, year, rest = match.groups()
        day_first, month_first = (_iso(f"{year}-{m:0>2}-{d:0>2}{rest}") for d, m in ((one, other), (other, one)))
        known = day_first or month_first
        return Time(_kind(known), _number(day_first), _number(month_first)) if known else None
    for find in _DATES:
        if found := find(text):
            return Time(_kind(found), _number(found), _number(found))
    return None


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(_ZONE.sub("+00:00", text))
    except ValueError:
        return None


def _year_first(text: str) -> datetime | None:
    match = _YEAR_FIRST.fullmatch(text)
    return _iso("{}-{:0>2}-{:0>2}{}".format(*match.groups())) if match else None


def _with_dots(text: str) -> datetime | None:
    match = _DOTS.fullmatch(text)
    return _iso("{2}-{1:0>2}-{0:0>2}{3}".format(*match.groups())) if match else None


def _of_mails(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


def _with_names(text: str) -> datetime | None:
    for form in _NAMED:
        try:
            return datetime.strptime(text, form)  # noqa: DTZ007 - the kind tells the two apart
        except ValueError:
            continue
    return None


_DATES: tuple[Callable[[str], datetime | None], ...] = (_iso, _year_first, _with_dots, _with_names, _of_mails)


def _kind(found: datetime) -> str:
    return "date" if found.tzinfo is None else "zoned"


def _number(found: datetime | None) -> float:
    if found is None:
        return np.nan
    zoned = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return (zoned - _EPOCH).total_seconds() * 1e6
