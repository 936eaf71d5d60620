"""What probabilities, threshold and abstention come to on scored rows, each figure with its interval.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from textlora import goals, intervals, tasks
from textlora.deciding import conformal, reliability, temperature
from textlora.deciding.applying import decide
from textlora.deciding.clusters import mean_interval, numbered
from textlora.decision import Answers, Operation, Trust
from textlora.goals import Goal
from textlora.interval import Interval
from textlora.resampling import Units
from textlora.tasks import Decisions, Floats
from textlora.types import Bundle


def trust(
    probabilities: Floats,
    truth: Decisions,
    bundle: Bundle,
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Trust:
    """Return what the classifier's probabilities are worth on scored rows, and what was decided by them.

    Args:
        probabilities: (N, C) as users get them, at least one row.
        truth: (N, C), which labels the rows have.
        bundle: says how they were calibrated, and how it is decided.
        groups: rows (N,) that depend on each other; intervals count groups.
        seed: of the draws.
    """
    task, calibration = bundle.task, bundle.calibration
    found = Trust(
        calibration=calibration,
        reliability=reliability.measure(probabilities, truth, task, groups=groups, seed=seed),
        thresholds_goal=bundle.thresholds_goal if bundle.thresholds else "",
        operation=_operation(probabilities, truth, bundle, groups),
        answers=_answers(probabilities, truth, bundle, groups),
    )
    if calibration is None or calibration.temperature == 1:
        return found
    raw = temperature.without(probabilities, calibration.temperature, task)
    change = reliability.row_losses(probabilities, truth, task) - reliability.row_losses(raw, truth, task)
    before = reliability.measure(raw, truth, task, groups=groups, seed=seed)
    return replace(found, before=before, log_loss_change=mean_interval(change, groups))


def _operation(
    probabilities: Floats, truth: Decisions, bundle: Bundle, groups: Sequence[Hashable] | None
) -> Operation | None:
    decision = bundle.decision
    if decision is None:
        return None
    place = bundle.label_names.index(decision.positive)
    goal = goals.parse(decision.goal)
    given, usual = (
        _figures(chosen[:, place], truth[:, place], goal, groups)
        for chosen in (decide(probabilities, bundle), tasks.most_probable(probabilities))
    )
    return Operation(decision, given, usual)


def _figures(
    given: NDArray[np.bool_], truth: NDArray[np.bool_], goal: Goal, groups: Sequence[Hashable] | None
) -> Mapping[str, Interval]:
    """Return precision, recall, F1 and cost of one label; what no row defines is left out."""
    units, found, either = _units(groups, len(truth)), given & truth, given | truth
    figures = {}
    if given.any():
        figures["precision"] = units.ratio(found, given)
    if truth.any():
        figures["recall"] = units.ratio(found, truth)
        figures["f1"] = intervals.f1_from_overlap(units.ratio(found, either))
    if goal.kind == "cost":
        costs = goal.false_positive * (given & ~truth) + goal.false_negative * (~given & truth)
        figures["cost"] = mean_interval(costs.astype(np.float64), groups, lowest=0.0)
    return figures


def _units(groups: Sequence[Hashable] | None, rows: int) -> Units:
    return Units.of(None if groups is None else numbered(groups, rows), rows)


def _answers(
    probabilities: Floats, truth: Decisions, bundle: Bundle, groups: Sequence[Hashable] | None
) -> Answers | None:
    rule = bundle.abstention
    if rule is None:
        return None
    sets, given = conformal.sets(probabilities, rule), decide(probabilities, bundle)
    units, every, sizes = _units(groups, len(truth)), np.ones(len(truth)), sets.sum(axis=1)
    answered = (sets == given).all(axis=1)
    right = (given & truth).any(axis=1) & answered
    return Answers(
        abstention=rule,
        answered=units.ratio(answered, every),
        accuracy=units.ratio(right, answered) if answered.any() else None,
        coverage=units.ratio((sets & truth).any(axis=1), every),
        sizes=tuple(np.bincount(sizes, minlength=3).tolist()),
    )
