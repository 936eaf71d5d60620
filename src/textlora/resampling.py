"""The bootstrap: rows, or whole units of rows, are drawn again with replacement. Plain numpy.

Letters in shapes: N rows, U units, B resamples worked on together, R resamples in all.

A score is computed from a weight per row, which says how often the row was drawn. Rows that resemble each
other, such as those of one author or near-duplicates, are drawn as a whole (cluster bootstrap); drawn
one by one they would promise more certainty than there is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora import intervals
from textlora.types import Interval, Split

Floats = NDArray[np.float64]
RESAMPLES = 1000
_BLOCK = 2**15
"""Numbers worked on at once: few enough to stay in the processor's cache, four times faster than 2**21."""


@dataclass(frozen=True, slots=True)
class Units:
    """What is drawn: rows, or groups of rows.

    Attributes:
        rows: N.
        numbers: (N,) number of each row's unit, from 0 to U - 1; None where every row is its own.
        single: all rows are of one group. Nothing shows how groups differ then, so rows are drawn.
        unsure: factor by which intervals from drawn groups are enlarged, since few groups, or few with anything
            wrong in them, hardly show how much their rows are alike; see ``judged``.
    """

    rows: int
    numbers: NDArray[np.intp] | None = None
    single: bool = False
    unsure: float = 1.0

    def judged(self, right: NDArray[np.bool_]) -> Units:
        """Return the same units, with what the right rows (N,) show of how much rows of a unit are alike."""
        if self.numbers is None:
            return self
        hits, sizes = intervals.sums(self.numbers, right.astype(np.float64)), self.sizes.astype(np.float64)
        ratio = intervals.design_effect(hits, sizes) / intervals.observed_effect(hits, sizes)
        return replace(self, unsure=float(np.sqrt(ratio)) * _rare_units(hits, sizes))

    @classmethod
    def of_split(cls, split: Split) -> Units:
        """Return the units of a split: its groups, its clusters of near-duplicates, and what both tie together."""
        columns = [_numbered(column) for column in (split.groups, split.clusters) if column is not None]
        if not columns:
            return cls(len(split))
        return cls.of(columns[0] if len(columns) == 1 else _joined(*columns), len(split))

    @classmethod
    def of(cls, groups: ArrayLike | None, rows: int) -> Units:
        """Return the units of rows with these group numbers (N,); None for single rows."""
        if groups is None:
            return cls(rows)
        found, numbers = np.unique(np.asarray(groups), return_inverse=True)
        if len(found) == rows:
            return cls(rows)
        return cls(rows, single=True) if len(found) == 1 else cls(rows, numbers.astype(np.intp))

    @property
    def grouped(self) -> bool:
        """Whether whole groups are drawn."""
        return self.numbers is not None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each unit (U,)."""
        return np.ones(self.rows, np.int64) if self.numbers is None else np.bincount(self.numbers)

    def among(self, chosen: NDArray[np.bool_]) -> Units:
        """Return the units of some of the rows, given as a mask (N,)."""
        return Units.of(None if self.numbers is None else self.numbers[chosen], int(chosen.sum()))

    def numbers_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp] | None:
        """Return the numbers of the units of some rows, a mask (N,), as closed intervals take them."""
        return None if self.numbers is None else np.unique(self.numbers[chosen], return_inverse=True)[1]

    def ratio(self, hits: ArrayLike, totals: ArrayLike) -> Interval:
        """Return sum(hits) / sum(totals) (N,) with its closed interval, see ``intervals.ratio``."""
        return intervals.ratio(hits, totals, self.numbers)

    def unseen(self, chosen: NDArray[np.bool_]) -> float:
        """Return the share of wrong ones that may hide among some rows, a mask (N,), although none is seen."""
        among = np.ones(int(chosen.sum()))
        return 1 - intervals.ratio(among, among, self.numbers_of(chosen)).low

    def weights(self, resamples: int, seed: int) -> Iterator[Floats]:
        """Yield blocks (B, N): how often each row is drawn in each resample."""
        random = np.random.default_rng(seed)
        units = len(self.sizes)
        for size in block_sizes(resamples, max(self.rows, units)):
            draws = random.integers(0, units, size=(size, units)) + units * np.arange(size)[:, None]
            counts = np.bincount(draws.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)
            yield counts if self.numbers is None else counts[:, self.numbers]

    def effective(self, chosen: NDArray[np.bool_]) -> float:
        """Return how many units of equal size are as good as those of some rows, a mask (N,)."""
        if self.numbers is None or not chosen.any():
            return float(chosen.sum())
        sizes = np.bincount(self.numbers[chosen])
        return intervals.effective(sizes[sizes > 0])

    def interval(
        self,
        value: float,
        drawn: Floats,
        *,
        bounds: tuple[float, float],
        doubt: Doubt | None = None,
        scale: Scale | None = None,
    ) -> Interval:
        """Return a score with its 95 % interval from the bootstrap.

        A resample lacks rare labels more often than the rows do, and so scores lower than they do, by as
        much as they score lower than the truth: so the percentiles are moved by twice that bias. Then
        their distances from the value are enlarged by what a bootstrap is known to miss, see ``Doubt``.

        Args:
            value: the score on the rows themselves.
            drawn: (R,) the score of each resample; those that are not finite do not count.
            bounds: the lowest and the highest value that the score can have.
            doubt: what the resamples do not show; what holds for a mean of all rows where not given.
            scale: on which the resamples spread alike to both sides. The interval is the normal one there, in
                place of percentiles, unless the score is at one of its bounds.
        """
        known = doubt or Doubt(wider=self.wider)
        finite = drawn[np.isfinite(drawn)]
        wider = known.wider * self.unsure
        if scale is not None and bounds[0] < value < bounds[1] and len(finite):
            low, high = scale.normal(value, finite, wider)
        elif len(finite):
            low, high = np.percentile(finite, [2.5, 97.5]) + 2 * (value - finite.mean())
            low, high = value - wider * max(0.0, value - low), value + wider * max(0.0, high - value)
        else:
            low = high = value
        down, up = np.hypot(value - low, known.down), np.hypot(high - value, known.up)
        return Interval(value, max(bounds[0], value - float(down)), min(bounds[1], value + float(up)))

    @property
    def wider(self) -> float:
        """By how much the interval of a mean of all rows is to be enlarged."""
        return small_mean([1.0], [intervals.effective(self.sizes)])


def _rare_units(hits: Floats, sizes: Floats) -> float:
    """Return by how much intervals are to be enlarged because few of the units (U,) carry all the variance.

    The spread of residuals with kurtosis k is as sure as that of 2 U / (k - 1) normal ones (Satterthwaite 1946).
    """
    residuals = hits - hits.sum() / sizes.sum() * sizes
    square = float((residuals**2).mean())
    if not square:
        return 1.0
    kurtosis = float((residuals**4).mean()) / square**2
    units = len(sizes)
    freedom = 2 * units / (kurtosis - 1) if kurtosis > 1 else units
    return max(1.0, intervals.student(freedom) / intervals.student(units - 1))


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale for scores near a bound, where resamples spread further away from it than towards it.

    Attributes:
        to: takes scores (R,) strictly between the bounds there.
        back: takes them back.
        room: how far scores (R,) are from the nearest bound.
    """

    to: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]
    room: Callable[[Floats], Floats]

    def normal(self, value: float, drawn: Floats, wider: float) -> tuple[float, float]:
        """Return the ends of the 95 % interval of a score from its resamples (R,), enlarged by ``wider``."""
        inside = drawn[self.room(drawn) > 0]
        if not len(inside):
            return value, value
        # Resamples at a bound would lie infinitely far away; they count like the next ones to it.
        low, high = min(value, inside.min()), max(value, inside.max())
        spread = intervals.NORMAL_975 * wider * float(self.to(np.clip(drawn, low, high)).std())
        ends = self.back(self.to(np.array(value)) + np.array([-spread, spread]))
        return float(ends[0]), float(ends[1])


LOGIT = Scale(lambda p: np.log(p) - np.log1p(-p), lambda t: 1 / (1 + np.exp(-t)), lambda p: np.minimum(p, 1 - p))
"""For scores between 0 and 1."""
FISHER = Scale(np.arctanh, np.tanh, lambda r: 1 - np.abs(r))
"""For correlations (Fisher 1915)."""
LOG = Scale(np.log, np.exp, lambda x: x)
"""For scores above 0."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """What resamples do not show of a score.

    Attributes:
        wider: factor for few units: their spread is underestimated, and Student's t takes the place of
            the normal quantile.
        down: how far below the value the truth may lie although no resample does, since all of some rows
            are right, or all are wrong; a distance of its own, added as errors are.
        up: the same above it.
    """

    wider: float = 1.0
    down: float = 0.0
    up: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the rows of one class, with the effective number of units that it rests on; 0 without any."""

    interval: Interval
    units: float


def mean_doubt(shares: Sequence[Share], *, classes: int, absent: bool = True) -> Doubt:
    """Return what resamples do not show of a mean of shares.

    Of the shares that are exactly 1 or 0, one bears all the doubt, the one with the widest interval:
    that several are wrong at once is less likely still.

    Args:
        shares: of the classes (C).
        classes: what the mean divides by.
        absent: whether a class without rows counts as one whose share could be anything.
    """
    looked = [share for share in shares if absent or share.units]
    down = max((one.interval.value - one.interval.low for one in looked if one.interval.value == 1), default=0.0)
    up = max((one.interval.high - one.interval.value for one in looked if one.interval.value == 0), default=0.0)
    moving = [one for one in shares if 0 < one.interval.value < 1]
    spreads = [one.interval.value * (1 - one.interval.value) / one.units for one in moving]
    return Doubt(small_mean(spreads, [one.units for one in moving]), down / classes, up / classes)


def small_mean(variances: Sequence[float], units: Sequence[float]) -> float:
    """Return by how much the interval of a mean of estimates from few units each is to be enlarged.

    Each variance is short by (U - 1) / U; the degrees of freedom are Satterthwaite's (1946).

    Args:
        variances: of the estimates, up to a common factor.
        units: effective number of units behind each.
    """
    if not variances:
        return 1.0
    found, freedom = np.array(variances), np.maximum(np.array(units) - 1, 0.5)
    unbiased = found * (freedom + 1) / freedom
    quantile = intervals.student(float(unbiased.sum() ** 2 / (unbiased**2 / freedom).sum()))
    return float(quantile / intervals.NORMAL_975 * np.sqrt(unbiased.sum() / found.sum()))


def _numbered(column: Sequence[Hashable]) -> NDArray[np.intp]:
    """Return a number for each row (N,), the same for equal values."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in column], np.intp)


def _joined(first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of each row's component (N,), where equal numbers of either kind join rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    beyond = int(first.max(initial=-1)) + 1
    size = beyond + int(second.max(initial=-1)) + 1
    links = coo_array((np.ones(len(first), np.int8), (first, second + beyond)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][first], np.intp)


def block_sizes(resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples of ``width`` numbers are worked on together, until all are done."""
    most = max(1, _BLOCK // max(1, width))
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def collect(blocks: Iterable[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Join the blocks of each score along the resamples."""
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
