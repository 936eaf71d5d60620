"""decide(): another decision of a finished run, without training.

validation rows ──▶ logits ──▶ temperature, thresholds, abstention ──▶ bundle
test rows ──▶ evaluation.json, predictions.parquet ──▶ report
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textlora import evaluation, goals, planning, preparation, reporting, storage
from textlora.deciding import Wanted, fit_decision, labels_of, problems
from textlora.decision import Abstention, Calibration, Decision
from textlora.errors import UsageError
from textlora.settings import DecisionSettings, Settings
from textlora.types import Bundle, Dataset, Evaluation, Plan, Run

if TYPE_CHECKING:
    from textlora.classifier import Classifier

# progress(stage, done, total or 0 when unknown, note)
Progress = Callable[[str, int, int, str], None]
HIGHEST_RATE = 0.5


@dataclass(frozen=True, slots=True)
class Decided:
    """What was fitted, and what it comes to.

    Attributes:
        folder: the run folder.
        calibration: how the temperature was chosen.
        decision: the threshold between two labels, if the goal needs one.
        thresholds: that of each label in multi-label data, by label.
        thresholds_goal: what these were fitted for; empty without any.
        abstention: when it is not sure, if an error rate was asked for.
        evaluation: the run's evaluation made anew, if it had one.
        report: the page that was written, if it had one.
    """

    folder: Path
    calibration: Calibration | None
    decision: Decision | None
    thresholds: Mapping[str, float]
    thresholds_goal: str
    abstention: Abstention | None
    evaluation: Evaluation | None
    report: Path | None


def decide(
    run: Run | str | Path,
    *,
    goal: str | None = None,
    positive: str | None = None,
    error_rate: float | None = None,
    progress: Progress | None = None,
) -> Decided:
    """Fit temperature, thresholds and abstention of a finished run anew; what is not given stays as it is.

    The validation rows are classified once. The bundle, and the evaluation and report if the run has them, are
    replaced when all of them could be made; exports are not, make them again.

    Args:
        run: the run, or its folder.
        goal: ``accuracy``, ``f1``, ``recall@precision=0.95``, ``precision@recall=0.9`` or ``cost:FP=1,FN=5``.
        positive: which of two labels the goal is about; the last one by default.
        error_rate: above 0 and below 0.5, at which labels must not be ruled out; 0 never abstains.
        progress: called with stage, rows done, rows in all and a note.

    Raises:
        UsageError: a goal, label or rate that cannot be, or cannot be reached on the validation rows; no such run.
        ResourceError: the folder cannot be written.
    """
    from textlora.bundles import find_bundle
    from textlora.classifier import Classifier
    from textlora.training import load_run

    folder = run.folder if isinstance(run, Run) else Path(run)
    path = find_bundle(folder)
    dataset, plan, finished = (
        preparation.load_dataset(folder), planning.load_plan(folder / storage.PLAN), load_run(folder)
    )  # fmt: skip
    _check_data(folder, dataset, finished)
    classifier = Classifier.from_pretrained(folder)
    wanted = _wanted(classifier.bundle, plan.settings, goal, positive, error_rate)
    _check(wanted, classifier.bundle, dataset)
    tell = progress or _silent
    logits = classifier.logits(
        dataset.validation.texts, progress=lambda done, total: tell("calibrate", done, total, "")
    )
    classifier.bundle = fit_decision(classifier.bundle, logits, dataset.validation, wanted)
    return _replace(folder, path, classifier, _Nouns(dataset, plan, finished), tell)


@dataclass(frozen=True, slots=True)
class _Nouns:
    dataset: Dataset
    plan: Plan
    run: Run


def _silent(*_: object) -> None:
    """Report nothing."""


def _check_data(folder: Path, dataset: Dataset, run: Run) -> None:
    if run.dataset_fingerprint != dataset.fingerprint:
        raise UsageError(
            f"{folder / storage.RUN} was trained on other data than {folder / storage.DATASET} describes.",
            hint="Train again, or restore the data of the run.",
        )
    if not len(dataset.validation):
        raise UsageError(f"{folder} has no validation rows to decide by.", hint="Prepare the data again, with some.")


def _wanted(
    bundle: Bundle, settings: Settings, goal: str | None, positive: str | None, error_rate: float | None
) -> Settings:
    """Return the plan's settings with what is asked for, else with what the bundle has."""
    known = bundle.decision
    if goal is None:
        goal = known.goal if known else bundle.thresholds_goal if bundle.thresholds else "accuracy"
    if positive is None and known and goal.strip() != "accuracy":
        positive = known.positive
    if error_rate is None and bundle.abstention:
        error_rate = bundle.abstention.error_rate
    wrong = _unreadable(goal, error_rate)
    if wrong:
        raise UsageError("Cannot decide like this:", problems=wrong)
    chosen = DecisionSettings(
        calibrate=settings.decision.calibrate, goal=goal, positive=positive, error_rate=error_rate or None
    )
    return settings.model_copy(update={"decision": chosen})


def _unreadable(goal: str, error_rate: float | None) -> list[str]:
    found = []
    try:
        goals.parse(goal)
    except ValueError as error:
        found.append(f"The goal is {goal!r}, expected {error}.")
    if error_rate is not None and not 0 <= error_rate < HIGHEST_RATE:
        found.append(f"The error rate is {error_rate:g}, expected a number above 0 and below 0.5, or 0 for none.")
    return found


def _check(settings: Settings, bundle: Bundle, dataset: Dataset) -> None:
    wanted = Wanted.of(settings.decision, bundle.task)
    told = (
        f"The goal is {str(wanted.goal)!r}",
        f"The positive label is {wanted.positive!r}",
        f"The error rate is {wanted.error_rate}",
    )
    found = problems(wanted, labels_of(bundle, dataset.validation), told=told)
    if found:
        raise UsageError("Cannot decide like this:", problems=found)


def _replace(folder: Path, path: Path, classifier: Classifier, nouns: _Nouns, tell: Progress) -> Decided:
    """Write bundle, evaluation and report, the first of them when the last but one is made."""
    from textlora.bundles import BUNDLE

    bundle, measured, page = classifier.bundle, None, None
    with tempfile.TemporaryDirectory(prefix=".decide-", dir=storage.make_folder(folder)) as scratch:
        if (folder / storage.EVALUATION).exists():
            measured = _measured(Path(scratch), folder, classifier, nouns.dataset, tell)
        storage.write_noun(path / BUNDLE, bundle)
        if measured:
            with storage.atomic_path(folder / storage.PREDICTIONS) as temporary:
                shutil.move(Path(scratch) / storage.PREDICTIONS, temporary)
            storage.write_noun(folder / storage.EVALUATION, measured)
    if measured and (folder / storage.REPORT_HTML).exists():
        page = reporting.report(folder, dataset=nouns.dataset, plan=nouns.plan, run=nouns.run, evaluation=measured)
    return Decided(
        folder=folder,
        calibration=bundle.calibration,
        decision=bundle.decision,
        thresholds=dict(zip(bundle.label_names, bundle.thresholds, strict=False)),
        thresholds_goal=bundle.thresholds_goal if bundle.thresholds else "",
        abstention=bundle.abstention,
        evaluation=measured,
        report=page,
    )


def _measured(scratch: Path, folder: Path, classifier: Classifier, dataset: Dataset, tell: Progress) -> Evaluation:
    """Evaluate as the run was evaluated before."""
    before = evaluation.load_evaluation(folder)
    return evaluation.evaluate(
        scratch,
        dataset,
        split=before.split,
        classifier=classifier,
        baseline=bool(before.baselines),
        progress=lambda done, total: tell("evaluate", done, total, ""),
    )
