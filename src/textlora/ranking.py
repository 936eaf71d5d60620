"""Scores and curves of how well a probability ranks the rows of a class above the others. Plain numpy.

Letters in shapes: N rows, C classes, B resamples worked on together, T distinct scores.

A class without rows, or with all rows, has no ROC-AUC and no average precision: it is left out of the
mean, and the score is left out altogether when no class remains. Rows are sorted once per class; a
resample is a weight per row, and its scores come from cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.confusion import Floats, quotient
from textlora.resampling import Doubt, Units, small_mean
from textlora.types import Curve

CURVE_POINTS = 200
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows in falling order of one class's probability.

    Attributes:
        order: (N,) row numbers, highest probability first.
        positive: (N,) bool in that order: the row belongs to the class.
        ends: (T,) the last place of each distinct probability, so that ties count together.
    """

    order: NDArray[np.intp]
    positive: Marks
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, positive: Marks, score: Floats) -> Ranking:
        """Return the ranking of rows that belong to the class or not (N,) by their scores (N,)."""
        order = np.argsort(-score, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
        return cls(order, positive[order], ends)

    @property
    def defined(self) -> bool:
        """Whether there are rows with and without the class."""
        return bool(0 < self.positive.sum() < len(self.positive))

    @property
    def belongs(self) -> Marks:
        """Which rows (N,) belong to the class, in their own order."""
        found = np.empty(len(self.order), np.bool_)
        found[self.order] = self.positive
        return found

    @property
    def faultless(self) -> bool:
        """Whether all rows of the class are ranked above all others."""
        return bool(area_under_roc(*self.accumulate(np.ones((1, len(self.order)))))[0] == 1)

    def accumulate(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return true and false positives at each distinct threshold: (B, T) from weights (B, N)."""
        ranked = weights[:, self.order]
        chosen = np.cumsum(ranked, axis=1)[:, self.ends]
        true = np.cumsum(ranked * self.positive, axis=1)[:, self.ends]
        return true, chosen - true


def area_under_roc(true: Floats, false: Floats) -> Floats:
    """Return (B,) areas by the trapezoid rule; nan where a resample lacks one of the two sides."""
    steps = np.diff(false, axis=1, prepend=0)
    heights = (true + np.concatenate([np.zeros_like(true[:, :1]), true[:, :-1]], axis=1)) / 2
    return quotient((steps * heights).sum(1), true[:, -1] * false[:, -1], otherwise=np.nan)


def average_precision(true: Floats, false: Floats) -> Floats:
    """Return (B,) sums of precision times step in recall; nan where a resample lacks one side."""
    area = (np.diff(true, axis=1, prepend=0) * quotient(true, true + false)).sum(1)
    return np.where(false[:, -1] > 0, quotient(area, true[:, -1], otherwise=np.nan), np.nan)


SCORES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "roc_auc": area_under_roc,
    "average_precision": average_precision,
}


def mean_scores(rankings: Sequence[Ranking], weights: Floats) -> dict[str, Floats]:
    """Return ``roc_auc`` and ``average_precision``, means over the classes, each (B,), for row weights (B, N)."""
    counts = [ranking.accumulate(weights) for ranking in rankings]
    return {name: _mean_defined(np.stack([score(*pair) for pair in counts])) for name, score in SCORES.items()}


def _mean_defined(values: Floats) -> Floats:
    """Average (K, B) over the first axis, leaving nan out; nan where nothing is left."""
    defined = np.isfinite(values)
    return quotient(np.where(defined, values, 0).sum(0), defined.sum(0), otherwise=np.nan)


def doubts(rankings: Sequence[Ranking], units: Units) -> dict[str, Doubt]:
    """Return what resamples do not show of the mean scores.

    A bootstrap of rows without a fault shows none either. So where a class is ranked without a fault, a
    share of the smaller side, as large as can stay unseen, is put at the wrong end of the ranking; the
    class that loses most by it counts. A ranking is as sure as its smaller side has units.
    """
    defined = [ranking for ranking in rankings if ranking.defined]
    if not defined:
        return {}
    sides = [min(units.effective(ranking.belongs), units.effective(~ranking.belongs)) for ranking in defined]
    wider = small_mean([1 / side for side in sides], sides)
    losses = [_losses(ranking, units.unseen) for ranking in defined if ranking.faultless]
    down = {name: max((loss[name] for loss in losses), default=0.0) / len(defined) for name in SCORES}
    return {name: Doubt(wider, loss) for name, loss in down.items()}


def _losses(ranking: Ranking, unseen: Callable[[Marks], float]) -> dict[str, float]:
    """Return what a perfect ranking loses when some positive rows go to the end, or some others to the top."""
    belongs = ranking.belongs
    counts = {True: float(belongs.sum()), False: float((~belongs).sum())}
    last = counts[True] * unseen(belongs)
    first = counts[False] * unseen(~belongs)
    # Blocks of rows from the top to the end, as weights of true and false positives.
    sunk = np.array([[counts[True] - last, 0, last]]), np.array([[0, counts[False], 0]])
    risen = np.array([[0, counts[True], 0]]), np.array([[first, 0, counts[False] - first]])
    worst = {}
    for name, score in SCORES.items():
        cases = [score(np.cumsum(true, axis=1), np.cumsum(false, axis=1))[0] for true, false in (sunk, risen)]
        worst[name] = 1 - float(min(cases))
    return worst


# --- curves -------------------------------------------------------------------------------


def roc_points(positive: Marks, score: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates (T + 1,), from (0, 0) to (1, 1)."""
    true, false = Ranking.of(positive, score).accumulate(np.ones((1, len(score))))
    rates = [np.concatenate([[0.0], quotient(count[0], count[0, -1])]) for count in (false, true)]
    return rates[0], rates[1]


def precision_recall_points(positive: Marks, score: Floats) -> tuple[Floats, Floats]:
    """Return recall and precision (T + 1,), from recall 0 (precision 1 by convention) to recall 1."""
    true, false = Ranking.of(positive, score).accumulate(np.ones((1, len(score))))
    recall, precision = quotient(true[0], true[0, -1]), quotient(true[0], true[0] + false[0])
    return np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])


def curves(classes: Sequence[tuple[str, Marks, Floats]]) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the ROC and the precision-recall curves of classes, at most 200 points each.

    The areas are those of the full curves: ROC-AUC and average precision.

    Args:
        classes: name, which rows (N,) belong to it, and their scores (N,); those without rows on both
            sides have no curves.
    """
    drawn = [(name, belongs, score) for name, belongs, score in classes if 0 < belongs.sum() < len(belongs)]
    roc = (_curve(name, roc_points, area_under_roc, (belongs, score)) for name, belongs, score in drawn)
    precision_recall = (
        _curve(name, precision_recall_points, average_precision, (belongs, score)) for name, belongs, score in drawn
    )
    return tuple(roc), tuple(precision_recall)


def _curve(
    name: str, points: Callable[..., tuple[Floats, Floats]], area: Callable[..., Floats], data: tuple[Marks, Floats]
) -> Curve:
    x, y = points(*data)
    kept = _thin(x, y)
    whole = area(*Ranking.of(*data).accumulate(np.ones((1, len(data[1])))))
    return Curve(name, tuple(x[kept].tolist()), tuple(y[kept].tolist()), float(whole[0]))


def _thin(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Choose at most 200 points, both ends among them, evenly along the way the curve goes."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    nearest = np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS), side="left").clip(0, len(x) - 1)
    nearest[-1] = len(x) - 1
    return np.unique(nearest)
