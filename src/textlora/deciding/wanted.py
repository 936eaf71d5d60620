"""What a decision is asked for, and what does not go together in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textlora import goals
from textlora.deciding import conformal
from textlora.errors import did_you_mean
from textlora.goals import Goal
from textlora.settings import DecisionSettings
from textlora.thresholds import LEAST_POSITIVES
from textlora.types import Task

BINARY = 2


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels are, and how many validation rows there are to decide by.

    Attributes:
        names: C names in their order.
        task: whether rows have one label or several.
        rows: validation rows.
        counts: how many of them have each label (C,).
    """

    names: tuple[str, ...]
    task: Task
    rows: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A goal, the label it is about, and an error rate; ``told`` names and quotes each in a message."""

    goal: Goal
    positive: str | None
    error_rate: float | None

    @classmethod
    def of(cls, settings: DecisionSettings, task: Task) -> Wanted:
        """Return what settings ask for; the usual goal of the task where they name none."""
        usual = "f1" if task == "multi_label" else "accuracy"
        return cls(goals.parse(settings.goal or usual), settings.positive, settings.error_rate)

    def positive_of(self, labels: Labels) -> str:
        """Return the positive one of two labels: the last one, as for ROC-AUC, where none is named."""
        return self.positive or labels.names[-1]


def problems(wanted: Wanted, labels: Labels, *, told: Sequence[str]) -> list[str]:
    """Return what of it the labels and the validation rows do not allow, all together.

    Args:
        wanted: what is asked for.
        labels: what there is.
        told: how to begin a sentence about goal, positive label and error rate: ``"decision.goal is 'f1'"``.
    """
    goal, positive, rate = told
    found = [*_goal_problems(wanted, labels, goal), *_positive_problems(wanted, labels, positive)]
    if wanted.error_rate is not None:
        found += _rate_problems(wanted.error_rate, labels, rate)
    return found or _row_problems(wanted, labels, goal)


def _thresholded(wanted: Wanted, labels: Labels) -> bool:
    return labels.task == "single_label" and wanted.goal.kind != "accuracy"


def _goal_problems(wanted: Wanted, labels: Labels, told: str) -> list[str]:
    if not _thresholded(wanted, labels) or len(labels.names) == BINARY:
        return []
    return [
        f"{told}, which needs two labels to decide between, or rows with several labels; here one of "
        f"{len(labels.names)} is given, the most probable one (accuracy)."
    ]


def _positive_problems(wanted: Wanted, labels: Labels, told: str) -> list[str]:
    name = wanted.positive
    if name is None:
        return []
    if labels.task == "multi_label" or len(labels.names) != BINARY:
        return [f"{told}, but only data with two labels have a positive one."]
    if name not in labels.names:
        return [f"{told}, which is no label.{did_you_mean(name, labels.names)} Labels: {', '.join(labels.names)}."]
    if wanted.goal.kind == "accuracy":
        return [f"{told}, but the goal accuracy gives the most probable label, whichever it is; name another goal."]
    return []


def _rate_problems(error_rate: float, labels: Labels, told: str) -> list[str]:
    if labels.task == "multi_label":
        return [f"{told}, but only rows with exactly one label can be left without an answer."]
    if labels.rows < conformal.rows_needed(error_rate):
        return [conformal.too_few_rows(labels.rows, error_rate)]
    return []


def _row_problems(wanted: Wanted, labels: Labels, told: str) -> list[str]:
    if not _thresholded(wanted, labels):
        return []
    name = wanted.positive_of(labels)
    count = labels.counts[labels.names.index(name)]
    if count >= LEAST_POSITIVES:
        return []
    return [
        f"{told}, but {count:,} of the {labels.rows:,} validation rows {'is' if count == 1 else 'are'} {name!r}; "
        f"a threshold needs at least {LEAST_POSITIVES}."
    ]
