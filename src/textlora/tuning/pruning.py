"""When a trial is stopped early: it lies clearly behind what others had at the same share of their training. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Curve = Sequence[tuple[float, float]]
"""Share of the training that was done, and the validation score then."""
LEAST_TRIALS = 4
"""Complete trials before any is stopped."""


def lies_behind(curve: Curve, others: Sequence[Curve], *, sign: int, noise: float) -> bool:
    """Return whether a trial's best score is worse than the median of the others' at this share of the training.

    Trials differ in their epochs, and the learning rate falls over the whole of each, so that equal epochs
    would compare unequal states. (The median rule is that of Golovin and others 2017, "Google Vizier".)

    Args:
        curve: of the trial so far.
        others: of complete trials.
        sign: 1 where more of the score is better, -1 where less is.
        noise: by which it must be worse, so that the noise of the validation rows stops nothing.
    """
    share = curve[-1][0]
    theirs = [best for other in others if (best := _best(other, share, sign)) is not None]
    mine = _best(curve, share, sign)
    if share >= 1 or len(theirs) < LEAST_TRIALS or mine is None:
        return False
    return mine < statistics.median(theirs) - noise


def _best(curve: Curve, share: float, sign: int) -> float | None:
    """Return the best score up to a share of the training, larger being better; None before the first one."""
    return max((sign * value for at, value in curve if at <= share + 1e-9), default=None)


def noise_of(value: float, rows: int, *, metric: str) -> float:
    """Return the standard error of a share on so many rows; 0 for a loss."""
    if metric == "loss" or not 0 <= value <= 1:
        return 0.0
    return math.sqrt(value * (1 - value) / rows)
