"""evaluate(): how good a classifier is on rows it has never seen, and compared with what.

rows ──▶ classifier ──▶ probabilities ──▶ scores, curves, slices, mistakes ──▶ evaluation.json
  └───▶ baselines ────▶ probabilities ──▶ the same scores                       predictions.parquet
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from textlora import baselines, memory, metrics, multilabel_evaluation, paired, slices, storage
from textlora.confusion import confusion_matrix
from textlora.deciding import trust
from textlora.decision import Trust
from textlora.errors import TrainingError, UsageError, did_you_mean
from textlora.explanation import MISTAKE_FORWARDS, MISTAKES, explain
from textlora.multilabel_evaluation import MultiLabelJudged, Probabilities
from textlora.resampling import RESAMPLES, Units
from textlora.tasks import label_matrix
from textlora.types import (
    SPLIT_NAMES,
    Baseline,
    Bundle,
    Curve,
    Dataset,
    Evaluation,
    LabelErrors,
    Leakage,
    Mistake,
    Run,
    Slice,
    Span,
    Split,
)

MISTAKE_CHARACTERS = 2_000
UNIT = "unit"
"""Column of ``predictions.parquet``, where there are groups: rows with the same number are one draw."""
BLOCK = 8_192
"""Rows that are scored and written at once; a multiple of the classifier's own blocks."""


class Scorer(Protocol):
    """What ``evaluate`` needs of a classifier; ``textlora.Classifier`` has it."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in the order of the probabilities' columns."""

    @property
    def fingerprint(self) -> str:
        """Identifies the trained weights."""

    @property
    def whole_length(self) -> int:
        """Tokens up to which nothing of a text is lost."""

    def predict_proba(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[np.float64]:
        """Return (N, C) probabilities in the order of the texts."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before any cut."""


@runtime_checkable
class DecidingScorer(Scorer, Protocol):
    """What it needs beyond that where more than the most probable label is asked for, as in multi-label data."""

    @property
    def bundle(self) -> Bundle:
        """Holds the temperature, the thresholds and the error rate."""

    def decide(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which labels each row of probabilities (N, C) is given, (N, C)."""


@dataclass(frozen=True)
class _Judged:
    """The scored rows beside what the classifier says of them. N rows, C classes."""

    rows: Split
    label_names: tuple[str, ...]
    probabilities: NDArray[np.float64]
    chosen: NDArray[np.bool_] | None = None
    """The class that each row is given (N, C); the most probable one without it."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """True classes (N,)."""
        return np.asarray(self.rows.labels, np.int64)

    @property
    def predicted(self) -> NDArray[np.intp]:
        """Given classes (N,); of equally probable ones the first."""
        return np.asarray((self.probabilities if self.chosen is None else self.chosen).argmax(1))

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class (N,)."""
        return np.asarray(self.probabilities[np.arange(len(self.rows)), self.predicted])

    @property
    def truth(self) -> NDArray[np.bool_]:
        """Which label the rows have (N, C)."""
        return label_matrix(self.rows.labels, len(self.label_names))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which predictions are right (N,)."""
        return np.asarray(self.labels == self.predicted)

    @cached_property
    def units(self) -> Units:
        """Which rows resemble each other."""
        return Units.of_split(self.rows)

    @property
    def memberships(self) -> dict[str, NDArray[np.bool_]]:
        """Which rows (N,) have each label."""
        return {name: self.labels == place for place, name in enumerate(self.label_names)}

    def scores(self, resamples: int, seed: int) -> metrics.Scores:
        """Return all figures with intervals."""
        return metrics.scores(
            self.labels, self.probabilities, self.predicted,
            label_names=self.label_names, units=self.units, resamples=resamples, seed=seed,
        )  # fmt: skip

    def points(self) -> dict[str, float]:
        """Return all figures over all classes, without intervals."""
        return metrics.point_scores(self.labels, self.probabilities, self.predicted)

    def curves(self) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
        """Return ROC and precision-recall curves."""
        return metrics.curves(self.labels, self.probabilities, label_names=self.label_names)

    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Return the confusion matrix."""
        counts = confusion_matrix(self.labels, self.predicted, classes=len(self.label_names))
        return tuple(tuple(row) for row in counts.tolist())

    def errors(self) -> tuple[LabelErrors, ...]:
        """Return nothing: the confusion matrix says it."""
        return ()

    def label_of(self, row: int) -> str:
        """Return the name of a row's true class."""
        return self.label_names[int(self.labels[row])]

    def prediction_of(self, row: int) -> str:
        """Return the name of a row's predicted class."""
        return self.label_names[int(self.predicted[row])]

    @property
    def answer_names(self) -> tuple[str, ...]:
        """Names of all answers that can be explained: the classes."""
        return self.label_names

    def answer(self, row: int) -> int:
        """Return the answer whose probability is the row's ``confidence``."""
        return int(self.predicted[row])

    @staticmethod
    def answers_of(predict_proba: Probabilities) -> Probabilities:
        """Return a function from texts to the probabilities of all answers."""
        return predict_proba

    def columns(self, block: slice) -> list[Any]:
        """Return label, prediction and its probability of some rows."""
        names = np.asarray(self.label_names, dtype=object)
        labels = np.asarray(self.rows.labels[block], np.int64)
        return [names[labels], names[self.predicted[block]], self.confidence[block]]


Judged = _Judged | MultiLabelJudged


def _judge(scorer: Scorer, rows: Split, dataset: Dataset, probabilities: NDArray[np.float64]) -> Judged:
    if dataset.task == "single_label":
        given = scorer.decide(probabilities) if isinstance(scorer, DecidingScorer) else None
        return beside(rows, dataset, probabilities, given)
    deciding = cast("DecidingScorer", scorer)
    chosen = deciding.decide(probabilities)
    return beside(rows, dataset, probabilities, chosen, deciding.bundle.thresholds)


def beside(
    rows: Split,
    dataset: Dataset,
    probabilities: NDArray[np.float64],
    chosen: NDArray[np.bool_] | None = None,
    thresholds: tuple[float, ...] = (),
) -> Judged:
    """Return rows beside the probabilities (N, C) that they were given, and in multi-label data the labels (N, C)."""
    if chosen is None or dataset.task == "single_label":
        return _Judged(rows, dataset.label_names, probabilities, chosen)
    return MultiLabelJudged(rows, dataset.label_names, probabilities, chosen, thresholds)


def _trust(scorer: Scorer, judged: Judged, dataset: Dataset) -> Trust | None:
    if not isinstance(scorer, DecidingScorer):
        return None
    numbers = judged.units.numbers
    groups = None if numbers is None else numbers.tolist()
    return trust(judged.probabilities, judged.truth, scorer.bundle, groups=groups, seed=dataset.info.seed)


def evaluate(  # noqa: PLR0913 - two nouns in, the rest are switches with defaults
    run_folder: Path,
    dataset: Dataset,
    *,
    split: str = "test",
    classifier: Scorer | None = None,
    baseline: bool = True,
    resamples: int = RESAMPLES,
    progress: Callable[..., None] | None = None,
) -> Evaluation:
    """Score the classifier of a run folder on one split, and cheap methods on the same rows.

    Args:
        run_folder: where the classifier lies and where ``evaluation.json`` and
            ``predictions.parquet`` are written.
        dataset: what ``prepare`` made.
        split: ``test``, ``validation`` or ``train``.
        classifier: an already loaded one; otherwise it is loaded from ``run_folder``.
        baseline: also train and score the majority class and TF-IDF + logistic regression.
        resamples: bootstrap resamples behind each interval.
        progress: called with the rows scored and the number of rows.

    Raises:
        UsageError: no such split, a split without rows, a classifier with other labels, a run
            trained on other data.
        TrainingError: the classifier's probabilities are not numbers.
        ResourceError: the folder cannot be written.
    """
    rows = _rows(dataset, split)
    _check_data(run_folder, dataset)
    memory.tidy()
    scorer = classifier or _load(run_folder)
    _check_labels(scorer, run_folder, dataset)
    probabilities, tokens, seconds = _scored(scorer, rows, progress)
    judged = _judge(scorer, rows, dataset, probabilities)
    roc, precision_recall = judged.curves()
    scores = judged.scores(resamples, dataset.info.seed)
    found = _slices(judged, tokens, scorer.whole_length)
    evaluation = Evaluation(
        split=split,
        rows=len(rows),
        label_names=dataset.label_names,
        metrics=scores.metrics,
        classes=scores.classes,
        confusion=judged.confusion(),
        roc=roc,
        precision_recall=precision_recall,
        by_length=tuple(part for part in found if part.kind == "length"),
        mistakes=_mistakes(judged, scorer),
        baselines=_baselines(dataset, judged, resamples) if baseline else (),
        seconds=seconds,
        dataset_fingerprint=dataset.fingerprint,
        run_fingerprint=scorer.fingerprint,
        leakage=_leakage(judged, resamples, dataset),
        task=dataset.task,
        errors=judged.errors(),
        trust=_trust(scorer, judged, dataset),
        slices=tuple(part for part in found if part.kind != "length"),
        groups=_groups(judged.units),
    )
    storage.make_folder(run_folder)
    write_predictions(run_folder / storage.PREDICTIONS, judged)
    storage.write_noun(run_folder / storage.EVALUATION, evaluation)
    return evaluation


def judge(scorer: Scorer, rows: Split, dataset: Dataset, *, progress: Callable[..., None] | None = None) -> Judged:
    """Return some rows of a data set beside what a classifier says of them, without writing anything.

    Raises:
        TrainingError: the classifier's probabilities are not numbers.
    """
    return _judge(scorer, rows, dataset, _scored(scorer, rows, progress)[0])


def load_evaluation(folder: Path) -> Evaluation:
    """Read ``evaluation.json`` of a run folder.

    Raises:
        UsageError: it is missing, damaged or of another version.
    """
    return storage.read_noun(folder / storage.EVALUATION, Evaluation, made_by="evaluate")


# --- what goes in -------------------------------------------------------------------------


def _rows(dataset: Dataset, split: str) -> Split:
    splits = dataset.splits()
    if split not in splits:
        raise UsageError(
            f"There is no split {split!r}.{did_you_mean(split, SPLIT_NAMES)}", hint=f"Splits: {', '.join(SPLIT_NAMES)}."
        )
    if not len(splits[split]):
        raise UsageError(
            f"The {split} split of {dataset.folder} has no rows.",
            hint="Choose another one with --split, or prepare the data again.",
        )
    return splits[split]


def _check_data(run_folder: Path, dataset: Dataset) -> None:
    """Refuse data that the run was not trained on: its test rows may be the run's training rows."""
    path = run_folder / storage.RUN
    if not path.exists():
        return
    if storage.read_noun(path, Run, made_by="train").dataset_fingerprint != dataset.fingerprint:
        raise UsageError(
            f"{path} was trained on other data than {dataset.folder / storage.DATASET} describes.",
            hint="Evaluate with the dataset the run was trained on, or train again.",
        )


def _load(run_folder: Path) -> Scorer:
    from textlora.classifier import Classifier

    scorer: Scorer = Classifier.from_pretrained(run_folder)
    return scorer


def _check_labels(scorer: Scorer, run_folder: Path, dataset: Dataset) -> None:
    if tuple(scorer.label_names) != dataset.label_names:
        raise UsageError(
            f"The classifier of {run_folder} has the labels {_listed(scorer.label_names)}; "
            f"the dataset in {dataset.folder} has {_listed(dataset.label_names)}.",
            hint="Evaluate with the dataset the classifier was trained on: same labels, same order.",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _scored(
    scorer: Scorer, rows: Split, progress: Callable[..., None] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Return probabilities (N, C) and tokens (N,) of all rows, and the seconds that the classifier took."""
    probabilities = np.zeros((len(rows), len(scorer.label_names)))
    tokens = np.zeros(len(rows), np.int64)
    seconds = 0.0
    for start in range(0, len(rows), BLOCK):
        texts = rows.texts[start : start + BLOCK]
        tell = _ahead_of(start, len(rows), progress) if progress else None
        begun = time.perf_counter()
        probabilities[start : start + BLOCK] = scorer.predict_proba(texts, progress=tell)
        seconds += time.perf_counter() - begun
        tokens[start : start + BLOCK] = scorer.count_tokens(texts)
    broken = int((~np.isfinite(probabilities).all(1)).sum())
    if broken:
        raise TrainingError(
            f"The classifier gives no numbers for {broken} of {len(rows)} rows.",
            hint="Its weights hold NaN or infinite values: train again, with a smaller training.learning_rate or compute.precision=fp32.",
        )
    return probabilities, tokens, seconds


def _ahead_of(start: int, total: int, progress: Callable[..., None]) -> Callable[[int, int], None]:
    """Return a progress call for a block that begins at ``start``."""
    return lambda done, _: progress(start + done, total)


# --- what comes out -----------------------------------------------------------------------


def _leakage(judged: Judged, resamples: int, dataset: Dataset) -> Leakage | None:
    """Return the scores on the rows that have a near-duplicate in training, and on those that have none."""
    if judged.rows.leaked is None or not any(judged.rows.leaked):
        return None
    leaked = np.asarray(judged.rows.leaked, np.bool_)
    rows = int(leaked.sum())
    right = judged.units.among(leaked).ratio(judged.right[leaked], np.ones(rows))
    clean = _part(judged, ~leaked)
    return Leakage(rows, right, clean.scores(resamples, dataset.info.seed).metrics if rows < len(leaked) else {})


def _part(judged: Judged, chosen: NDArray[np.bool_]) -> Judged:
    """Return some of the rows (N,) with what the classifier says of them, without their texts."""
    nothing = ("",) * int(chosen.sum())
    labels = tuple(itertools.compress(judged.rows.labels, chosen))
    numbers = judged.units.numbers
    # Groups and clusters in one column: what it ties together is the same.
    rows = Split(nothing, nothing, labels, clusters=None if numbers is None else tuple(numbers[chosen].tolist()))
    if isinstance(judged, MultiLabelJudged):
        return replace(judged, rows=rows, probabilities=judged.probabilities[chosen], chosen=judged.chosen[chosen])
    given = None if judged.chosen is None else judged.chosen[chosen]
    return replace(judged, rows=rows, probabilities=judged.probabilities[chosen], chosen=given)


def _slices(judged: Judged, tokens: NDArray[np.int64], whole_length: int) -> tuple[Slice, ...]:
    """Return the share of right rows in the parts of the split."""
    found = list(slices.parts(judged.rows, judged.memberships, tokens, whole_length))
    return slices.judge(found, judged.right, judged.units)


def _mistakes(judged: Judged, scorer: Scorer) -> tuple[Mistake, ...]:
    """Return the wrong predictions with the highest probability, the most confident first, and what carried them."""
    wrong = np.flatnonzero(~judged.right)
    # Stable: equally confident mistakes keep the order of the rows.
    chosen = wrong[np.argsort(-judged.confidence[wrong], kind="stable")][:MISTAKES]
    texts = [judged.rows.texts[int(row)] for row in chosen]
    explained = explain(
        judged.answers_of(scorer.predict_proba),
        texts,
        judged.answer_names,
        label=[judged.answer(int(row)) for row in chosen],
        forwards=MISTAKE_FORWARDS,
    )
    return tuple(_mistake(judged, int(row), found.spans) for row, found in zip(chosen, explained, strict=True))


def _mistake(judged: Judged, row: int, spans: Sequence[Span]) -> Mistake:
    text = judged.rows.texts[row]
    return Mistake(
        id=judged.rows.ids[row],
        text=text if len(text) <= MISTAKE_CHARACTERS else text[: MISTAKE_CHARACTERS - 1] + "…",
        label=judged.label_of(row),
        predicted=judged.prediction_of(row),
        probability=float(judged.confidence[row]),
        spans=tuple(span for span in spans if span.end < MISTAKE_CHARACTERS),
        answer=judged.answer_names[judged.answer(row)] if isinstance(judged, MultiLabelJudged) else "",
    )


def write_predictions(path: Path, judged: Judged) -> None:
    """Write one row per scored text, in the order of the split, block by block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.list_(pa.string()) if isinstance(judged, MultiLabelJudged) else pa.string()
    texts = {"id": pa.string(), "text": pa.string(), "label": label, "prediction": label}
    numbers = ("probability", *(f"probability_{name}" for name in judged.label_names))
    unit = {UNIT: pa.int64()} if judged.units.grouped else {}
    schema = pa.schema([*texts.items(), *((name, pa.float64()) for name in numbers), *unit.items()])
    with storage.atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for start in range(0, len(judged.rows), BLOCK):
            columns = _prediction_columns(judged, slice(start, start + BLOCK))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _prediction_columns(judged: Judged, block: slice) -> list[Any]:
    texts = [judged.rows.ids[block], judged.rows.texts[block]]
    numbers = judged.units.numbers
    unit = [] if numbers is None else [numbers[block]]
    return [*texts, *judged.columns(block), *judged.probabilities[block].T, *unit]


def _groups(units: Units) -> int:
    """Return how many groups counted as one draw, as ``Evaluation.groups`` has it."""
    if units.single and units.rows > 1:
        return 1
    return len(units.sizes) if units.grouped else 0


def _baselines(dataset: Dataset, judged: Judged, resamples: int) -> tuple[Baseline, ...]:
    """Train the cheap methods on the training split and score them on the same rows."""
    seed = dataset.info.seed
    if isinstance(judged, MultiLabelJudged):
        train, validation = (baselines.bounded(split, seed) for split in (dataset.train, dataset.validation))
        return multilabel_evaluation.baselines(judged, train, validation, resamples=resamples, seed=seed)
    found = []
    for name, method in baselines.METHODS:
        started = time.perf_counter()
        result = method(dataset, judged.rows)
        if result is None:
            continue
        description, probabilities = result
        theirs = _Judged(judged.rows, judged.label_names, probabilities)
        seconds = time.perf_counter() - started
        ahead = paired.accuracy_difference(judged.right, theirs.right, judged.units)
        scores = theirs.scores(resamples, seed).metrics
        found.append(Baseline(name, description, scores, seconds, ahead.interval, ahead.p_value))
    return tuple(found)
