"""From out-of-fold probabilities to rows whose label is doubted: confident learning.

A row is doubted when classifiers that have not seen it are surer of another label than they usually
are of that label's own rows (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in
dataset labels", JAIR 70, section 3), as cleanlab counts it.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.tasks import Decisions, Floats
from textlora.types import Task

FILTER = "confident_learning"
"""Doubted is what lies off the diagonal of the confident joint. cleanlab's other filters take a number of rows that is
scaled and rounded, which is none where a label has few wrong ones."""


@dataclass(frozen=True, slots=True)
class Doubts:
    """What the classifiers think of each row's label.

    Attributes:
        doubted: (N,) whether the label is likely wrong.
        suggested: (N, C) the labels that the row seems to deserve.
        own: (N,) probability of what is given; of several labels, of the least probable answer.
        other: (N,) the same of what is suggested.
    """

    doubted: NDArray[np.bool_]
    suggested: Decisions
    own: NDArray[np.float64]
    other: NDArray[np.float64]


def find_doubts(truth: Decisions, probabilities: Floats, task: Task) -> Doubts:
    """Return which given labels (N, C) are doubted under out-of-fold probabilities (N, C)."""
    return _several(truth, probabilities) if task == "multi_label" else _single(truth, probabilities)


def _single(truth: Decisions, probabilities: Floats) -> Doubts:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = truth.argmax(axis=1)
    doubted = find_label_issues(labels, probabilities, filter_by=FILTER, n_jobs=1)
    best = np.where(truth, -1.0, probabilities).argmax(axis=1)
    suggested = np.zeros_like(truth)
    suggested[np.arange(len(truth)), best] = True
    own = get_label_quality_scores(labels, probabilities, method="self_confidence")
    return Doubts(np.asarray(doubted), suggested, np.asarray(own), probabilities[np.arange(len(truth)), best])


def _several(truth: Decisions, probabilities: Floats) -> Doubts:
    """Take each label as a question of its own."""
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    labels = [np.flatnonzero(row).tolist() for row in truth]
    wrong = np.asarray(find_multilabel_issues_per_class(labels, probabilities, filter_by=FILTER, n_jobs=1))
    answers = np.where(truth, probabilities, 1 - probabilities)
    doubted: NDArray[np.bool_] = np.asarray(wrong.any(axis=1))
    # Where no answer is doubted, the least probable one is what one would look at.
    least = np.arange(truth.shape[1]) == answers.argmin(axis=1)[:, None]
    changed = np.where(doubted[:, None], wrong, least)
    own = np.where(changed, answers, 1.0).min(axis=1)
    return Doubts(doubted, truth ^ changed, own, 1 - own)
