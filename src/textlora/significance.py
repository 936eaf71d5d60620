"""Tests of differences, and their correction where several are made. N rows, U units, K tests.

What scipy has is taken from there. The sign-flip test is McNemar's exact test, but for units that change
sides as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora import intervals

LEVEL = 0.05
"""A difference is called real where chance brings one as large in fewer cases than this."""


def mcnemar(first: ArrayLike, second: ArrayLike, units: NDArray[np.intp] | None = None) -> float:
    """Return the two-sided p-value of McNemar's exact test that two methods are right equally often.

    If they are, it is a coin toss which of the two has a row right that they disagree on (McNemar 1947,
    in the exact form). Where rows come in units, the coin is tossed for a unit: all its rows change
    sides together. With one unit nothing can be told, and the value is 1.

    Args:
        first: (N,) bool, the first is right.
        second: (N,) bool, the second is right.
        units: (N,) number of each row's unit; None where every row is its own.
    """
    differences = np.asarray(first, np.bool_).astype(np.int64) - np.asarray(second, np.bool_)
    if units is not None:
        differences = np.rint(np.bincount(units, differences)).astype(np.int64)
    return sign_flip(differences)


def sign_flip(differences: NDArray[np.int64]) -> float:
    """Return how often a sum (U,) of whole numbers is as far from 0 as it is, over all choices of their signs.

    All 2^U choices count, none is drawn: the distribution of the sum is built up size by size.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        chances = np.convolve(chances, _signed_sums(size, count))
    middle, far = len(chances) // 2, abs(int(differences.sum()))
    return min(1.0, float(chances.sum() if far == 0 else 2 * chances[middle + far :].sum()))


def _signed_sums(size: int, count: int) -> NDArray[np.float64]:
    """Return the chances of the sums of ``count`` numbers of one size with random signs, lowest sum first."""
    from scipy.stats import binom

    found = np.zeros(2 * size * count + 1)
    found[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
    return found


def two_shares(
    part: tuple[NDArray[np.bool_], NDArray[np.intp] | None], rest: tuple[NDArray[np.bool_], NDArray[np.intp] | None]
) -> float:
    """Return the two-sided p-value that two sets of different rows are right equally often.

    Fisher's exact test; where rows come in units, the score test with the effective numbers of rows
    (Rao and Scott 1981) and Student's t.

    Args:
        part: right or not (N,), and the number of each row's unit, or None.
        rest: the same of the other rows.
    """
    if part[1] is not None and rest[1] is not None:
        return _two_clustered(part, rest)
    from scipy.stats import fisher_exact

    table = [[int(right.sum()), int((~right).sum())] for right, _ in (part, rest)]
    return float(fisher_exact(table).pvalue)


def _two_clustered(
    part: tuple[NDArray[np.bool_], NDArray[np.intp] | None], rest: tuple[NDArray[np.bool_], NDArray[np.intp] | None]
) -> float:
    from scipy.special import stdtr

    shares, rows, freedom = zip(*(_effective_rows(*side) for side in (part, rest)), strict=True)
    pooled = (shares[0] * rows[0] + shares[1] * rows[1]) / sum(rows)
    variance = pooled * (1 - pooled) * (1 / rows[0] + 1 / rows[1])
    if variance <= 0:
        return 1.0
    distance = abs(shares[0] - shares[1]) / float(np.sqrt(variance))
    return float(2 * stdtr(max(1.0, min(freedom)), -distance))


def _effective_rows(right: NDArray[np.bool_], units: NDArray[np.intp] | None) -> tuple[float, float, float]:
    """Return the share that is right, the effective number of rows, and the degrees of freedom."""
    _, numbers = np.unique(units if units is not None else np.arange(len(right)), return_inverse=True)
    hits, sizes = intervals.sums(numbers, right.astype(np.float64)), intervals.sums(numbers, np.ones(len(right)))
    rows = len(right) / intervals.design_effect(hits, sizes)
    return float(right.mean()), rows, intervals.effective(sizes) - 1


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values that may be compared with 5 % although K tests were made (Holm 1979).

    The smallest is multiplied by K, the next by K - 1, and so on; none falls below a smaller one's.
    """
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    found = np.empty(len(given))
    found[order] = np.maximum.accumulate(np.minimum(1.0, given[order] * np.arange(len(given), 0, -1)))
    return tuple(found.tolist())
