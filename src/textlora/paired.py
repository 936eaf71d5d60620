"""Two methods on the same rows: the difference of their scores, how sure it is, and what that comes to.

Rows on which both do the same do not blur a difference; so it is far surer than the intervals of the two
scores let one think. N rows, C classes, B resamples worked on together, R resamples in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora import intervals, significance
from textlora.confusion import Floats, ratios
from textlora.resampling import RESAMPLES, Doubt, Units, small_mean
from textlora.types import Interval

EQUAL = 0.01
"""A difference that is surely smaller than this is none worth speaking of."""
POWER_80 = 0.8416212335729143
"""80 % quantile of the normal distribution: how often an experiment shall see what is there."""
MOST_ROWS_NEEDED = 10_000_000
Decisions = NDArray[np.bool_]
Verdict = Literal["better", "worse", "equal", "unknown"]


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much the first of two methods exceeds the second on the same rows.

    Attributes:
        figure: ``accuracy`` or ``f1_macro``.
        interval: the difference with its 95 % interval.
        p_value: of the test that there is none; where several differences were tested, corrected for that.
        rows: rows that both were scored on.
        groups: groups of rows that counted as one draw; 0 where each row did.
        verdict: ``better`` or ``worse`` where test and interval both say so, ``equal`` where the difference
            surely is smaller than a point, else ``unknown``.
        rows_needed: rows that would show a difference as large as this one in 80 of 100 experiments; None
            where it is next to nothing.
    """

    figure: str
    interval: Interval
    p_value: float
    rows: int
    groups: int = 0
    verdict: Verdict = "unknown"
    rows_needed: int | None = None

    def __post_init__(self) -> None:
        """Derive verdict and rows, so that they are written with the rest; whatever is given for them is replaced."""
        object.__setattr__(self, "verdict", self._verdict())
        object.__setattr__(self, "rows_needed", self._rows_needed())

    def _verdict(self) -> Verdict:
        real = self.p_value < significance.LEVEL
        if real and self.interval.low > 0:
            return "better"
        if real and self.interval.high < 0:
            return "worse"
        return "equal" if self.interval.low > -EQUAL and self.interval.high < EQUAL else "unknown"

    def _rows_needed(self) -> int | None:
        error = (self.interval.high - self.interval.low) / 2 / intervals.NORMAL_975
        needed, distance = (intervals.NORMAL_975 + POWER_80) * error, abs(self.interval.value)
        if self.rows * needed**2 >= MOST_ROWS_NEEDED * distance**2:
            return None
        return int(np.ceil(self.rows * (needed / distance) ** 2))


def shown_p(p_value: float) -> str:
    """Return ``p = 0.012`` or ``p < 0.001``."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"  # noqa: PLR2004 - nobody needs it finer


def accuracy_difference(first: ArrayLike, second: ArrayLike, units: Units) -> Difference:
    """Return the difference of two shares of right rows: Tango's interval, McNemar's exact test.

    Args:
        first: (N,) bool, the first is right.
        second: (N,) bool, the second is right.
        units: which rows resemble each other.
    """
    interval = intervals.paired_difference(first, second, units.numbers)
    p_value = significance.mcnemar(first, second, units.numbers)
    return Difference("accuracy", interval, p_value, units.rows, len(units.sizes) if units.grouped else 0)


def f1_difference(
    truth: Decisions, first: Decisions, second: Decisions, *, units: Units, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return the difference of two macro F1: paired bootstrap, and a randomisation test.

    Both are judged on the same resampled rows. The test asks how often a difference as large comes about
    when it is left to chance, for each row or group of rows, which of the two gave which answer
    (approximate randomisation: Yeh 2000, "More accurate tests for the statistical significance of result
    differences").

    Args:
        truth: (N, C), the labels that the rows have.
        first: (N, C), the labels that the first gives.
        second: (N, C), the labels that the second gives.
        units: which rows resemble each other.
        resamples: how many times the rows are drawn again, and the answers exchanged.
        seed: same seed, same figures.
    """
    answers = _Answers(truth, first, second)
    value = float(answers.difference(np.ones((1, units.rows)))[0])
    drawn = np.concatenate([answers.difference(block) for block in units.weights(resamples, seed)])
    interval = units.interval(value, drawn, bounds=(-1.0, 1.0), doubt=answers.doubt(units))
    exchanged = np.concatenate([answers.exchanged(block) for block in _exchanges(units, resamples, seed)])
    as_large = int((np.abs(exchanged) >= abs(value) - 1e-12).sum())
    groups = len(units.sizes) if units.grouped else 0
    return Difference("f1_macro", interval, (1 + as_large) / (1 + resamples), units.rows, groups)


def _exchanges(units: Units, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks (B, N) of 0 and 1: whether the two exchange their answers to a row."""
    random = np.random.default_rng([seed, 1])
    for block in units.weights(resamples, seed):
        coins = random.integers(0, 2, size=(len(block), len(units.sizes))).astype(np.float64)
        yield coins if units.numbers is None else coins[:, units.numbers]


class _Answers:
    """Labels that rows have and are given, as sparse matrices: most rows have few of many labels."""

    def __init__(self, truth: Decisions, first: Decisions, second: Decisions) -> None:
        from scipy.sparse import csr_array

        def sparse(marks: Decisions) -> Any:
            return csr_array(marks.astype(np.float64))

        self._marks = truth, first, second
        self._had = sparse(truth)
        self._given = sparse(first), sparse(second)
        self._hits = sparse(truth & first), sparse(truth & second)

    def difference(self, weights: Floats) -> Floats:
        """Return the difference of macro F1 (B,) for row weights (B, N)."""
        had = weights @ self._had
        first, second = (
            ratios(weights @ hits, weights @ given, had)["f1"].mean(axis=1)
            for hits, given in zip(self._hits, self._given, strict=True)
        )
        return np.asarray(first - second)

    def exchanged(self, coins: Floats) -> Floats:
        """Return the difference of macro F1 (B,) when the answers to some rows are exchanged (B, N)."""
        had = np.ones((1, coins.shape[1])) @ self._had
        scores = []
        for ours, theirs in ((0, 1), (1, 0)):
            hits = self._mixed(coins, self._hits[ours], self._hits[theirs])
            given = self._mixed(coins, self._given[ours], self._given[theirs])
            scores.append(ratios(hits, given, had)["f1"].mean(axis=1))
        return np.asarray(scores[0] - scores[1])

    @staticmethod
    def _mixed(coins: Floats, ours: Any, theirs: Any) -> Floats:
        return np.asarray(ours.sum(axis=0) + coins @ (theirs - ours))

    def doubt(self, units: Units) -> Doubt:
        """Return what resamples do not show: that the two may disagree on a label on which they never did."""
        truth, first, second = self._marks
        concerned, disagreed = truth | first | second, (first != second).any(axis=0)
        places = np.flatnonzero(concerned.any(axis=0))
        hidden = max((units.unseen(concerned[:, place]) for place in places if not disagreed[place]), default=0.0)
        moving = [units.effective(concerned[:, place]) for place in places if disagreed[place]]
        share = hidden / truth.shape[1]
        return Doubt(small_mean([1 / among for among in moving], moving), share, share)
