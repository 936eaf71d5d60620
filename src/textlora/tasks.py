"""What single-label and multi-label classification do otherwise, in one table.

The task is decided once, in ``prepare``, and travels with the data and the bundle. Whoever needs a
loss, probabilities or a decision looks here, so that training, prediction and evaluation cannot differ.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textlora.types import Label, Task

Floats: TypeAlias = NDArray[np.float64]
Decisions: TypeAlias = NDArray[np.bool_]
"""(N, C): which labels a row has, or is given."""


@dataclass(frozen=True, slots=True)
class TaskRules:
    """How logits become a loss, probabilities and a decision.

    Attributes:
        loss: name of the plain loss, in ``losses``.
        probabilities: (N, C) logits to (N, C) probabilities.
        decide: (N, C) probabilities and (C,) thresholds to (N, C) labels given.
        problem_type: what Hugging Face's configurations call the task.
    """

    loss: Literal["cross_entropy", "binary_cross_entropy"]
    probabilities: Callable[[Floats], Floats]
    decide: Callable[[Floats, Sequence[float]], Decisions]
    problem_type: str


def softmax(logits: Floats) -> Floats:
    """Turn logits (N, C) into probabilities (N, C) that sum to 1 in each row, in float64."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def sigmoid(logits: Floats) -> Floats:
    """Turn logits (N, C) into probabilities (N, C), each on its own, in float64."""
    # Neither branch overflows: the exponent is never positive.
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), np.float64)


def most_probable(probabilities: Floats, _: Sequence[float] = ()) -> Decisions:
    """Give each row its most probable label, the first of equals: (N, C) with one true value a row."""
    chosen = np.zeros(probabilities.shape, np.bool_)
    chosen[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return chosen


def above_thresholds(probabilities: Floats, thresholds: Sequence[float] = ()) -> Decisions:
    """Give each row all labels whose probability reaches their threshold (0.5 without any): (N, C)."""
    return np.asarray(probabilities >= (np.asarray(thresholds) if len(thresholds) else 0.5))


TASKS: Mapping[Task, TaskRules] = {
    "single_label": TaskRules("cross_entropy", softmax, most_probable, "single_label_classification"),
    "multi_label": TaskRules("binary_cross_entropy", sigmoid, above_thresholds, "multi_label_classification"),
}


def label_matrix(labels: Sequence[Label], classes: int) -> Decisions:
    """Return which labels the rows have, (N, C), from class indices or from tuples of them."""
    matrix = np.zeros((len(labels), classes), np.bool_)
    for row, label in enumerate(labels):
        matrix[row, label if isinstance(label, int) else list(label)] = True
    return matrix
