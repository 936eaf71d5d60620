"""Splits in the wanted shares of every label, where some rows must stay together.

Letters in shapes: n rows, C labels, S splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.label_sets import LabelSets
from textlora.types import SPLIT_NAMES

TRAIN = SPLIT_NAMES.index("train")
_ROUNDS = 3
_OWN_STREAM = 1
"""The units are shuffled by a generator of their own, so that they leave the order of free rows as it is."""


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The labels of rows that have one each, or several.

    Where rows have several, being a row counts as one more label that all of them have: their number
    is no sum of the others then, and shall have its share too.

    Attributes:
        classes: (n,) class of each row; where rows have several labels, a number into ``sets``.
        sets: the combinations, if rows may have several labels.
    """

    classes: NDArray[np.int32]
    sets: LabelSets | None = None

    @property
    def size(self) -> int:
        """How many labels there are: C."""
        if self.sets is None:
            return int(self.classes.max()) + 1
        return max((max(labels) for labels in self.sets.members if labels), default=-1) + 2

    def counts(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> NDArray[np.int64]:
        """Return how many of the chosen rows, a mask or places, have each label (C,)."""
        classes = self.classes[chosen]
        if self.sets is None:
            return np.bincount(classes, minlength=self.size)
        return np.append(self.sets.label_counts(classes, self.size - 1), len(classes))

    def of(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return the labels that some rows have, and how many rows have each."""
        if self.sets is None:
            labels = self.classes[rows].tolist()
        else:
            every = self.size - 1
            labels = [label for number in self.classes[rows].tolist() for label in (*self.sets.members[number], every)]
        found, counts = np.unique(labels, return_counts=True)
        return found.astype(np.intp), counts

    def having(self, label: int) -> NDArray[np.bool_]:
        """Return which rows (n,) have a label."""
        if self.sets is None:
            return np.asarray(self.classes == label)
        every = label == self.size - 1
        return np.ones(len(self.classes), np.bool_) if every else self.sets.having(self.classes, label)


def assign_units(
    rows: LabelledRows, units: NDArray[np.int64], shares: Mapping[int, NDArray[np.float64]], seed: int
) -> NDArray[np.int8]:
    """Return the split of the rows (n,) that are not alone in their unit, and ``TRAIN`` for all others.

    Large units come first; each goes where it brings the splits nearest to the wanted rows of each
    label, as in scikit-learn's ``StratifiedGroupKFold``, but for shares of different size.

    Args:
        rows: the labels.
        units: (n,) number of each row's unit, from 0.
        shares: wanted rows of each label (C,) in each split, by place in ``SPLIT_NAMES``.
        seed: breaks ties.
    """
    sizes = np.bincount(units)
    order = np.argsort(units, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shuffled = np.random.default_rng([seed, _OWN_STREAM]).permutation(np.flatnonzero(sizes > 1))
    parts = np.full(len(units), TRAIN, dtype=np.int8)
    # A goal of nothing can be missed, too.
    goals = np.maximum(np.stack(list(shares.values())), 0.5)
    taken = np.zeros_like(goals)
    places = list(shares)
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():
        members = order[starts[unit] : starts[unit + 1]]
        labels, counts = rows.of(members)
        # What the squared distance from the goals, in shares of them, changes by.
        lacking = 2 * (taken[:, labels] - goals[:, labels]) + counts
        best = int((counts * lacking / goals[:, labels]).sum(axis=1).argmin())
        taken[best, labels] += counts
        parts[members] = places[best]
    return parts


def spread_labels(
    parts: NDArray[np.int8], rows: LabelledRows, units: NDArray[np.int64], made: NDArray[np.int8]
) -> None:
    """Move units so that every label is in every split that is made, as far as there are units for it.

    Training comes first: a label that it does not know could not be learnt. Changes ``parts``.
    """
    present = rows.counts(np.ones(len(parts), np.bool_)) > 0
    for _ in range(_ROUNDS):
        moved = False
        for place in made.tolist():
            for label in np.flatnonzero(present & (rows.counts(parts == place) == 0)).tolist():
                moved |= _move(parts, rows, units, place, label)
        if not moved:
            return


def _move(parts: NDArray[np.int8], rows: LabelledRows, units: NDArray[np.int64], place: int, label: int) -> bool:
    """Move the smallest unit with the label that can be spared to a split; return whether there is one."""
    having = np.flatnonzero(rows.having(label))
    if (parts[having] == place).any():
        return False
    sizes = np.bincount(units)
    found, first = np.unique(units[having], return_index=True)
    homes = parts[having[first]]
    spare = np.array([(homes == home).sum() > 1 or place == TRAIN for home in homes])
    if not spare.any():
        return False
    smallest = found[spare][sizes[found[spare]].argmin()]
    parts[units == smallest] = place
    return True
