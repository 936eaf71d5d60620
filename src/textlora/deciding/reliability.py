"""How far probabilities can be taken at their word: reliability, ECE, Brier score, log loss.

The expected calibration error (ECE) compares the mean probability of a bin of rows with the share of them that is
right (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, equation 3). Bins hold equally many rows, since bins of equal
width leave most of them nearly empty. Even exact probabilities do not give an ECE of 0 on finitely many rows; what they
would give is found by drawing outcomes from them (consistency resampling, Bröcker and Smith 2007).

Letters in shapes: N rows, C classes, P probabilities that are looked at, B bins.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from textlora import intervals, metrics
from textlora.deciding.clusters import mean_interval
from textlora.decision import Bin, Reliability
from textlora.interval import Interval
from textlora.tasks import Decisions, Floats
from textlora.types import Task

ROWS_PER_BIN = 30
MOST_BINS = 15
"""As many as Guo et al. use; with fewer rows there are fewer, of ``ROWS_PER_BIN`` at least."""
DRAWS = 500
MOST_DRAWN = 20_000_000
"""Random numbers at most; with more probabilities there are fewer draws, which then differ less."""

Outcomes = NDArray[np.bool_]


def measure(
    probabilities: Floats, truth: Decisions, task: Task, *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Reliability:
    """Return what the probabilities of some rows are worth.

    Args:
        probabilities: (N, C), at least one row.
        truth: (N, C), which labels the rows have.
        task: decides which probabilities are looked at: the highest of each row, or all.
        groups: rows (N,) that depend on each other; the intervals of Brier score and log loss count groups.
        seed: of the draws behind ``chance``.
    """
    stated, right = outcomes(probabilities, truth, task)
    starts = bin_starts(stated)
    shown, hits = _sorted(stated, right)
    return Reliability(
        bins=_bins(shown, hits, starts),
        ece=_error(shown, hits, starts),
        chance=_chance(shown, starts, seed),
        brier=mean_interval(row_briers(probabilities, truth, task), groups, lowest=0.0),
        log_loss=mean_interval(row_losses(probabilities, truth, task), groups, lowest=0.0),
    )


def outcomes(probabilities: Floats, truth: Decisions, task: Task) -> tuple[Floats, Outcomes]:
    """Return the probabilities (P,) that are looked at, and whether what they speak of is so (P,)."""
    if task == "multi_label":
        return probabilities.ravel(), truth.ravel()
    places = np.arange(len(probabilities)), probabilities.argmax(axis=1)
    return probabilities[places], truth[places]


def row_briers(probabilities: Floats, truth: Decisions, task: Task) -> Floats:
    """Return each row's Brier score (N,).

    As scikit-learn counts: the sum of squares over the classes, half of it for two classes (Brier 1950); in
    multi-label data the mean over the labels of each one's.
    """
    squares = (probabilities - truth) ** 2
    if task == "multi_label":
        return np.asarray(squares.mean(axis=1))
    return np.asarray(squares.sum(axis=1) / (2 if squares.shape[1] == 2 else 1))  # noqa: PLR2004 - two classes


def row_losses(probabilities: Floats, truth: Decisions, task: Task) -> Floats:
    """Return each row's log loss (N,), in multi-label data its mean over the labels."""
    step = np.finfo(np.float64).eps
    if task == "multi_label":
        right = np.where(truth, probabilities, 1 - probabilities)
        return np.asarray(-np.log(np.clip(right, step, 1)).mean(axis=1))
    return metrics.row_losses(truth.argmax(axis=1), probabilities)


def bin_starts(stated: Floats) -> NDArray[np.intp]:
    """Return where each bin begins (B,) among the sorted probabilities (P,); equal ones share a bin."""
    ordered = np.sort(stated)
    count = min(MOST_BINS, max(1, len(ordered) // ROWS_PER_BIN))
    cuts = np.arange(1, count) * len(ordered) // count
    # Moved up to the first row of equal probability.
    moved = np.searchsorted(ordered, ordered[cuts], side="left")
    return np.unique(np.concatenate([[0], moved]))


def _sorted(stated: Floats, right: Outcomes) -> tuple[Floats, Floats]:
    order = np.argsort(stated, kind="stable")
    return stated[order], right[order].astype(np.float64)


def _bins(stated: Floats, right: Floats, starts: NDArray[np.intp]) -> tuple[Bin, ...]:
    ends = [*starts[1:], len(stated)]
    return tuple(
        Bin(
            rows=int(end - start),
            probability=float(stated[start:end].mean()),
            share=intervals.wilson(int(right[start:end].sum()), int(end - start)),
        )
        for start, end in zip(starts, ends, strict=True)
    )


def _error(stated: Floats, right: Floats, starts: NDArray[np.intp]) -> float:
    return float(np.abs(np.add.reduceat(stated - right, starts)).sum() / len(stated))


def _chance(stated: Floats, starts: NDArray[np.intp], seed: int) -> Interval:
    """Return the ECE that exact probabilities would show on so many rows: mean and middle 95 %."""
    random, draws = np.random.default_rng(seed), max(20, min(DRAWS, MOST_DRAWN // len(stated)))
    drawn = np.array(
        [_error(stated, (random.random(len(stated)) < stated).astype(float), starts) for _ in range(draws)]
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(drawn.mean()), float(low), float(high))
