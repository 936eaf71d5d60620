"""Scores of a classifier in plain numpy, each with a 95 % bootstrap interval.

Letters in shapes: N rows, C classes, B resamples worked on together, T distinct scores.

Conventions, the same as scikit-learn's with ``zero_division=0``: a quotient over nothing is 0
(precision of a class that is never predicted). With two classes the last label is the positive
one for ROC-AUC and average precision; with more, each class is held against the rest and the
mean is taken. A class without rows, or with all rows, has no ROC-AUC and no average precision:
it is left out of the mean, and the score is left out altogether when no class remains.

The bootstrap draws N of the N rows with replacement. Two equivalent ways are used:

* Scores that depend on the confusion matrix alone: the resampled matrix is one multinomial
  draw over the C x C cells, which has exactly the same distribution.
* Scores that depend on the probabilities: a resample is a count per row. Rows are sorted once
  per class, and each resample is then a cumulative sum of its counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora.types import ClassScores, Curve, Interval

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

CURVE_POINTS = 200
RESAMPLES = 1000
_BLOCK = 2**15
"""Numbers worked on at once: few enough to stay in the processor's cache, four times faster than 2**21."""
_NORMAL_975 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures of one classifier on one set of rows, with their intervals."""

    metrics: Mapping[str, Interval]
    classes: tuple[ClassScores, ...]


# --- from the confusion matrix ------------------------------------------------------------


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, *, classes: int) -> Integers:
    """Return the (C, C) counts: row = true class, column = predicted class."""
    cells = np.asarray(y_true, np.int64) * classes + np.asarray(y_pred, np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: Integers) -> dict[str, Floats]:
    """Return ``precision``, ``recall`` and ``f1`` of each class.

    Args:
        confusion: (..., C, C) counts.

    Returns:
        Three arrays of shape (..., C).
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(-2), confusion.sum(-1)
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, actual),
        "f1": _ratio(2 * hits, predicted + actual),
    }


def overall(confusion: Integers) -> dict[str, Floats]:
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
        "accuracy": _ratio(hits, confusion.sum((-2, -1))),
        "balanced_accuracy": _ratio(single["recall"].sum(-1), present),
        **{f"{name}_macro": values.mean(-1) for name, values in single.items()},
        "mcc": _matthews(confusion),
    }


def _matthews(confusion: Integers) -> Floats:
    """Return Matthews' correlation for any number of classes (Gorodkin 2004); 0 where undefined."""
    counts = confusion.astype(np.float64)
    total, hits = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    predicted, actual = counts.sum(-2), counts.sum(-1)
    covariance = hits * total - (predicted * actual).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (actual**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


def _ratio(above: ArrayLike, below: ArrayLike, *, otherwise: float = 0.0) -> Floats:
    """Divide; where the divisor is 0 the result is ``otherwise``."""
    numerator, divisor = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.asarray(np.divide(numerator, divisor, out=np.full(divisor.shape, otherwise), where=divisor != 0))


# --- from the probabilities ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The rows in falling order of one class's probability.

    Attributes:
        order: (N,) row numbers, highest probability first.
        positive: (N,) bool in that order: the row belongs to the class.
        ends: (T,) the last place of each distinct probability, so that ties count together.
    """

    order: NDArray[np.intp]
    positive: NDArray[np.bool_]
    ends: NDArray[np.intp]

    def accumulate(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return true and false positives at each distinct threshold: (B, T) from weights (B, N)."""
        ranked = weights[:, self.order]
        chosen = np.cumsum(ranked, axis=1)[:, self.ends]
        true = np.cumsum(ranked * self.positive, axis=1)[:, self.ends]
        return true, chosen - true


def _ranking(positive: NDArray[np.bool_], score: Floats) -> _Ranking:
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    return _Ranking(order, positive[order], ends)


def _rankings(y_true: Integers, probabilities: Floats) -> list[_Ranking]:
    """Return one ranking for two classes (the last is positive), else one per class."""
    classes = probabilities.shape[1]
    ranked = [classes - 1] if classes == 2 else range(classes)  # noqa: PLR2004 - two classes need one ranking
    return [_ranking(y_true == index, probabilities[:, index]) for index in ranked]


def _area_under_roc(true: Floats, false: Floats) -> Floats:
    """Return (B,) areas by the trapezoid rule; nan where a resample lacks one of the two sides."""
    steps = np.diff(false, axis=1, prepend=0)
    heights = (true + np.concatenate([np.zeros_like(true[:, :1]), true[:, :-1]], axis=1)) / 2
    return _ratio((steps * heights).sum(1), true[:, -1] * false[:, -1], otherwise=np.nan)


def _average_precision(true: Floats, false: Floats) -> Floats:
    """Return (B,) sums of precision times step in recall; nan where a resample lacks one side."""
    area = (np.diff(true, axis=1, prepend=0) * _ratio(true, true + false)).sum(1)
    return np.where(false[:, -1] > 0, _ratio(area, true[:, -1], otherwise=np.nan), np.nan)


def _mean_defined(values: Floats) -> Floats:
    """Average (K, B) over the first axis, leaving nan out; nan where nothing is left."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(0), defined.sum(0), otherwise=np.nan)


def row_losses(y_true: ArrayLike, probabilities: Floats) -> Floats:
    """Return each row's negative log-probability of its true class: (N,) from (N, C).

    Probabilities are kept one float step away from 0 and 1, so that no loss is infinite.
    """
    step = np.finfo(np.float64).eps
    labels = np.asarray(y_true, np.int64)
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], step, 1 - step)))


def _ranked_scores(rankings: Sequence[_Ranking], losses: Floats, weights: Floats) -> dict[str, Floats]:
    """Return ``roc_auc``, ``average_precision`` and ``log_loss``, each (B,), for row weights (B, N)."""
    counts = [ranking.accumulate(weights) for ranking in rankings]
    return {
        "roc_auc": _mean_defined(np.stack([_area_under_roc(*pair) for pair in counts])),
        "average_precision": _mean_defined(np.stack([_average_precision(*pair) for pair in counts])),
        "log_loss": weights @ losses / weights.sum(1),
    }


# --- all figures --------------------------------------------------------------------------


def point_scores(y_true: ArrayLike, probabilities: Floats, predicted: ArrayLike | None = None) -> dict[str, float]:
    """Return every score over all classes, without intervals.

    Args:
        y_true: (N,) class indices.
        probabilities: (N, C).
        predicted: (N,) class indices; those with the highest probability by default, the first on ties.

    Returns:
        The keys of ``Evaluation.metrics``; a score that these rows do not define is absent.
    """
    labels = np.asarray(y_true, np.int64)
    counts = confusion_matrix(labels, _predicted(probabilities, predicted), classes=probabilities.shape[1])
    ranked = _ranked_scores(
        _rankings(labels, probabilities), row_losses(labels, probabilities), np.ones((1, len(labels)))
    )
    values = {name: float(value) for name, value in overall(counts).items()}
    values |= {name: float(value[0]) for name, value in ranked.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def validation_scores(y_true: ArrayLike, probabilities: Floats) -> dict[str, float]:
    """Return ``accuracy``, ``f1_macro`` and ``loss``: what training watches. Shapes (N,) and (N, C)."""
    labels = np.asarray(y_true, np.int64)
    scores = overall(confusion_matrix(labels, probabilities.argmax(1), classes=probabilities.shape[1]))
    loss = float(row_losses(labels, probabilities).mean())
    return {"accuracy": float(scores["accuracy"]), "f1_macro": float(scores["f1_macro"]), "loss": loss}


def _predicted(probabilities: Floats, predicted: ArrayLike | None) -> ArrayLike:
    return probabilities.argmax(1) if predicted is None else predicted


def bootstrap(
    y_true: ArrayLike,
    probabilities: Floats,
    predicted: ArrayLike | None = None,
    *,
    label_names: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score a classifier, every figure with its 95 % percentile interval.

    Args:
        y_true: (N,) class indices, at least one row.
        probabilities: (N, C) in the order of ``label_names``.
        predicted: (N,) class indices; those with the highest probability by default, the first on ties.
        label_names: C names.
        resamples: how many times the rows are drawn again.
        seed: same seed, same intervals.

    Returns:
        Scores over all classes and per class. A resample in which a score is undefined does not
        count towards that score's interval. No figure is ever nan.
    """
    labels = np.asarray(y_true, np.int64)
    counts = confusion_matrix(labels, _predicted(probabilities, predicted), classes=probabilities.shape[1])
    matrices = _resampled_matrices(counts, resamples, seed)
    drawn = _collect({**overall(block), **per_class(block)} for block in matrices)
    rankings, losses = _rankings(labels, probabilities), row_losses(labels, probabilities)
    weights = _resampled_weights(len(labels), resamples, seed)
    drawn |= _collect(_ranked_scores(rankings, losses, block) for block in weights)
    values = point_scores(labels, probabilities, predicted)
    metrics = {name: _interval(value, drawn[name]) for name, value in values.items()}
    return Scores(metrics, _class_scores(counts, drawn, label_names))


def _class_scores(counts: Integers, drawn: Mapping[str, Floats], label_names: Sequence[str]) -> tuple[ClassScores, ...]:
    single, support = per_class(counts), counts.sum(1)

    def figure(name: str, index: int) -> Interval:
        return _interval(float(single[name][index]), drawn[name][:, index])

    return tuple(
        ClassScores(
            label, figure("precision", index), figure("recall", index), figure("f1", index), int(support[index])
        )
        for index, label in enumerate(label_names)
    )


def _resampled_matrices(counts: Integers, resamples: int, seed: int) -> Iterator[Integers]:
    """Yield blocks (B, C, C) of resampled confusion matrices."""
    random = np.random.default_rng(seed)
    total, shares = int(counts.sum()), counts.ravel() / counts.sum()
    for size in _block_sizes(resamples, counts.size):
        yield random.multinomial(total, shares, size=size).reshape(size, *counts.shape)


def _resampled_weights(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks (B, N): how often each row is drawn in each resample."""
    random = np.random.default_rng(seed)
    for size in _block_sizes(resamples, rows):
        draws = random.integers(0, rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(draws.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _block_sizes(resamples: int, width: int) -> Iterator[int]:
    most = max(1, _BLOCK // width)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _collect(blocks: Iterator[dict[str, Floats]]) -> dict[str, Floats]:
    """Join the blocks of each score along the resamples."""
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(value: float, drawn: Floats) -> Interval:
    """Return the value with the 2.5 and 97.5 percentiles of the finite draws."""
    finite = drawn[np.isfinite(drawn)]
    if not len(finite):
        return Interval(value, value, value)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def advantage(ours: ArrayLike, theirs: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return by how much our accuracy exceeds theirs on the same rows, with its 95 % interval.

    Both are judged on the same resampled rows, so that rows that are hard for both do not blur
    the difference. Exact by one multinomial draw over (only theirs, both or none, only ours).

    Args:
        ours: (N,) bool, we are right.
        theirs: (N,) bool, they are right.
        resamples: how many times the rows are drawn again.
        seed: same seed, same interval.
    """
    difference = np.asarray(ours, np.int64) - np.asarray(theirs, np.int64)
    counts = np.bincount(difference + 1, minlength=3)
    rows = len(difference)
    drawn = np.random.default_rng(seed).multinomial(rows, counts / rows, size=resamples)
    return _interval(float(difference.mean()), (drawn[:, 2] - drawn[:, 0]) / rows)


def wilson(hits: int, rows: int) -> Interval:
    """Return a share with its 95 % Wilson interval, which stays honest for few rows and at 0 and 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, square = hits / rows, _NORMAL_975**2
    centre = (share + square / (2 * rows)) / (1 + square / rows)
    half = _NORMAL_975 / (1 + square / rows) * float(np.sqrt(share * (1 - share) / rows + square / (4 * rows**2)))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


# --- curves -------------------------------------------------------------------------------


def roc_points(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates (T + 1,), from (0, 0) to (1, 1)."""
    true, false = _ranking(positive, score).accumulate(np.ones((1, len(score))))
    rates = [np.concatenate([[0.0], _ratio(count[0], count[0, -1])]) for count in (false, true)]
    return rates[0], rates[1]


def precision_recall_points(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Return recall and precision (T + 1,), from recall 0 (precision 1 by convention) to recall 1."""
    true, false = _ranking(positive, score).accumulate(np.ones((1, len(score))))
    recall, precision = _ratio(true[0], true[0, -1]), _ratio(true[0], true[0] + false[0])
    return np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])


def curves(
    y_true: ArrayLike, probabilities: Floats, *, label_names: Sequence[str]
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the ROC and the precision-recall curves of each class, at most 200 points each.

    With two classes only the last label has a curve. Classes without rows, or with all of them,
    have none. The areas are those of the full curves: ROC-AUC and average precision.
    """
    labels = np.asarray(y_true, np.int64)
    names = label_names[-1:] if len(label_names) == 2 else label_names  # noqa: PLR2004 - one curve tells all of two classes
    roc: list[Curve] = []
    precision_recall: list[Curve] = []
    for name in names:
        index = label_names.index(name)
        positive, score = labels == index, probabilities[:, index]
        if 0 < positive.sum() < len(labels):
            roc.append(_curve(name, roc_points, _area_under_roc, (positive, score)))
            precision_recall.append(_curve(name, precision_recall_points, _average_precision, (positive, score)))
    return tuple(roc), tuple(precision_recall)


def _curve(
    name: str, points: Callable[..., tuple[Floats, Floats]], area: Callable[..., Floats], data: tuple[Any, Any]
) -> Curve:
    x, y = points(*data)
    kept = _thin(x, y)
    whole = area(*_ranking(*data).accumulate(np.ones((1, len(data[1])))))
    return Curve(name, tuple(x[kept].tolist()), tuple(y[kept].tolist()), float(whole[0]))


def _thin(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Choose at most 200 points, both ends among them, evenly along the way the curve goes."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    nearest = np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS), side="left").clip(0, len(x) - 1)
    nearest[-1] = len(x) - 1
    return np.unique(nearest)
