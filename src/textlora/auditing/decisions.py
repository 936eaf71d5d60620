"""What a reviewer writes into a cell, and what it means: keep, drop, or a label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textlora.errors import did_you_mean

KEEP, DROP = "keep", "drop"
NO_LABEL = "(none)"
_JOINTS = ("|", ";", " / ")
_SHOWN = 20


class LabelWords:
    """Labels as they stand in a reviewed file.

    A word in brackets, ``(keep)``, always means the decision, so that a label may be called "keep".

    Args:
        names: the label names.
        several: rows may have several labels, or none.
        separator: what stands between them in the source, if anything does.
    """

    def __init__(self, names: Iterable[str], *, several: bool = False, separator: str | None = None) -> None:
        self.names = tuple(names)
        self.several = several
        free = (joint for joint in (separator, *_JOINTS) if joint and not any(joint in name for name in self.names))
        self.joint = next(free, "|")
        self._folded = {name.casefold(): name for name in reversed(self.names)}

    def show(self, labels: Sequence[str]) -> str:
        """Return one label, or several as ``joy|love``."""
        return self.joint.join(labels) or (NO_LABEL if self.several else "")

    def word(self, decision: str) -> str:
        """Return how ``keep`` or ``drop`` is written where labels have these names."""
        return f"({decision})" if decision in self._folded else decision

    def labels(self, text: str) -> tuple[str, ...] | None:
        """Return the labels that a cell names, or None if one of them is unknown."""
        if not self.several:
            found = self._known(text)
            return None if found is None else (found,)
        if text.casefold() == NO_LABEL:
            return ()
        names = [self._known(part) for part in text.split(self.joint)]
        return None if None in names else tuple(name for name in self.names if name in names)

    def decide(self, text: str) -> str | tuple[str, ...] | None:
        """Return ``keep``, ``drop``, the labels, or None for what is none of these. Capitals do not count."""
        folded = text.strip().casefold()
        if folded in (f"({KEEP})", f"({DROP})"):
            return folded[1:-1]
        if folded in (KEEP, DROP) and folded not in self._folded:
            return folded
        return self.labels(text)

    def expected(self, text: str) -> str:
        """Return what a decision may be, for a message, and the known one that is most like ``text``."""
        words = [self.word(KEEP), self.word(DROP)]
        shown = [repr(name) for name in self.names[:_SHOWN]] + ["…"] * (len(self.names) > _SHOWN)
        return f"expected {words[0]}, {words[1]} or a label ({', '.join(shown)}).{did_you_mean(text, [*words, *self.names])}"

    def _known(self, text: str) -> str | None:
        name = " ".join(text.split())
        return name if name in self.names else self._folded.get(name.casefold())
