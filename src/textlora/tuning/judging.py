"""Whether the best of many trials is better than the default, or only lucky on the validation rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from textlora.trials import LEVEL, Verdict


def judge(best: int, ours: NDArray[np.int64], theirs: NDArray[np.int64], *, comparisons: int) -> Verdict:
    """Compare the best trial with the default, row by row.

    The test is one-sided: McNemar's exact test (McNemar 1947) where a row is right or wrong, a sign test of
    the number of right labels where it has several. Bonferroni's correction holds whatever the trials
    have in common.

    Args:
        best: number of the best trial.
        ours: (N,) labels that it has right on each row: 0 or 1 where a row has one.
        theirs: (N,) the same of the default.
        comparisons: trials that the best was chosen from, the default not counted.
    """
    from scipy.stats import binomtest

    won, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    chance = binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1.0
    return Verdict(
        best=best,
        won=won,
        lost=lost,
        comparisons=comparisons,
        p_value=min(1.0, float(chance) * comparisons),
        # 0.5 ** n, corrected, has to be below the level.
        needed=math.floor(math.log2(comparisons / LEVEL)) + 1,
    )
