"""Temperature scaling: one number that logits are divided by, so that probabilities mean what they say.

Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks" (section 4.2). The
temperature minimises the log loss of validation rows; the most probable label stays the same. In multi-label
data one temperature serves the logits of all labels.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from textlora.deciding.clusters import numbered, standard_error
from textlora.decision import Calibration, Verdict
from textlora.tasks import TASKS, Decisions, Floats
from textlora.types import Task

FOLDS = 5
LEAST_MISTAKES = 5
"""Wrong answers from which a temperature is considered: without any, every sharpening looks good."""
LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of the temperature; data that ask for more have no mistakes, or no signal."""

Indices: TypeAlias = NDArray[np.intp]


def row_losses(logits: Floats, truth: Decisions, task: Task) -> Floats:
    """Return each row's log loss (N,), in multi-label data its mean over the labels.

    Computed from the logits, so that it is exact where probabilities round to 0 or 1.

    Args:
        logits: (N, C).
        truth: (N, C), which labels the rows have.
        task: ``single_label`` or ``multi_label``.
    """
    if task == "multi_label":
        return np.asarray(np.logaddexp(0.0, np.where(truth, -logits, logits)).mean(axis=1))
    return np.asarray(np.logaddexp.reduce(logits, axis=1) - logits[truth])


def fit(logits: Floats, truth: Decisions, task: Task) -> float:
    """Return the temperature between ``LOWEST`` and ``HIGHEST`` that minimises the log loss.

    The loss is convex in 1 / T, so its slope has one zero at most.

    Args:
        logits: (N, C), at least one row.
        truth: (N, C), which labels the rows have.
        task: ``single_label`` or ``multi_label``.
    """
    from scipy.optimize import brentq

    slope = _slope(logits, truth, task)
    low, high = np.log(LOWEST), np.log(HIGHEST)
    if slope(low) >= 0:  # rows that are all right want to be surer still
        return LOWEST
    if slope(high) <= 0:
        return HIGHEST
    return float(np.exp(brentq(slope, low, high, xtol=1e-13, rtol=1e-14)))


def _slope(logits: Floats, truth: Decisions, task: Task) -> Callable[[float], float]:
    """Return the derivative of the log loss by log(T), up to a positive factor; it rises through zero at the fit."""

    def slope(log_temperature: float) -> float:
        probabilities = TASKS[task].probabilities(logits / np.exp(log_temperature))
        return -float(((probabilities - truth) * logits).sum())

    return slope


def choose(
    logits: Floats,
    truth: Decisions,
    task: Task,
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit a temperature and decide by cross-validation whether to keep it.

    Each row's log loss is taken at a temperature that was fitted on the other folds. It is kept if the mean
    gain over the log loss without a temperature exceeds its standard error. With fewer than ``LEAST_MISTAKES``
    wrong answers it is never kept.

    Args:
        logits: (N, C) of the validation rows, at least two.
        truth: (N, C), which labels they have.
        task: ``single_label`` or ``multi_label``.
        groups: what each row belongs to (N,), where rows depend on each other; a group stays in one fold,
            and the standard error counts groups.
        seed: draws the folds.
    """
    units = numbered(groups, len(logits))
    plain = row_losses(logits, truth, task)
    gains = plain - _held_out_losses(logits, truth, task, _folds(units, seed))
    mistakes, gain, error = _mistakes(logits, truth, task), float(gains.mean()), standard_error(gains, units)
    return Calibration(
        fitted=fit(logits, truth, task),
        rows=len(logits),
        mistakes=mistakes,
        loss=float(plain.mean()),
        gain=gain,
        standard_error=error,
        verdict=_verdict(mistakes, gain, error),
    )


def _verdict(mistakes: int, gain: float, standard_error: float) -> Verdict:
    if mistakes < LEAST_MISTAKES:
        return "too few mistakes"
    return "kept" if gain > standard_error else "no clear gain"


def _folds(units: Indices, seed: int) -> Indices:
    """Return the fold of each row (N,), drawn by unit."""
    count = int(units.max()) + 1
    return np.asarray(np.random.default_rng(seed).permutation(count)[units] % min(FOLDS, count))


def _held_out_losses(logits: Floats, truth: Decisions, task: Task, folds: Indices) -> Floats:
    """Return each row's log loss (N,) at the temperature that fits the other folds."""
    losses = np.zeros(len(logits))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        if out.all():  # one group holds all rows, so nothing is held out
            return row_losses(logits, truth, task)
        losses[out] = row_losses(logits[out] / fit(logits[~out], truth[~out], task), truth[out], task)
    return losses


def _mistakes(logits: Floats, truth: Decisions, task: Task) -> int:
    if task == "multi_label":
        return int(((logits >= 0) != truth).sum())
    return int((~truth[np.arange(len(logits)), logits.argmax(axis=1)]).sum())


def without(probabilities: Floats, temperature: float, task: Task) -> Floats:
    """Return the probabilities (N, C) that there were without a temperature.

    They follow from the logits up to a constant of each row, which log-probabilities are as well.
    """
    if temperature == 1.0:
        return probabilities
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(probabilities, tiny))
    if task == "multi_label":
        logs = logs - np.log(np.maximum(1.0 - probabilities, tiny))
    return TASKS[task].probabilities(logs * temperature)
