"""Means over rows that may depend on each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.interval import Interval
from textlora.tasks import Floats

NORMAL_975 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def numbered(groups: Sequence[Hashable] | None, rows: int) -> NDArray[np.intp]:
    """Return the number of each row's group (N,); every row is its own without any."""
    if groups is None:
        return np.arange(rows)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.intp)


def standard_error(values: Floats, units: NDArray[np.intp]) -> float:
    """Return the standard error of the mean of values (N,) that depend on each other within a unit.

    Source: the cluster-robust variance of a mean (Liang and Zeger 1986).
    """
    sums = np.bincount(units, weights=values - values.mean())
    count = len(sums)
    return float(np.sqrt((sums**2).sum() * count / max(1, count - 1))) / len(values)


def mean_interval(values: Floats, groups: Sequence[Hashable] | None = None, *, lowest: float = -np.inf) -> Interval:
    """Return the mean of values (N,) with its normal 95 % interval; groups count as one each.

    ``lowest`` is the least that a mean can be.
    """
    mean = float(values.mean())
    half = NORMAL_975 * standard_error(values, numbered(groups, len(values)))
    return Interval(mean, max(lowest, mean - half), mean + half)
