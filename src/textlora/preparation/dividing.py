"""Rows divided into folds: every label in each as often as in all, and what belongs together in one.

Pure functions over labels and units. Letters in shapes: N rows, C labels, S parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.grouped import LabelledRows, assign_units, spread_labels
from textlora.preparation.label_sets import LabelSets
from textlora.preparation.stratifying import stratify
from textlora.types import Label

_DIGITS = 9
"""Of fractions that are compared: what differs less is a tie."""


def labelled(labels: Sequence[Label]) -> LabelledRows:
    """Return labels, one or several a row, in the form in which they are divided."""
    if not labels or isinstance(labels[0], int):
        return LabelledRows(np.asarray(labels, np.int32))
    numbers: dict[tuple[int, ...], int] = {}
    classes = [numbers.setdefault(tuple(row), len(numbers)) for row in labels if not isinstance(row, int)]
    return LabelledRows(np.array(classes, np.int32), LabelSets(list(numbers)))


def divide(rows: LabelledRows, units: NDArray[np.int64], shares: Sequence[float], seed: int) -> NDArray[np.int8]:
    """Return the part of each row (N,), as a place in ``shares``.

    Units of several rows are placed whole, the largest first, where they bring the parts nearest to
    their share of each label; free rows fill up what is missing. Every label is in every part as far as
    there are units for it.

    Args:
        rows: the labels.
        units: (N,) a number for what each row must stay together with.
        shares: (S,) wanted share of each part; they sum to 1.
        seed: of the order of the rows, and of ties.
    """
    numbers = np.unique(units, return_inverse=True)[1]
    totals = rows.counts(np.ones(len(units), np.bool_)).astype(np.float64)
    # Places from 1 on: 0 is training, to which units are given more freely.
    wanted = {place: share * totals for place, share in enumerate(shares, start=1)}
    parts = assign_units(rows, numbers, wanted, seed)
    free = np.bincount(numbers)[numbers] == 1
    parts[free] = 0
    if rows.sets is not None and free.any():
        left = _left_shares(parts, shares)
        parts[free] = 1 + stratify(rows.classes[free], rows.sets, left, seed)
    elif free.any():
        _fill(parts, rows.classes, free, np.stack(list(wanted.values())), seed)
    spread_labels(parts, rows, numbers, np.arange(1, len(shares) + 1, dtype=np.int8))
    return np.asarray(parts - 1, np.int8)


def _left_shares(parts: NDArray[np.int8], shares: Sequence[float]) -> tuple[float, ...]:
    """Return which share of the free rows each part still needs."""
    taken = np.bincount(parts, minlength=len(shares) + 1)[1:]
    lacking = np.maximum(np.asarray(shares) * len(parts) - taken, 0.0)
    return tuple((lacking / lacking.sum()).tolist()) if lacking.sum() else tuple(shares)


def _fill(
    parts: NDArray[np.int8],
    classes: NDArray[np.int32],
    free: NDArray[np.bool_],
    wanted: NDArray[np.float64],
    seed: int,
) -> None:
    """Deal the free rows of each class out to where most of it is missing; changes ``parts``.

    Args:
        parts: (N,) part of each row from 1 on, 0 for the free ones.
        classes: (N,) class of each row.
        free: (N,) which rows are dealt out.
        wanted: (S, C) rows of each class that each part shall have.
        seed: of the order of the rows.
    """
    generator = np.random.default_rng(seed)
    taken = np.stack([np.bincount(classes[parts == place], minlength=wanted.shape[1]) for place in _places(wanted)])
    lacking = wanted - taken
    overall = lacking.sum(axis=1)
    for label in np.unique(classes[free]).tolist():
        rows = generator.permutation(np.flatnonzero(free & (classes == label)))
        sizes = _sizes(len(rows), np.maximum(lacking[:, label], 0.0), overall)
        parts[rows] = np.repeat(_places(wanted), sizes)
        overall -= sizes


def _places(wanted: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.arange(1, len(wanted) + 1, dtype=np.int8)


def _sizes(rows: int, lacking: NDArray[np.float64], overall: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many of the rows each part gets (S,): largest remainders, ties to where rows are missing most."""
    shares = lacking / lacking.sum() if lacking.sum() else np.full(len(lacking), 1 / len(lacking))
    exact = np.round(rows * shares, _DIGITS)
    sizes = np.floor(exact).astype(np.int64)
    order = np.lexsort((-(overall - sizes), np.round(sizes - exact, _DIGITS)))
    sizes[order[: rows - int(sizes.sum())]] += 1
    return sizes
