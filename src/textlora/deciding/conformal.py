"""Split conformal sets: which labels cannot be ruled out at a stated error rate.

Source: Papadopoulos et al. 2002; the score is 1 - p(true label), as in Sadinle, Lei and Wasserman 2019, "Least
Ambiguous Set-Valued Classifiers with Bounded Error Levels" (LAC). With n validation rows, k = ceil((n + 1)(1 - rate))
and q the k-th smallest score, the set {labels with 1 - p <= q} holds the true label of a new row with a probability of
at least 1 - rate, whatever the classifier, as long as new rows are like the validation rows. Of rows with equal scores
all are let in: where there are ties the sets are rather too large (conservative) than drawn by lot. Without ties the
coverage is below 1 - rate + 1 / (n + 1).

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

import math

import numpy as np

from textlora.decision import Abstention
from textlora.errors import UsageError
from textlora.interval import Interval
from textlora.tasks import Decisions, Floats

_ROUNDING = 1e-9


def rows_needed(error_rate: float) -> int:
    """Return the fewest validation rows with which an error rate can be promised."""
    return math.ceil((1 - error_rate) / error_rate - _ROUNDING)


def fit(probabilities: Floats, truth: Decisions, error_rate: float) -> Abstention:
    """Return the rule for an error rate.

    Args:
        probabilities: (N, C) of the validation rows, as users get them.
        truth: (N, C) with one true label a row.
        error_rate: above 0, below 0.5.

    Raises:
        UsageError: there are too few rows for this rate.
    """
    rows = len(probabilities)
    if rows < rows_needed(error_rate):
        raise UsageError(too_few_rows(rows, error_rate))
    place = math.ceil((rows + 1) * (1 - error_rate) - _ROUNDING)
    # The k-th smallest score belongs to the k-th largest probability: no rounding of 1 - p comes between.
    least = np.sort(probabilities[truth])[::-1][place - 1]
    return Abstention(error_rate, float(least), rows, coverage(rows, place))


def coverage(rows: int, place: int) -> Interval:
    """Return the coverage of new rows, where the ``place``-th smallest score of ``rows`` is the bound.

    Over the draws of the validation rows it has a beta distribution (Vovk 2012, "Conditional validity of inductive
    conformal predictors"); ties only raise it.
    """
    from scipy.special import betaincinv

    low, high = betaincinv(place, rows + 1 - place, [0.025, 0.975])
    return Interval(place / (rows + 1), float(low), float(high))


def too_few_rows(rows: int, error_rate: float) -> str:
    """Return why so many rows cannot promise an error rate, and what would do."""
    possible = math.ceil(1000 / (rows + 1)) / 1000
    other = f", which are enough for a rate of {possible:g}" if possible < 0.5 else ""  # noqa: PLR2004 - the highest rate
    return (
        f"An error rate of {error_rate:g} needs at least {rows_needed(error_rate):,} validation rows; these "
        f"are {rows:,}{other}."
    )


def sets(probabilities: Floats, rule: Abstention) -> Decisions:
    """Return which labels cannot be ruled out (N, C), possibly none."""
    return np.asarray(probabilities >= rule.least_probability)
