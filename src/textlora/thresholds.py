"""Thresholds of yes-or-no decisions: from which probability on a label is given, fitted for a goal.

In multi-label data each label has its own. With 0.5 for all, rare labels are hardly ever given, since their
probabilities seldom reach it. The threshold that gives the best F1 lies below (at half of that F1, for calibrated
probabilities: Lipton, Elkan and Narayanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"). It is
fitted for each label on the validation rows (Yang 2001 calls it SCut). Where rows have one of two labels, one threshold
decides between them.

Letters in shapes: N rows, C classes, T operating points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.errors import UsageError
from textlora.goals import Goal

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
Integers = NDArray[np.int64]

USUAL = 0.5
LEAST_POSITIVES = 5
"""Rows with a label from which its threshold is fitted; the best one of fewer rows is an accident."""
F1 = Goal("f1")
_TIE = 1e-12


class Unreached(UsageError):
    """No threshold reaches the goal on the validation rows."""


@dataclass(frozen=True, slots=True)
class Points:
    """What each threshold does, from the highest to the lowest.

    Attributes:
        cuts: (T,) the label is given from here on; each lies midway between two rows' probabilities.
        found: (T,) rows with the label that are given it.
        given: (T,) rows that are given it.
        positives: rows with the label.
        rows: N.
    """

    cuts: Floats
    found: Integers
    given: Integers
    positives: int
    rows: int

    @property
    def precision(self) -> Floats:
        """Share of the given labels that are right; 0 where none is given."""
        return np.asarray(self.found / np.maximum(1, self.given))

    @property
    def recall(self) -> Floats:
        """Share of the rows with the label that are given it; 0 where none has it."""
        return np.asarray(self.found / max(1, self.positives))

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall."""
        return np.asarray(2 * self.found / np.maximum(1, self.given + self.positives))

    def cost(self, goal: Goal) -> Floats:
        """Mean cost per row."""
        wrong, missed = self.given - self.found, self.positives - self.found
        return np.asarray((goal.false_positive * wrong + goal.false_negative * missed) / self.rows)


def points(truth: Truth, probabilities: Floats) -> Points:
    """Return all operating points of a label: truth (N,) and its probabilities (N,), at least one row.

    The first point gives the label to nobody, the last one to all.
    """
    order = np.argsort(-probabilities, kind="stable")
    scores = probabilities[order]
    # Rows of equal probability are given the label together.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(order) - 1)
    nobody = (scores[0] + 1) / 2 if scores[0] < 1 else np.nextafter(1.0, 2.0)
    return Points(
        cuts=np.append(nobody, between(scores[ends])),
        found=np.append(0, np.cumsum(truth[order])[ends]),
        given=np.append(0, ends + 1),
        positives=int(truth.sum()),
        rows=len(order),
    )


def between(scores: Floats) -> Floats:
    """Return a threshold (T,) below each of the falling scores (T,) and above the next one."""
    after = np.append(scores[1:], 0.0)
    middle = (scores + after) / 2
    # Neighbouring floats have no middle; a row of the score itself must still be given the label.
    return np.asarray(np.where(middle > after, middle, scores))


def best(found: Points, goal: Goal) -> int:
    """Return which of the points serves the goal best.

    Of equally good ones the nearest to 0.5 is taken, for costs the nearest to FP / (FP + FN), which is the best
    threshold where probabilities are exact (Elkan 2001, "The Foundations of Cost-Sensitive Learning").

    Raises:
        Unreached: none reaches the precision that is asked for; says what could be reached.
    """
    worth, allowed = _worth(found, goal)
    if not allowed.any():
        top = int(np.argmax(found.precision))
        raise Unreached(
            f"No threshold reaches a precision of {goal.share:g} on the {found.rows:,} validation rows; the highest is "
            f"{found.precision[top]:.3f}, with a recall of {found.recall[top]:.3f}."
        )
    worth = np.where(allowed, worth, -np.inf)
    equal = np.flatnonzero(worth >= worth.max() - _TIE)
    return int(equal[np.argmin(np.abs(found.cuts[equal] - goal.even_threshold))])


def _worth(found: Points, goal: Goal) -> tuple[Floats, Truth]:
    """Return what each point is worth for the goal, the higher the better, and whether it is allowed."""
    some = found.given > 0
    if goal.kind == "cost":
        return -found.cost(goal), np.ones_like(some)
    if goal.kind == "recall@precision":
        return found.recall, some & (found.precision >= goal.share - _TIE)
    if goal.kind == "precision@recall":
        return found.precision, some & (found.recall >= goal.share - _TIE)
    return found.f1, some


def fit(truth: Truth, probabilities: Floats, goal: Goal = F1, *, label_names: Sequence[str] = ()) -> tuple[float, ...]:
    """Return the threshold of each class that serves a goal best on these rows, the highest F1 by default.

    A class with fewer than ``LEAST_POSITIVES`` rows keeps 0.5.

    Args:
        truth: (N, C), which labels the rows have.
        probabilities: (N, C).
        goal: of every class by itself.
        label_names: for the error.

    Raises:
        Unreached: some classes cannot reach the goal; all of them, with what they could reach.
    """
    cuts, problems = [], []
    for place in range(truth.shape[1]):
        try:
            cuts.append(_fitted(truth[:, place], probabilities[:, place], goal))
        except Unreached as error:
            problems.append(f"{repr(label_names[place]) if label_names else place}: {error.message}")
    if problems:
        raise Unreached(f"Some labels cannot reach the goal {goal}:", problems=problems)
    return tuple(cuts)


def _fitted(truth: Truth, probabilities: Floats, goal: Goal) -> float:
    if int(truth.sum()) < LEAST_POSITIVES:
        return USUAL
    found = points(truth, probabilities)
    return float(found.cuts[best(found, goal)])
