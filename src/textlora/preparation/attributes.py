"""Columns that are read beside text and label: the group of a row, and its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textlora import checks
from textlora.errors import UsageError, did_you_mean
from textlora.preparation.ledger import MAIN
from textlora.preparation.request import Origin
from textlora.readers import Columns, Row, Table
from textlora.settings import DataSettings

Extra = tuple[str, ...]
GROUP, TIME = 0, 1
"""Places in ``Entry.extra``, where there is any."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Names of the columns, each None when not asked for."""

    group: str | None = None
    time: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were asked for."""
        return tuple(name for name in (self.group, self.time) if name is not None)

    def reader(self, origin: Origin, columns: Sequence[str]) -> Callable[[Row, str], Extra]:
        """Return what takes the attributes out of a row of a table, given the row and its id.

        A given file may lack the columns. A row without a group is a group of its own.
        """
        group = _place(self.group, columns)
        time = None if origin else _place(self.time, columns)

        def read(row: Row, row_id: str) -> Extra:
            if not self.names:
                return ()
            found = checks.as_label(row.values[group]) if group is not None else ""
            when = checks.as_text(row.values[time]) if time is not None else ""
            own = f"row {row_id}" if group is not None else ""
            return found or own, " ".join((when or "").split())

        return read


def find_attributes(settings: DataSettings, table: Table) -> Attributes:
    """Return the columns that the settings name.

    Raises:
        UsageError: the table has no such columns.
    """
    named = {"group": settings.group_column, "time": settings.time_column}
    problems = [
        f"There is no column {name!r} in {table.name}, which shall be the {kind}.{did_you_mean(name, table.columns)}"
        for kind, name in named.items()
        if name is not None and name not in table.columns
    ]
    listed = f"Columns: {', '.join(table.columns)}."
    if len(problems) == 1:
        raise UsageError(problems[0], hint=listed)
    if problems:
        raise UsageError(f"Some columns are not in {table.name}:", problems=problems, hint=listed)
    return Attributes(**named)


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


def has_groups(attributes: Attributes, origin: Origin, table: Table) -> bool:
    """Return whether the rows of a table have groups."""
    return attributes.group is not None and (origin == MAIN or attributes.group in table.columns)


def _place(name: str | None, columns: Sequence[str]) -> int | None:
    return columns.index(name) if name is not None and name in columns else None
