"""Folds of equal size for cross-validation, every label as frequent in each as in all rows. Pure.

Letters in shapes: N rows, C labels, K folds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.grouped import LabelledRows, assign_units
from textlora.preparation.stratifying import stratify


def assign_folds(rows: LabelledRows, units: NDArray[np.int32] | None, folds: int, *, seed: int) -> NDArray[np.int8]:
    """Return the fold of each row (N,), from 0.

    Units of several rows come first, the largest ahead of all; single rows fill up what each fold
    lacks. A label in at least as many units as there are folds gets into each of them, unless units hold
    nearly all of its rows.

    Args:
        rows: the labels.
        units: (N,) the first row of what each row must stay together with; None where all rows are free.
        folds: K, at most 127.
        seed: of the order in which rows and units are taken.
    """
    count = len(rows.classes)
    numbers = np.arange(count) if units is None else np.unique(units, return_inverse=True)[1]
    parts = np.zeros(count, np.int8)
    free = np.bincount(numbers)[numbers] == 1
    wanted = rows.counts(np.ones(count, np.bool_)) / folds
    if not free.all():
        parts = assign_units(rows, numbers, dict.fromkeys(range(folds), wanted), seed)
    if rows.sets is not None:
        _fill_by_sets(parts, rows, free, folds, seed)
    else:
        _fill_by_label(parts, rows, free, folds, seed)
    return parts


def _fill_by_label(parts: NDArray[np.int8], rows: LabelledRows, free: NDArray[np.bool_], folds: int, seed: int) -> None:
    """Deal the free rows of each label out, each to the fold that has the fewest rows of it."""
    generator = np.random.default_rng(seed)
    sizes = np.bincount(parts[~free], minlength=folds)
    for label in np.unique(rows.classes[free]).tolist():
        places = generator.permutation(np.flatnonzero(free & (rows.classes == label)))
        had = np.bincount(parts[~free & (rows.classes == label)], minlength=folds)
        given = _levelled(had, sizes, len(places))
        parts[places] = np.repeat(np.arange(folds, dtype=np.int8), given)
        sizes += given


def _levelled(had: NDArray[np.int64], sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return how many of ``count`` rows each fold (K,) gets, so that all have as many of the label as can be.

    Folds that are smaller in all, ``sizes``, come first where rows are left over.
    """
    level = had.copy()
    order = np.argsort(had, kind="stable")
    for place in range(1, len(had) + 1):
        lowest = order[:place]
        top = had[order[place]] if place < len(had) else np.iinfo(np.int64).max
        room = int((top - level[lowest]).sum()) if place < len(had) else count
        if room >= count:
            each, rest = divmod(count, place)
            level[lowest] += each
            level[lowest[np.argsort(sizes[lowest], kind="stable")[:rest]]] += 1
            break
        level[lowest] = top
        count -= room
    found: NDArray[np.int64] = level - had
    return found


def _fill_by_sets(parts: NDArray[np.int8], rows: LabelledRows, free: NDArray[np.bool_], folds: int, seed: int) -> None:
    """Divide the free rows with several labels, in the shares that each fold still lacks."""
    if rows.sets is None or not free.any():
        return
    taken = np.bincount(parts[~free], minlength=folds)
    lacking = np.maximum(len(parts) / folds - taken, 0.0)
    parts[free] = stratify(rows.classes[free], rows.sets, (lacking / lacking.sum()).tolist(), seed)
