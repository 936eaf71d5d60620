"""Whether the best of many trials is better than the default, or only lucky on the validation rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from textlora import significance
from textlora.trials import LEVEL, Verdict


def judge(
    best: int,
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    *,
    comparisons: int,
    units: NDArray[np.intp] | None = None,
) -> Verdict:
    """Compare the best trial with the default, row by row.

    The test is one-sided: McNemar's exact test (McNemar 1947) where a row is right or wrong, and the same
    randomisation of the number of right labels where it has several. Bonferroni's correction holds whatever
    the trials have in common.

    Args:
        best: number of the best trial.
        ours: (N,) labels that it has right on each row: 0 or 1 where a row has one.
        theirs: (N,) the same of the default.
        comparisons: trials that the best was chosen from, the default not counted.
        units: (N,) number of each row's unit of rows that resemble each other; None where each is its own.
    """
    return Verdict(
        best=best,
        won=int((ours > theirs).sum()),
        lost=int((ours < theirs).sum()),
        comparisons=comparisons,
        p_value=min(1.0, _chance(ours - theirs, units) * comparisons),
        # 0.5 ** n, corrected, has to be below the level.
        needed=math.floor(math.log2(comparisons / LEVEL)) + 1,
    )


def _chance(differences: NDArray[np.int64], units: NDArray[np.intp] | None) -> float:
    """Return the one-sided p-value that ours is not better: half the two-sided one where it is ahead."""
    if differences.sum() <= 0:
        return 1.0
    if units is not None:
        differences = np.rint(np.bincount(units, differences)).astype(np.int64)
    return significance.sign_flip(differences) / 2
