"""``audit.html``: the worst suspects of an audit on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from textlora import storage
from textlora.auditing.nouns import KINDS, Audit, Kind, Suspect
from textlora.reporting import figures, page, wording

PAGE = "audit.html"
SHOWN = 100
MOVES = 12


def report_audit(audit: Audit) -> Path:
    """Write ``audit.html`` into the audit's folder, and return its path. The same audit gives the same bytes.

    Raises:
        ResourceError: the folder cannot be written.
    """
    path = audit.folder / PAGE
    storage.write_text(path, page.rendered("audit.html.j2", escape_html=True, audit=audit, facts=AuditFacts(audit)))
    return path


@dataclass(frozen=True, slots=True)
class Move:
    """How many suspects have one label and deserve another one; the share is that of the most frequent move."""

    label: str
    suggested: str
    rows: int
    share: float


class AuditFacts:
    """What the page says, worked out from an audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """Why rows are suspects, in words, and how many for each reason."""
        return [(KINDS[kind], count) for kind, count in self._audit.by_kind.items()]

    @property
    def shown(self) -> Sequence[Suspect]:
        """The worst suspects."""
        return self._audit.suspects[:SHOWN]

    def reason(self, kind: Kind) -> str:
        """Return a reason in words."""
        return KINDS[kind]

    @cached_property
    def moves(self) -> list[Move]:
        """The most frequent pairs of a given and a suggested label."""
        pairs = Counter((one.label, one.suggested) for one in self._audit.suspects if one.suggested)
        most = max(pairs.values(), default=1)
        return [Move(*pair, rows, rows / most) for pair, rows in pairs.most_common(MOVES)]

    @property
    def confidence(self) -> Markup | None:
        """How sure the classifiers are of the given labels."""
        counts = self._audit.confidence
        if not sum(counts):
            return None
        low = sum(counts[: len(counts) // 2])
        told = f"Histogram of the probability of the given label; it is below one half in {wording.rows(low)}."
        return figures.unit_histogram(counts, label="probability of the given label", description=told)
