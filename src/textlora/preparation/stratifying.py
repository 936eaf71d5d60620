"""Splits in which every label is as frequent as in all rows, where rows have several labels.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label
data"): the rarest label that is left is dealt out first, each of its rows to a split that still lacks
it. Before that, combinations of labels that are frequent enough are cut in the wanted shares, so that
pairs of labels keep their shares too, and only a few rows are left to be dealt out one by one.

Letters in shapes: N rows, C classes, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.label_sets import LabelSets

NOT_YET = -1
HALF = 0.5 - 1e-9


def stratify(numbers: NDArray[np.int32], sets: LabelSets, shares: Sequence[float], seed: int) -> NDArray[np.int8]:
    """Return the split of each row, as a place in ``shares``.

    A label with at least as many rows as splits gets one row in each, as far as the other labels of its
    rows allow; the last split always gets one.

    Args:
        numbers: (N,) the combination of each row.
        sets: what the combinations hold.
        shares: (S,) wanted share of each split; they sum to 1. Ties go to the first one.
        seed: of the order in which rows of the same labels are taken.
    """
    random = np.random.default_rng(seed)
    classes = 1 + max((label for labels in sets.members for label in labels), default=-1)
    parts = np.full(len(numbers), NOT_YET, np.int8)
    waiting: dict[int, list[int]] = {}
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    for number, group in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        rows = random.permutation(group)
        sizes = _whole(len(rows), shares)
        parts[rows[: sizes.sum()]] = np.repeat(np.arange(len(shares)), sizes)
        waiting[number] = rows[sizes.sum() :].tolist()
    needs = _Needs(parts, numbers, sets, shares, classes)
    _deal_out(waiting, sets, needs, parts, random)
    _leave_one_to_the_last(parts, numbers, sets, classes, len(shares) - 1)
    return parts


def _whole(rows: int, shares: Sequence[float]) -> NDArray[np.int64]:
    """Return how many of the rows go to each split undivided; none where a split would get none."""
    # A hair more, so that a tenth of ten is one.
    sizes = np.array([int(rows * share + 1e-9) for share in shares], np.int64)
    return sizes if sizes.all() else np.zeros_like(sizes)


class _Needs:
    """How many rows each split still lacks: of each label (C, S), and in all (S,)."""

    def __init__(
        self,
        parts: NDArray[np.int8],
        numbers: NDArray[np.int32],
        sets: LabelSets,
        shares: Sequence[float],
        classes: int,
    ) -> None:
        had = sets.label_counts(numbers, classes)
        wanted = np.asarray(shares)
        # One row at least, where there are enough.
        least = np.where(had[:, None] >= len(shares), 1.0, 0.0)
        self._wanted = np.maximum(np.maximum(had[:, None] * wanted, least), 1e-9)
        self._wanted_rows = np.maximum(len(numbers) * wanted, 1e-9)
        given = [sets.label_counts(numbers[parts == place], classes) for place in range(len(shares))]
        self._labels = self._wanted - np.stack(given, axis=1)
        self._rows = self._wanted_rows - np.array([(parts == place).sum() for place in range(len(shares))])

    def give(self, labels: Sequence[int], by: int) -> int:
        """Return the split for a row with ``labels``, and count it there.

        Of the splits that still lack the label ``by`` (-1: rows), the one that lacks most of what the row
        has, each label in proportion to what is wanted of it.
        """
        lacks = self._rows if by < 0 else self._labels[by]
        # Half a row rounds up; where no split lacks as much, the last rows go where most is lacking.
        lacking = lacks >= min(HALF, lacks.max())
        of_each = self._labels[list(labels)] / self._wanted[list(labels)]
        score = of_each.sum(axis=0) + self._rows / self._wanted_rows
        split = int(np.argmax(np.where(lacking, score, -np.inf)))
        self._labels[list(labels), split] -= 1
        self._rows[split] -= 1
        return split


def _deal_out(
    waiting: dict[int, list[int]],
    sets: LabelSets,
    needs: _Needs,
    parts: NDArray[np.int8],
    random: np.random.Generator,
) -> None:
    """Assign the waiting rows: those of the rarest label first, those without labels last."""
    by_label: dict[int, list[int]] = {}
    left: dict[int, int] = {}
    for number, rows in waiting.items():
        for label in sets.members[number]:
            by_label.setdefault(label, []).append(number)
            left[label] = left.get(label, 0) + len(rows)
    while left:
        # Ties go to the first label.
        label = min(left, key=lambda one: (left[one], one))
        del left[label]
        dealt = [(number, row) for number in by_label[label] for row in waiting.pop(number, ())]
        for place in random.permutation(len(dealt)).tolist():
            number, row = dealt[place]
            labels = sets.members[number]
            parts[row] = needs.give(labels, label)
            for other in labels:
                if other in left:
                    left[other] -= 1
    for row in (row for rows in waiting.values() for row in rows):
        parts[row] = needs.give((), -1)


def _leave_one_to_the_last(
    parts: NDArray[np.int8], numbers: NDArray[np.int32], sets: LabelSets, classes: int, last: int
) -> None:
    """Move a row of each label that the last split, the training one, has not got: it could not be learnt."""
    missing = np.flatnonzero(sets.label_counts(numbers[parts == last], classes) == 0)
    for label in missing.tolist():
        rows = np.flatnonzero(sets.having(numbers, label))
        if len(rows):
            parts[rows[0]] = last
