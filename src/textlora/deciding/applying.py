"""From logits to answers, as a bundle says; the one way for prediction, files and evaluation.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np

from textlora.deciding import conformal
from textlora.tasks import TASKS, Decisions, Floats
from textlora.types import Bundle


def probabilities_of(logits: Floats, bundle: Bundle) -> Floats:
    """Turn logits (N, C), of whole texts, into probabilities (N, C)."""
    return TASKS[bundle.task].probabilities(logits / bundle.temperature)


def decide(probabilities: Floats, bundle: Bundle) -> Decisions:
    """Return which labels each row of probabilities (N, C) is given, (N, C); exactly one unless multi-label."""
    if bundle.decision is None:
        return TASKS[bundle.task].decide(probabilities, bundle.thresholds)
    place = bundle.label_names.index(bundle.decision.positive)
    positive = probabilities[:, place] >= bundle.decision.threshold
    chosen = np.zeros(probabilities.shape, np.bool_)
    chosen[:, place], chosen[:, 1 - place] = positive, ~positive
    return chosen


def candidates(probabilities: Floats, bundle: Bundle) -> Decisions:
    """Return which labels cannot be ruled out (N, C): the given ones where no error rate was asked for."""
    if bundle.abstention is None:
        return decide(probabilities, bundle)
    return conformal.sets(probabilities, bundle.abstention)
