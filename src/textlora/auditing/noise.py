"""How many labels are wrong, as far as classifiers can tell.

From labels and probabilities alone, a wrong label and a hard text look the same. But where classifiers that
have not seen a row are surest, they are hardly ever mistaken: what disagrees with them there is
mostly a wrong label. If wrong labels are as frequent elsewhere, that is their share in all; what mistakes the
classifiers make even there is counted too, so it errs on the high side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textlora.interval import Interval
from textlora.intervals import ratio
from textlora.tasks import Decisions, Floats
from textlora.types import Task

SUREST = 0.3
"""Share of the rows of each predicted label that is looked at."""


def estimate_errors(
    truth: Decisions, probabilities: Floats, task: Task, units: NDArray[np.int32]
) -> tuple[Interval, int]:
    """Return the share of wrong labels with a 95 % interval for the choice of rows, and the answers it rests on.

    Where rows have several labels, it is the share of wrong answers, yes or no.

    Args:
        truth: (N, C) the given labels.
        probabilities: (N, C) out of fold.
        task: whether a row has one label or several.
        units: (N,) the first row of what each row is a near-duplicate of, possibly itself.
    """
    if task == "multi_label":
        answers, sure = probabilities >= 0.5, np.maximum(probabilities, 1 - probabilities)  # noqa: PLR2004 - yes or no
        groups = 2 * np.arange(truth.shape[1]) + answers
        wrong = truth != answers
    else:
        groups, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
        wrong = ~truth[np.arange(len(truth)), groups]
    chosen = _surest(groups.ravel(), sure.ravel())
    of_rows = np.unique(np.repeat(units, wrong.size // len(units))[chosen], return_inverse=True)[1]
    return ratio(wrong.ravel()[chosen], np.ones(len(chosen)), of_rows), len(chosen)


def _surest(groups: NDArray[np.intp], sure: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the places of the surest answers of each group, at least one of each."""
    order = np.lexsort((-sure, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    return np.concatenate(
        [order[start : start + max(1, round(SUREST * count))] for start, count in zip(starts, counts, strict=True)]
    )
