"""Columns that are read beside text and label: the group of a row, its time, and what its slices are told by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textlora import checks
from textlora.errors import UsageError, did_you_mean
from textlora.preparation.request import Origin
from textlora.readers import Columns, Row, Table
from textlora.settings import DataSettings

Extra = tuple[str, ...]
GROUP, TIME, KEPT = 0, 1, 2
"""Places in ``Entry.extra``, where there is any; the kept columns begin at the last."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Names of the columns; group and time are None when not asked for, ``kept`` are those for slices."""

    group: str | None = None
    time: str | None = None
    kept: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were asked for."""
        return (*(name for name in (self.group, self.time) if name is not None), *self.kept)

    def reader(self, origin: Origin, columns: Sequence[str]) -> Callable[[Row, str], Extra]:
        """Return what takes the attributes out of a row of a table, given the row and its id.

        A given file may lack the columns. A row without a group is a group of its own.
        """
        group = _place(self.group, columns)
        time = None if origin else _place(self.time, columns)
        kept = [_place(name, columns) for name in self.kept]

        def read(row: Row, row_id: str) -> Extra:
            if not self.names:
                return ()
            own = f"row {row_id}" if group is not None else ""
            when = checks.as_text(row.values[time]) if time is not None else ""
            return _label(row, group) or own, " ".join((when or "").split()), *(_label(row, place) for place in kept)

        return read


def find_attributes(settings: DataSettings, table: Table) -> Attributes:
    """Return the columns that the settings name.

    Raises:
        UsageError: the table has no such columns.
    """
    attributes = Attributes(settings.group_column, settings.time_column, tuple(dict.fromkeys(settings.slice_columns)))
    kinds = {settings.group_column: "the group", settings.time_column: "the time"}
    problems = [
        f"There is no column {name!r} in {table.name}, which shall be {kinds.get(name, 'kept for slices')}.{did_you_mean(name, table.columns)}"
        for name in attributes.names
        if name not in table.columns
    ]
    listed = f"Columns: {', '.join(table.columns)}."
    if len(problems) == 1:
        raise UsageError(problems[0], hint=listed)
    if problems:
        raise UsageError(f"Some columns are not in {table.name}:", problems=problems, hint=listed)
    return attributes


def check_apart(attributes: Attributes, columns: Columns) -> None:
    """Refuse a column with two meanings.

    Raises:
        UsageError: text or label is the group or the time.
    """
    taken = {columns.text: "text", columns.label: "label"}
    for kind, name in (("group", attributes.group), ("time", attributes.time)):
        if name in taken:
            raise UsageError(
                f"The column {name!r} cannot be both the {taken[name]} and the {kind}.",
                hint=f"Name another column with --{taken[name]} or --{kind}.",
            )


def _label(row: Row, place: int | None) -> str:
    """Return a cell as labels are read, empty where there is none."""
    return (checks.as_label(row.values[place]) or "") if place is not None else ""


def _place(name: str | None, columns: Sequence[str]) -> int | None:
    return columns.index(name) if name is not None and name in columns else None
