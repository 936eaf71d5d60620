"""One list of suspects out of all that speaks against a label, the worst first.

What the data prove by themselves comes first: misspelt labels, then equal texts with different labels.
Then comes what classifiers doubt and what near-duplicates contradict, by the probability of the given
label, and at last texts that are like no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.auditing.conflicts import Conflict
from textlora.auditing.decisions import LabelWords
from textlora.auditing.doubting import Doubts
from textlora.auditing.nouns import Kind, Suspect
from textlora.auditing.review import row_key
from textlora.preparation.whole import Misspelt, Whole
from textlora.tasks import Decisions

EQUAL = 1.0
"""Similarity of texts that differ in nothing but capitals and punctuation."""


def find_suspects(
    whole: Whole,
    truth: Decisions,
    doubts: Doubts,
    *,
    conflicts: Sequence[Conflict],
    outliers: NDArray[np.intp],
) -> tuple[Suspect, ...]:
    """Return all suspects; a row is there once, for its first reason.

    Args:
        whole: the rows (N,).
        truth: (N, C) their labels.
        doubts: what the classifiers think of them.
        conflicts: rows with another label than their near-duplicates.
        outliers: rows unlike all others.
    """
    teller = _Teller(whole, truth, doubts)
    equal = [one for one in conflicts if one.likeness >= EQUAL]
    alike = [one for one in conflicts if one.likeness < EQUAL]
    proven = sorted(equal, key=lambda one: (int(whole.clusters[one.row]), float(doubts.own[one.row])))
    contradicted = {one.row: one for one in alike}
    doubted = set(np.flatnonzero(doubts.doubted).tolist()) | set(contradicted)
    found: dict[int, Suspect] = {one.row: teller.conflict(one) for one in proven}
    for row in sorted(doubted - set(found), key=lambda row: (float(doubts.own[row]), row)):
        found[row] = teller.conflict(contradicted[row]) if row in contradicted else teller.doubt(row)
    for row in outliers.tolist():
        found.setdefault(row, teller.outlier(row))
    return (*map(_misspelt, whole.misspelt), *found.values())


class _Teller:
    """Describes rows."""

    def __init__(self, whole: Whole, truth: Decisions, doubts: Doubts) -> None:
        self._whole = whole
        self._rows = whole.dataset.train
        self._truth = truth
        self._doubts = doubts
        info = whole.dataset.info
        separator = info.options.get("data.label_separator")
        self._words = LabelWords(
            info.label_names,
            several=info.task == "multi_label",
            separator=separator if isinstance(separator, str) else None,
        )

    def doubt(self, row: int) -> Suspect:
        return self._suspect(row, "label", self._shown(self._doubts.suggested[row]), float(self._doubts.other[row]))

    def conflict(self, one: Conflict) -> Suspect:
        suggested = np.zeros(self._truth.shape[1], np.bool_)
        suggested[list(one.labels)] = True
        as_doubted = bool((suggested == self._doubts.suggested[one.row]).all())
        probability = float(self._doubts.other[one.row]) if as_doubted else None
        return self._suspect(one.row, "conflict", self._shown(suggested), probability, one.similar)

    def outlier(self, row: int) -> Suspect:
        return self._suspect(row, "outlier", "", None)

    def _suspect(
        self, row: int, kind: Kind, suggested: str, probability: float | None, similar: int | None = None
    ) -> Suspect:
        number, text = self._rows.ids[row], self._rows.texts[row]
        return Suspect(
            row=number,
            line=int(self._whole.lines[row]),
            kind=kind,
            label=self._shown(self._truth[row]),
            suggested=suggested,
            probability=float(self._doubts.own[row]),
            suggested_probability=probability,
            text=text,
            key=row_key(number, text),
            similar="" if similar is None else self._rows.ids[similar],
            similar_line=0 if similar is None else int(self._whole.lines[similar]),
        )

    def _shown(self, labels: NDArray[np.bool_]) -> str:
        return self._words.show([self._words.names[place] for place in np.flatnonzero(labels).tolist()])


def _misspelt(one: Misspelt) -> Suspect:
    return Suspect(
        one.row, one.line, "spelling", one.label, one.meant, None, None, one.text, row_key(one.row, one.text)
    )
