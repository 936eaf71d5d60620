"""Everything that stands between logits and answers, fitted on the validation rows, in the order it is applied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textlora import thresholds
from textlora.deciding import conformal, temperature
from textlora.deciding.applying import probabilities_of
from textlora.deciding.wanted import Labels, Wanted
from textlora.decision import Decision
from textlora.goals import Goal
from textlora.settings import Settings
from textlora.tasks import Decisions, Floats, label_matrix
from textlora.thresholds import Points
from textlora.types import Bundle, Split


def fit_decision(bundle: Bundle, logits: Floats, validation: Split, settings: Settings) -> Bundle:
    """Return the bundle with temperature, thresholds and abstention for these validation rows.

    Args:
        bundle: of the trained classifier; what was fitted before is replaced.
        logits: (N, C) of the validation rows, as the classifier gives them to users.
        validation: their labels; whole groups are held out together where the rows have groups.
        settings: the plan's; ``decision`` says what is wanted, ``seed`` draws the folds.

    Raises:
        Unreached: no threshold reaches the goal; says what could be reached.
        UsageError: too few rows for the error rate.
    """
    labels = labels_of(bundle, validation)
    truth = label_matrix(validation.labels, len(labels.names))
    wanted = Wanted.of(settings.decision, labels.task)
    bundle = replace(bundle, calibration=None, thresholds=(), decision=None, abstention=None)
    if settings.decision.calibrate and len(logits) > 1 and np.isfinite(logits).all():
        chosen = temperature.choose(logits, truth, labels.task, groups=validation.groups, seed=settings.seed)
        bundle = replace(bundle, calibration=chosen)
    probabilities = probabilities_of(logits, bundle)
    if wanted.goal.kind != "accuracy":
        bundle = _with_thresholds(bundle, probabilities, truth, wanted)
    if wanted.error_rate is not None:
        bundle = replace(bundle, abstention=conformal.fit(probabilities, truth, wanted.error_rate))
    return bundle


def labels_of(bundle: Bundle, validation: Split) -> Labels:
    """Return the classifier's labels, and how many validation rows have each."""
    counts = validation.class_counts(len(bundle.label_names))
    return Labels(bundle.label_names, bundle.task, len(validation), counts)


def _with_thresholds(bundle: Bundle, probabilities: Floats, truth: Decisions, wanted: Wanted) -> Bundle:
    names = bundle.label_names
    if bundle.task == "multi_label":
        cuts = thresholds.fit(truth, probabilities, wanted.goal, label_names=names)
        return replace(bundle, thresholds=cuts, thresholds_goal=str(wanted.goal))
    place = names.index(wanted.positive or names[-1])
    points = thresholds.points(truth[:, place], probabilities[:, place])
    best = thresholds.best(points, wanted.goal)
    reached = _reached(points, best, wanted.goal)
    return replace(
        bundle, decision=Decision(str(wanted.goal), names[place], float(points.cuts[best]), len(truth), reached)
    )


def _reached(points: Points, place: int, goal: Goal) -> dict[str, float]:
    figures = {"precision": points.precision, "recall": points.recall, "f1": points.f1}
    if goal.kind == "cost":
        figures["cost"] = points.cost(goal)
    return {name: float(values[place]) for name, values in figures.items()}
