"""Every row is accounted for: what was read, left out, set aside, and what was noticed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from textlora.preparation.request import Origin
from textlora.readers import BadRow
from textlora.types import Finding

Progress = Callable[[str, int, int | None], None]

CELL_LIMIT = 2_000
"""Characters of a cell in ``quarantine.csv``."""
SHOWN_PLACES = 5
MAIN: Origin = ""
"""The source itself; the other origins are the given files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole row on its way to a split. ``origin`` is empty for the main source."""

    origin: Origin
    number: int
    line: int
    text: str
    label: str
    fault: str = ""

    @property
    def id(self) -> str:
        """The row's number, with the origin before it for a given file."""
        return f"{self.origin}/{self.number}" if self.origin else str(self.number)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was set aside."""

    origin: Origin
    line: int
    row: str
    reason: str
    text: str = ""
    label: str = ""
    raw: str = ""


@dataclass(slots=True)
class Ledger:
    """Counts what was read and left out, keeps what was set aside, and collects findings."""

    progress: Progress
    units: dict[Origin, str] = field(default_factory=dict)
    read: int = 0
    unsampled: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Keep a row that cannot be used, cut to what ``quarantine.csv`` shows."""
        text, label = entry.text[:CELL_LIMIT], entry.label[:CELL_LIMIT]
        self.rejected.append(Rejected(entry.origin, entry.line, entry.id, reason, text, label))

    def set_aside_broken(self, origin: Origin, bad: BadRow) -> None:
        """Keep a record that is no row."""
        row = f"{origin}/" if origin else ""
        self.rejected.append(Rejected(origin, bad.line, row, bad.reason, raw=bad.raw))

    def note(self, kind: str, level: Literal["info", "warning"], message: str, count: int = 0) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, level, message, count))

    def reasons(self) -> Counter[str]:
        """Return how many rows were set aside for each reason."""
        return Counter(item.reason for item in self.rejected)

    def places(self, items: Sequence[Rejected] | Sequence[Entry]) -> str:
        """Return ``lines 3, 7; test line 2 and 5 more``."""
        shown: dict[str, list[str]] = defaultdict(list)
        for item in items[:SHOWN_PLACES]:
            shown[self.units[item.origin]].append(str(item.line))
        parts = [f"{unit}{'s' if len(lines) > 1 else ''} {', '.join(lines)}" for unit, lines in shown.items()]
        more = f" and {len(items) - SHOWN_PLACES:,} more" if len(items) > SHOWN_PLACES else ""
        return "; ".join(parts) + more

    def summary(self) -> list[str]:
        """Return one line per reason, for an error that stops everything."""
        groups: dict[str, list[Rejected]] = defaultdict(list)
        for item in self.rejected:
            groups[item.reason].append(item)
        return [
            f"{len(items):,} of {self.read:,} rows set aside: {reason} ({self.places(items)})"
            for reason, items in groups.items()
        ]
