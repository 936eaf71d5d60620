"""Scores that the confusion matrix alone decides, of any number of resampled matrices at once. Plain numpy.

Letters in shapes: N rows, C classes. They equal scikit-learn's with ``zero_division=0``: a quotient over
nothing is 0, as the precision of a class that is never predicted.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, *, classes: int) -> Integers:
    """Return the (C, C) counts: row = true class, column = predicted class."""
    return np.bincount(cells(y_true, y_pred, classes=classes), minlength=classes * classes).reshape(classes, classes)


def cells(y_true: ArrayLike, y_pred: ArrayLike, *, classes: int) -> Integers:
    """Return each row's place (N,) in the flat confusion matrix."""
    return np.asarray(y_true, np.int64) * classes + np.asarray(y_pred, np.int64)


def per_class(confusion: NDArray[np.integer | np.floating]) -> dict[str, Floats]:
    """Return ``precision``, ``recall`` and ``f1`` of each class.

    Args:
        confusion: (..., C, C) counts.

    Returns:
        Three arrays of shape (..., C).
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return ratios(hits, confusion.sum(-2), confusion.sum(-1))


def ratios(hits: ArrayLike, given: ArrayLike, had: ArrayLike) -> dict[str, Floats]:
    """Return ``precision``, ``recall`` and ``f1`` from how often labels were given rightly, given, and had."""
    right, chosen, true = (np.asarray(counts, np.float64) for counts in (hits, given, had))
    return {
        "precision": quotient(right, chosen),
        "recall": quotient(right, true),
        "f1": quotient(2 * right, chosen + true),
    }


def overall(confusion: NDArray[np.integer | np.floating]) -> dict[str, Floats]:
    """Return the scores over all classes that the confusion matrix alone decides.

    Args:
        confusion: (..., C, C) counts.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that have rows),
        ``precision_macro``, ``recall_macro``, ``f1_macro`` and ``mcc``, each of shape (...).
    """
    single = per_class(confusion)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    present = (confusion.sum(-1) > 0).sum(-1)
    return {
        "accuracy": quotient(hits, confusion.sum((-2, -1))),
        "balanced_accuracy": quotient(single["recall"].sum(-1), present),
        **{f"{name}_macro": values.mean(-1) for name, values in single.items()},
        "mcc": matthews(confusion),
    }


def matthews(confusion: NDArray[np.integer | np.floating]) -> Floats:
    """Return Matthews' correlation for any number of classes (Gorodkin 2004); 0 where undefined."""
    counts = confusion.astype(np.float64)
    total, hits = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    predicted, actual = counts.sum(-2), counts.sum(-1)
    covariance = hits * total - (predicted * actual).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (actual**2).sum(-1))
    # Rounding may leave a little less than nothing.
    return quotient(covariance, np.sqrt(np.maximum(spread, 0)))


def quotient(above: ArrayLike, below: ArrayLike, *, otherwise: float = 0.0) -> Floats:
    """Divide; where the divisor is 0 the result is ``otherwise``."""
    numerator, divisor = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.asarray(np.divide(numerator, divisor, out=np.full(divisor.shape, otherwise), where=divisor != 0))
