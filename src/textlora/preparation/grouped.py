"""Splits in the wanted shares of every label, where some rows must stay together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from textlora.types import SPLIT_NAMES

TRAIN = SPLIT_NAMES.index("train")
_ROUNDS = 3
_OWN_STREAM = 1
"""The units are shuffled by a generator of their own, so that they leave the order of free rows as it is."""


def assign_units(
    labels: NDArray[np.int32], units: NDArray[np.int64], wanted: Mapping[int, NDArray[np.int64]], seed: int
) -> NDArray[np.int8]:
    """Return the split of the rows (n,) that are not alone in their unit, and ``TRAIN`` for all others.

    Large units come first; each goes where it brings the splits nearest to the wanted rows of each
    label, as in scikit-learn's ``StratifiedGroupKFold``, but for shares of different size.

    Args:
        labels: (n,) class of each row.
        units: (n,) number of each row's unit, from 0.
        wanted: rows of each class (C,) in each split, by place in ``SPLIT_NAMES``.
        seed: breaks ties.
    """
    sizes = np.bincount(units)
    order = np.argsort(units, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shuffled = np.random.default_rng([seed, _OWN_STREAM]).permutation(np.flatnonzero(sizes > 1))
    parts = np.full(len(labels), TRAIN, dtype=np.int8)
    goals = np.stack(list(wanted.values())).astype(np.float64)
    goals = np.maximum(goals, 0.5)  # a goal of nothing can be missed, too
    taken = np.zeros_like(goals)
    places = list(wanted)
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():
        members = order[starts[unit] : starts[unit + 1]]
        classes, counts = np.unique(labels[members], return_counts=True)
        # What the squared distance from the goals, in shares of them, changes by.
        change = (counts * (2 * (taken[:, classes] - goals[:, classes]) + counts) / goals[:, classes]).sum(axis=1)
        best = int(change.argmin())
        taken[best, classes] += counts
        parts[members] = places[best]
    return parts


def spread_labels(
    parts: NDArray[np.int8], labels: NDArray[np.int32], units: NDArray[np.int64], made: NDArray[np.int8]
) -> None:
    """Move units so that every label is in every split that is made, as far as there are units for it.

    Training comes first: a label that it does not know could not be learnt. Changes ``parts``.
    """
    present = set(np.unique(labels).tolist())
    for _ in range(_ROUNDS):
        moved = False
        for place in made.tolist():
            for label in sorted(present - set(np.unique(labels[parts == place]).tolist())):
                moved |= _move(parts, labels, units, place, label)
        if not moved:
            return


def _move(parts: NDArray[np.int8], labels: NDArray[np.int32], units: NDArray[np.int64], place: int, label: int) -> bool:
    """Move the smallest unit with the label that can be spared to a split; return whether there is one."""
    rows = np.flatnonzero(labels == label)
    if (parts[rows] == place).any():
        return False
    sizes = np.bincount(units)
    found, first = np.unique(units[rows], return_index=True)
    homes = parts[rows[first]]
    spare = np.array([(homes == home).sum() > 1 or place == TRAIN for home in homes])
    if not spare.any():
        return False
    smallest = found[spare][sizes[found[spare]].argmin()]
    parts[units == smallest] = place
    return True
