"""The report's section on exports: how each answers beside the classifier, and what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from textlora.exports import FORMATS, Exported, Exports, Parity
from textlora.reporting import wording


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the section says."""

    exports: Exports

    @classmethod
    def written(cls, exports: Exports) -> ExportFacts | None:
        """Return the section without what was refused, for those who get the exports; None where there is nothing."""
        made = tuple(one for one in exports.made if not one.refused)
        return cls(replace(exports, made=made)) if made else None

    @property
    def rows(self) -> list[tuple[str, str, list[str]]]:
        """Name, meaning and figures of each format, in the order of ``columns``."""
        return [(made.format, FORMATS[made.format], list(_figures(made))) for made in self.exports.made]

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the figures."""
        return (
            "Compared on", "Largest difference of logits", "Other labels", "Accuracy", "Change, in points",
            "Processor time a text", "Size", "Written",
        )  # fmt: skip

    @property
    def told(self) -> list[str]:
        """What was refused, and why."""
        return [
            f"{made.format} was not written: {'; '.join(made.parity.refusals)}."
            for made in self.exports.made
            if made.parity and made.parity.refusals
        ]


def _figures(made: Exported) -> Iterator[str]:
    parity = made.parity or Parity("made-up", 0, 0, made.difference)
    known = parity.accuracy is not None
    yield f"{wording.rows(parity.rows)} ({parity.split})" if parity.rows else "made-up texts"
    yield f"{parity.largest:.1g}"
    yield wording.count(parity.flipped) if known else "–"
    yield f"{wording.percent(parity.before)} → {wording.percent(parity.after)}" if known else "–"
    yield _change(parity)
    yield f"{parity.before_ms:.3g} → {parity.after_ms:.3g} ms ({parity.speed:.2g} times as fast)" if known else "–"
    yield f"{made.size / 1e6:,.1f} MB"
    yield "no" if parity.refusals else "yes"


def _change(parity: Parity) -> str:
    if parity.accuracy is None:
        return "–"
    value, low, high = (_points(share) for share in (parity.accuracy.value, parity.accuracy.low, parity.accuracy.high))
    allowed = f"; at most {100 * parity.tolerance:.2g} may be lost" if parity.tolerance else ""
    return f"{value} ({low} to {high}){allowed}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
