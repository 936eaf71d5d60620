"""Per-class thresholds for multi-label data: from which probability on a label is given.

With 0.5 for all, rare labels are hardly ever given, since their probabilities seldom reach it. The
threshold that gives the best F1 lies below (at half of that F1, for calibrated probabilities: Lipton,
Elkan and Narayanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"). It is
fitted for each label on the validation rows (Yang 2001 calls it SCut).

Letters in shapes: N rows, C classes, T distinct probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

USUAL = 0.5
LEAST_POSITIVES = 5
"""Rows with a label from which its threshold is fitted; the best one of fewer rows is an accident."""


def fit(truth: NDArray[np.bool_], probabilities: Floats) -> tuple[float, ...]:
    """Return the threshold of each class that gives the highest F1 on these rows.

    A threshold lies midway between the probabilities of two rows. Of equally good ones the nearest to 0.5 is
    taken. A class with fewer than ``LEAST_POSITIVES`` rows keeps 0.5.

    Args:
        truth: (N, C), which labels the rows have.
        probabilities: (N, C).
    """
    return tuple(_best(truth[:, place], probabilities[:, place]) for place in range(truth.shape[1]))


def _best(truth: NDArray[np.bool_], probabilities: Floats) -> float:
    positives = int(truth.sum())
    if positives < LEAST_POSITIVES:
        return USUAL
    order = np.argsort(-probabilities, kind="stable")
    sorted_scores = probabilities[order]
    # Rows of equal probability are given the label together.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    hits = np.cumsum(truth[order])[ends]
    f1 = 2 * hits / (ends + 1 + positives)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    cuts = _between(sorted_scores[ends])[best]
    return float(cuts[np.argmin(np.abs(cuts - USUAL))])


def _between(scores: Floats) -> Floats:
    """Return a threshold (T,) below each of the falling scores (T,) and above the next one."""
    after = np.append(scores[1:], 0.0)
    middle = (scores + after) / 2
    # Neighbouring floats have no middle; a row of the score itself must still be given the label.
    return np.asarray(np.where(middle > after, middle, scores))
