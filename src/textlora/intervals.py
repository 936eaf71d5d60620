"""Closed 95 % intervals: of shares, of shares whose rows come in groups, of F1, of paired differences.

All of them stay honest where a bootstrap does not: for few rows, and where not a single row was wrong.
Plain numpy but for quantiles of Student's t. N rows, U units.

A unit is what is drawn at random: a row, or a group of rows that stay together. Rows of one unit
resemble each other, so that they say less than as many rows drawn one by one. How much less is the
design effect: the variance that the units show, divided by that of single rows. A share from n grouped
rows is then as sure as one from n / (design effect) rows, the effective number; and since the effect
is itself estimated from the units, Student's t takes the place of the normal quantile
(Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora.types import Interval

NORMAL_975 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
PRIOR_UNITS = 0.2
"""Weight, in units, of the cautious guess that rows of a unit are all alike; chosen by simulated coverage."""
_HALVINGS = 200


def wilson(hits: float, rows: float) -> Interval:
    """Return a share with its 95 % Wilson interval, which stays honest for few rows and at 0 and 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        hits: rows that count.
        rows: all rows; without any, the share is 0 and could be anything.
    """
    if not rows:
        return Interval(0.0, 0.0, 1.0)
    return _wilson(hits / rows, rows)


def ratio(hits: ArrayLike, totals: ArrayLike, units: NDArray[np.intp] | None = None) -> Interval:
    """Return sum(hits) / sum(totals) with its 95 % interval: Wilson's with the effective number of rows.

    Where every row is a unit of its own and counts once or not at all, this is Wilson's interval itself.

    Args:
        hits: (N,) what counts of each row, at most its total.
        totals: (N,) what could count; rows with 0 say nothing.
        units: (N,) number of each row's unit; None where every row is its own.
    """
    counted, possible = np.asarray(hits, np.float64), np.asarray(totals, np.float64)
    if units is None and possible.max(initial=0) <= 1:
        return wilson(float(counted.sum()), float(possible.sum()))
    if units is not None:
        counted, possible = sums(units, counted), sums(units, possible)
    there = possible > 0
    if not there.any():
        return wilson(0, 0)
    return _clustered(counted[there], possible[there])


def sums(units: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the values (N,) of each unit (U,)."""
    return np.asarray(np.bincount(units, values), np.float64)


def _clustered(counted: NDArray[np.float64], possible: NDArray[np.float64]) -> Interval:
    """Return the interval of a ratio from the sums of each unit (U,), none of which is 0."""
    whole = float(possible.sum())
    share, sure = float(counted.sum()) / whole, effective(possible)
    rows = whole / design_effect(counted, possible)
    # n / (t / z)^2 rows and the normal quantile give the same interval as n rows and t.
    return _wilson(share, rows * (NORMAL_975 / student(sure - 1)) ** 2)


def _wilson(share: float, rows: float) -> Interval:
    square = NORMAL_975**2
    centre = (share + square / (2 * rows)) / (1 + square / rows)
    half = NORMAL_975 / (1 + square / rows) * float(np.sqrt(share * (1 - share) / rows + square / (4 * rows**2)))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def design_effect(counted: NDArray[np.float64], possible: NDArray[np.float64]) -> float:
    """Return by how much units (U,) enlarge the variance of sum(counted) / sum(possible); at least 1.

    What is observed is moved towards the effect of units whose rows are all alike, with the weight of a
    fifth of a unit: a few units that happen to be alike say little of the next ones. Where all or none
    counts, or there is one unit alone, nothing is observed, and rows of a unit are taken as equal.
    """
    whole, units = float(possible.sum()), effective(possible)
    equal, share = whole / units, float(counted.sum()) / whole
    if len(possible) == 1 or not 0 < share < 1:
        return max(1.0, equal)
    return _cautious(observed_effect(counted, possible), equal, units)


def observed_effect(counted: NDArray[np.float64], possible: NDArray[np.float64]) -> float:
    """Return the variance of a ratio that units (U,) show, divided by that of single rows; at least 1.

    The variance is linearised (Cochran 1977, "Sampling techniques", 6.3).
    """
    whole, units = float(possible.sum()), len(possible)
    share = float(counted.sum()) / whole
    simple = share * (1 - share) / whole
    if units == 1 or simple <= 0:
        return 1.0
    residuals = counted - share * possible
    return max(1.0, float(units / (units - 1) * (residuals**2).sum() / whole**2 / simple))


def _cautious(observed: float, equal: float, units: float) -> float:
    """Return an observed design effect moved towards that of equal rows, see ``design_effect``."""
    return max(1.0, (units * observed + PRIOR_UNITS * equal) / (units + PRIOR_UNITS))


def effective(sizes: ArrayLike) -> float:
    """Return how many units of equal size are as good as units of these sizes (Kish 1965): (sum)^2 / sum of squares."""
    given = np.asarray(sizes, np.float64)
    return float(given.sum() ** 2 / (given**2).sum())


def student(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t; below one degree of freedom that of one."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1.0, freedom), 0.975))


def f1_from_overlap(overlap: Interval) -> Interval:
    """Return the interval of F1 from that of TP / (TP + FP + FN).

    F1 is no share, but 2 s / (1 + s) of the share s of rows that are found among those that are found,
    missed or given wrongly; so the interval of s carries over (Lam, Gopal and Qian 2023, "Confidence
    intervals for the F1 score: a comparison of four methods").
    """
    value, low, high = (2 * share / (1 + share) for share in (overlap.value, overlap.low, overlap.high))
    return Interval(value, low, high)


def paired_difference(first: ArrayLike, second: ArrayLike, units: NDArray[np.intp] | None = None) -> Interval:
    """Return by how much the first share exceeds the second on the same rows, with Tango's score interval.

    Rows that both have right or both have wrong do not blur the difference. Where rows come in units,
    the counts are divided by the design effect of the difference, and Student's t is used.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design".

    Args:
        first: (N,) bool, the first is right; at least one row.
        second: (N,) bool, the second is right.
        units: (N,) number of each row's unit; None where every row is its own.
    """
    ours, theirs = np.asarray(first, np.bool_), np.asarray(second, np.bool_)
    only_ours, only_theirs = float((ours & ~theirs).sum()), float((theirs & ~ours).sum())
    if units is None:
        return tango(only_ours, only_theirs, len(ours))
    totals, sizes = sums(units, ours.astype(np.float64) - theirs), sums(units, np.ones(len(ours)))
    there = sizes > 0
    effect = _paired_effect(totals[there], sizes[there], only_ours + only_theirs)
    less = effect * (student(effective(sizes[there]) - 1) / NORMAL_975) ** 2
    found = tango(only_ours / less, only_theirs / less, len(ours) / less)
    # Divided and multiplied again, the value would lose its last digit.
    return Interval((only_ours - only_theirs) / len(ours), found.low, found.high)


def _paired_effect(totals: NDArray[np.float64], sizes: NDArray[np.float64], discordant: float) -> float:
    rows, units = float(sizes.sum()), len(sizes)
    mean = float(totals.sum()) / rows
    simple = (discordant / rows - mean**2) / rows
    if units == 1 or simple <= 0:
        return max(1.0, rows / effective(sizes))
    residuals = totals - mean * sizes
    observed = max(1.0, float(units / (units - 1) * (residuals**2).sum() / rows**2 / simple))
    return _cautious(observed, rows / effective(sizes), effective(sizes))


def tango(only_first: float, only_second: float, rows: float) -> Interval:
    """Return the difference of two paired shares with Tango's 95 % score interval.

    The ends are the differences that a score test at 5 % just does not reject.

    Args:
        only_first: rows that the first alone has right.
        only_second: rows that the second alone has right.
        rows: all rows, more than 0.
    """
    value = (only_first - only_second) / rows

    def score(difference: float) -> float:
        return _tango_score(difference, only_first, only_second, rows)

    return Interval(value, _crossing(score, NORMAL_975, -1.0, value), _crossing(score, -NORMAL_975, value, 1.0))


def _tango_score(difference: float, only_first: float, only_second: float, rows: float) -> float:
    """Return the score statistic of a difference, which falls as the difference grows."""
    above = only_first - only_second - rows * difference
    # The likeliest share of rows that only the second has right, given the difference.
    linear = -only_first - only_second + (2 * rows - only_first + only_second) * difference
    constant = -only_second * difference * (1 - difference)
    share = (float(np.sqrt(max(0.0, linear**2 - 8 * rows * constant))) - linear) / (4 * rows)
    variance = rows * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return 0.0 if above == 0 else float(np.copysign(np.inf, above))
    return float(above / np.sqrt(variance))


def _crossing(score: Any, level: float, low: float, high: float) -> float:
    """Return where a falling function crosses a level between two ends, to the last digit."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
