"""The section ``decision``: what does not fit the labels and the validation rows, before anything is trained."""

from __future__ import annotations

from textlora.deciding import Labels, Wanted, problems
from textlora.planning.grounds import Choice, Choices, Grounds
from textlora.settings import DecisionSettings

NAMES = ("decision.goal", "decision.positive", "decision.error_rate")


def decision_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    """Return what the labels and the validation rows do not allow."""
    if not grounds.label_names:
        return []
    told = [f"{name} is {chosen[name].told}" for name in NAMES]
    return problems(_wanted(chosen, grounds), _labels(grounds), told=told)


def name_positive(chosen: Choices, grounds: Grounds) -> None:
    """Say which of two labels a goal is about, where nobody has said it."""
    goal, positive = chosen["decision.goal"], chosen["decision.positive"]
    wanted = _wanted(chosen, grounds)
    if (
        grounds.label_names
        and positive.value is None
        and wanted.goal.kind != "accuracy"
        and grounds.task == "single_label"
    ):
        reason = f"the last of the labels, as for ROC-AUC; what {goal.value} is about"
        chosen["decision.positive"] = Choice(wanted.positive_of(_labels(grounds)), reason, "decided")


def _wanted(chosen: Choices, grounds: Grounds) -> Wanted:
    values = {name.partition(".")[2]: chosen[name].value for name in NAMES}
    return Wanted.of(DecisionSettings(**values), grounds.task)


def _labels(grounds: Grounds) -> Labels:
    return Labels(grounds.label_names, grounds.task, grounds.rows["validation"], grounds.validation_counts)
