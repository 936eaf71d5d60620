"""One plan trained several times: what each training came to, and how far they lie apart.

Nouns, as in ``types``: frozen, JSON-able, without torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textlora.errors import UsageError
from textlora.types import Dataset, Interval, Plan, Task, headline_of

CONFIDENCE = 0.95
LEAST, MOST_FOLDS = 2, 100
SHOWN: Mapping[Task, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro", "mcc", "log_loss"),
    "multi_label": ("f1_macro", "f1_micro", "accuracy", "log_loss"),
}
"""Metrics that tables show of each training."""
# Where a metric cannot be beyond; all others are shares.
BOUNDS = {"log_loss": (0.0, math.inf), "mcc": (-1.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several trainings: their mean, and the standard deviation of a single one, with n - 1."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One training.

    Attributes:
        seed: of the head, the adapters and the order of training.
        best_step: the step whose weights are kept.
        validation: the validation score at that step which ``training.best_metric`` names.
        validation_loss: the validation loss at that step.
        seconds: wall time of the training.
        metrics: on the scored rows, by name as in ``Evaluation``.
        classifier: fingerprint of its weights.
    """

    seed: int
    best_step: int
    validation: float
    validation_loss: float
    seconds: float
    metrics: Mapping[str, float]
    classifier: str


@dataclass(frozen=True, slots=True)
class Seeds:
    """Trainings that differ in their seed alone, scored on the same rows; ``seeds.json``. Seconds.

    What they differ by is the chance in training. That the rows are a sample is another uncertainty:
    it is the same for all of them, and none of it is in ``metrics``.

    Attributes:
        split: the scored split; ``rows`` is its size.
        best_metric: the validation score that chose each checkpoint, and ``kept``.
        runs: the trainings, in the order of their seeds.
        kept: seed of the classifier in the run folder, the best on validation.
        metrics: each metric over the trainings.
        intervals: the mean of each metric with its 95 % interval by Student's t, which would hold the mean
            of ever more seeds.
        predicted_seconds: what the plan said that all trainings and their scores would take.
        seconds: what the trainings took, over all calls.
        plan_fingerprint: of the plan with its own seed.
    """

    split: str
    rows: int
    task: Task
    best_metric: str
    runs: tuple[SeedRun, ...]
    kept: int
    metrics: Mapping[str, Spread]
    intervals: Mapping[str, Interval]
    predicted_seconds: float
    seconds: float
    dataset_fingerprint: str
    plan_fingerprint: str

    @property
    def headline(self) -> str:
        """Name of the metric that says most."""
        return headline_of(self.task)

    @property
    def shown(self) -> list[str]:
        """Names of the metrics that a table shows."""
        return [name for name in SHOWN[self.task] if name in self.metrics]

    @property
    def kept_run(self) -> SeedRun:
        """The training whose classifier is in the run folder."""
        return next(run for run in self.runs if run.seed == self.kept)


@dataclass(frozen=True, slots=True)
class FoldRun:
    """One fold: a training without it, scored on it.

    Attributes:
        number: from 1 on.
        train_rows: that were learnt from.
        validation_rows: that chose the checkpoint; none of them is held out.
        rows: that were held out.
        best_step: the step whose weights were scored.
        validation: the validation score at that step which ``training.best_metric`` names.
        seconds: wall time of the training.
        metrics: on the held-out rows, by name as in ``Evaluation``.
    """

    number: int
    train_rows: int
    validation_rows: int
    rows: int
    best_step: int
    validation: float
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Folds:
    """Cross-validation over the rows of training and validation split; ``folds.json``. Seconds.

    The test split takes no part. Each row was scored once, by a classifier that has not seen it.

    Attributes:
        rows: all rows that were scored.
        best_metric: the validation score that chose each fold's checkpoint.
        runs: the folds in order.
        pooled: each metric over all rows together, with the 95 % interval for the choice of rows. Scores
            that rank rows are not there: the classifiers of two folds need not rank on one scale.
        metrics: each metric over the folds. Folds share most of the rows that they learn from, so no
            interval can be built on their deviation (Bengio and Grandvalet 2004).
        notes: what has to be said about the folds.
        predicted_seconds: what the plan said that all trainings and their scores would take.
        seconds: what the trainings took, over all calls.
        plan_fingerprint: of the plan that each fold was trained by.
    """

    rows: int
    task: Task
    best_metric: str
    runs: tuple[FoldRun, ...]
    pooled: Mapping[str, Interval]
    metrics: Mapping[str, Spread]
    notes: tuple[str, ...]
    predicted_seconds: float
    seconds: float
    dataset_fingerprint: str
    plan_fingerprint: str

    @property
    def headline(self) -> str:
        """Name of the metric that says most."""
        return headline_of(self.task)

    @property
    def shown(self) -> list[str]:
        """Names of the metrics that a table shows."""
        return [name for name in SHOWN[self.task] if name in self.metrics]


def check_repeats(seeds: int | None, folds: int | None) -> None:
    """Refuse numbers of trainings that make no sense.

    Raises:
        UsageError: fewer than two seeds or folds, too many folds, or both together.
    """
    if seeds is not None and folds is not None:
        raise UsageError(
            f"--seeds {seeds} and --folds {folds} answer different questions, and are not done together.",
            hint="--seeds shows the chance in training, --folds the chance in the choice of rows: give one of them.",
        )
    if seeds is not None:
        check_seeds(seeds)
    if folds is not None:
        check_folds(folds)


def check_folds(folds: int) -> None:
    """Refuse what is no cross-validation.

    Raises:
        UsageError: fewer than two folds, or more than a hundred.
    """
    if not LEAST <= folds <= MOST_FOLDS:
        raise UsageError(
            f"--folds {folds} is no cross-validation: {LEAST} to {MOST_FOLDS} folds are expected.",
            hint="For instance --folds 5.",
        )


def check_seeds(seeds: int) -> None:
    """Refuse what is not several.

    Raises:
        UsageError: fewer than two seeds.
    """
    if seeds < LEAST:
        raise UsageError(
            f"--seeds {seeds} is not several: a spread needs {LEAST} trainings at least.",
            hint="For instance --seeds 5; for one training with another seed --set seed=7.",
        )


def students_interval(name: str, found: Spread, trainings: int) -> Interval:
    """Return the mean of a metric with its 95 % interval: mean ± t(n - 1) · deviation / √n.

    It takes the trainings for independent draws, which other seeds are, and other folds are not.
    """
    from scipy.special import stdtrit

    half = float(stdtrit(trainings - 1, (1 + CONFIDENCE) / 2)) * found.deviation / math.sqrt(trainings)
    low, high = BOUNDS.get(name, (0.0, 1.0))
    return Interval(found.mean, max(low, found.mean - half), min(high, found.mean + half))


def spreads(metrics: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return the spread of every metric that all trainings have, at least two of them."""
    shared = [name for name in metrics[0] if all(name in found for found in metrics)]
    columns = {name: [found[name] for found in metrics] for name in shared}
    return {name: Spread(statistics.fmean(values), statistics.stdev(values)) for name, values in columns.items()}


def stage_of_folds(folds: int) -> str:
    """Return the name of the stage under which so many folds report their progress."""
    return f"{folds} folds"


def stage_of_seeds(seeds: int) -> str:
    """Return the name of the stage under which so many trainings report their progress."""
    return f"{seeds} seeds"


def seconds_of_seeds(plan: Plan, trainings: int) -> float:
    """Return the seconds that so many trainings and their predictions of the test split will take.

    What the frozen layers give is computed once where it is cached.
    """
    estimate, once = plan.estimate, _cached_seconds(plan)
    each = estimate.train_seconds - once + estimate.seconds_by_term.get("predicting", 0.0)
    return once + trainings * each


def seconds_of_folds(plan: Plan, folds: int, rows: Mapping[str, int]) -> float:
    """Return the seconds that the folds' trainings and predictions will take beside the plan's own training.

    Args:
        plan: for training on the whole training split; what it caches of the frozen layers serves the folds, too.
        folds: how many.
        rows: of each split.
    """
    each = (plan.estimate.train_seconds - _cached_seconds(plan)) * (folds - 1) / folds
    scored = plan.estimate.seconds_by_term.get("predicting", 0.0) * (rows["train"] + rows["validation"])
    return folds * each + scored / max(1, rows["test"])


@dataclass(frozen=True, slots=True)
class Ahead:
    """What several trainings will take, by the plan.

    Attributes:
        stage: under which they report their progress.
        told: which trainings there are, in words.
        seconds: of them and their predictions.
        total: of everything from the first training to the report.
    """

    stage: str
    told: str
    seconds: float
    total: float


def ahead(plan: Plan, dataset: Dataset, seeds: int | None, folds: int | None) -> Ahead | None:
    """Return what the trainings that were asked for will take; None for one alone."""
    estimate, first = plan.estimate, plan.settings.seed
    if seeds:
        told = f"{seeds} trainings on these splits, with the seeds {first} to {first + seeds - 1}"
        seconds = seconds_of_seeds(plan, seeds)
        rest = estimate.evaluate_seconds + estimate.report_seconds
        return Ahead(stage_of_seeds(seeds), told, seconds, seconds + rest)
    if folds:
        sizes = {name: len(split) for name, split in dataset.splits().items()}
        rows = sizes["train"] + sizes["validation"]
        told = (
            f"Beside this training {folds} more for the folds of {rows:,} training and validation rows "
            f"(the {sizes['test']:,} test rows take no part)"
        )
        seconds = seconds_of_folds(plan, folds, sizes)
        return Ahead(stage_of_folds(folds), told, seconds, estimate.seconds + seconds)
    return None


def _cached_seconds(plan: Plan) -> float:
    """Return the seconds in the frozen layers where they run once for all trainings."""
    return plan.estimate.seconds_by_term.get("frozen layers", 0.0) if plan.settings.compute.prefix_cache else 0.0
