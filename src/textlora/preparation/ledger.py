"""Every row is accounted for: what was read, left out, set aside, and what was noticed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from textlora.preparation.request import Origin
from textlora.types import Finding

Progress = Callable[[str, int, int | None], None]
Place = tuple[Origin, int]
"""Where a row stands: its source and its line."""

CELL_LIMIT = 2_000
"""Characters of a cell in ``quarantine.csv``."""
SHOWN_PLACES = 5
MAIN: Origin = ""
"""The source itself; the other origins are the given files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole row on its way to a split. ``origin`` is empty for the main source, ``extra`` is as ``Attributes`` says."""

    origin: Origin
    id: str
    line: int
    text: str
    label: str
    fault: str = ""
    extra: tuple[str, ...] = ()


@dataclass(slots=True)
class Group:
    """The rows set aside for one reason: how many, the first of them, and the labels they had."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Ledger:
    """Counts what was read, left out and set aside, and collects findings; the rows are elsewhere."""

    progress: Progress
    units: dict[Origin, str] = field(default_factory=dict)
    read: int = 0
    unsampled: int = 0
    groups: dict[str, Group] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def set_aside(
        self, reason: str, count: int, places: Sequence[Place], labels: Mapping[str, int] | None = None
    ) -> None:
        """Count rows that cannot be used; ``places`` are the first of them, ``labels`` theirs where they are why."""
        group = self.groups.setdefault(reason, Group())
        group.count += count
        group.places += places[: SHOWN_PLACES - len(group.places)]
        group.labels.update(labels or {})

    def note(self, kind: str, level: Literal["info", "warning"], message: str, count: int = 0) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, level, message, count))

    def reasons(self) -> dict[str, int]:
        """Return how many rows were set aside for each reason."""
        return {reason: group.count for reason, group in self.groups.items()}

    def places(self, first: Sequence[Place], count: int) -> str:
        """Return ``lines 3, 7; test line 2 and 5 more`` of ``count`` places."""
        shown: dict[str, list[str]] = defaultdict(list)
        for origin, line in first[:SHOWN_PLACES]:
            shown[self.units[origin]].append(str(line))
        parts = [f"{unit}{'s' if len(lines) > 1 else ''} {', '.join(lines)}" for unit, lines in shown.items()]
        more = f" and {count - SHOWN_PLACES:,} more" if count > SHOWN_PLACES else ""
        return "; ".join(parts) + more

    def summary(self) -> list[str]:
        """Return one line per reason, for an error that stops everything."""
        return [
            f"{group.count:,} of {self.read:,} rows set aside: {reason} ({self.places(group.places, group.count)})"
            for reason, group in self.groups.items()
        ]
