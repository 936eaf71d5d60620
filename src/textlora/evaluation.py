"""evaluate(): how good a classifier is on rows it has never seen, and compared with what.

rows ──▶ classifier ──▶ probabilities ──▶ scores, curves, slices, mistakes ──▶ evaluation.json
  └───▶ baselines ────▶ probabilities ──▶ the same scores                       predictions.parquet
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from textlora import memory, metrics, multilabel_evaluation, storage, tfidf
from textlora.errors import TrainingError, UsageError, did_you_mean
from textlora.explanation import explain
from textlora.multilabel_evaluation import MultiLabelJudged, Probabilities
from textlora.types import (
    SPLIT_NAMES,
    Baseline,
    Bundle,
    Curve,
    Dataset,
    Evaluation,
    Label,
    LabelErrors,
    Leakage,
    Mistake,
    Run,
    Slice,
    Span,
    Split,
)

LENGTH_EDGES = (64, 128, 256, 512)
MISTAKES = 20
MISTAKE_CHARACTERS = 2_000
MISTAKE_FORWARDS = 48
"""Texts that are classified to explain one mistake."""
BLOCK = 8_192
"""Rows that are scored and written at once; a multiple of the classifier's own blocks."""
BASELINE_CHARACTERS = 64_000_000
"""Characters that TF-IDF is trained on, some 50,000 reviews: it takes about 14 bytes of memory for each."""


class Scorer(Protocol):
    """What ``evaluate`` needs of a classifier; ``textlora.Classifier`` has it."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in the order of the probabilities' columns."""

    @property
    def fingerprint(self) -> str:
        """Identifies the trained weights."""

    def predict_proba(self, texts: Sequence[str], *, progress: Any = None) -> NDArray[np.float64]:
        """Return (N, C) probabilities in the order of the texts."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before any cut."""


class MultiLabelScorer(Scorer, Protocol):
    """What it needs beyond that where rows have several labels."""

    @property
    def bundle(self) -> Bundle:
        """Holds the thresholds."""

    def decide(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which labels each row of probabilities (N, C) is given, (N, C)."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """The scored rows beside what the classifier says of them. N rows, C classes."""

    rows: Split
    label_names: tuple[str, ...]
    probabilities: NDArray[np.float64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """True classes (N,)."""
        return np.asarray(self.rows.labels, np.int64)

    @property
    def predicted(self) -> NDArray[np.intp]:
        """Most probable classes (N,); the first one on ties."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class (N,)."""
        return np.asarray(self.probabilities.max(1))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which predictions are right (N,)."""
        return np.asarray(self.labels == self.predicted)

    def scores(self, resamples: int, seed: int) -> metrics.Scores:
        """Return all figures with intervals."""
        return metrics.bootstrap(
            self.labels, self.probabilities, label_names=self.label_names, resamples=resamples, seed=seed
        )

    def curves(self) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
        """Return ROC and precision-recall curves."""
        return metrics.curves(self.labels, self.probabilities, label_names=self.label_names)

    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Return the confusion matrix."""
        counts = metrics.confusion_matrix(self.labels, self.predicted, classes=len(self.label_names))
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
        probabilities = self.probabilities[block]
        labels = np.asarray(self.rows.labels[block], np.int64)
        return [names[labels], names[probabilities.argmax(1)], probabilities.max(1)]


Judged = _Judged | MultiLabelJudged


def _judge(scorer: Scorer, rows: Split, dataset: Dataset, probabilities: NDArray[np.float64]) -> Judged:
    if dataset.task == "single_label":
        return _Judged(rows, dataset.label_names, probabilities)
    deciding = cast("MultiLabelScorer", scorer)
    chosen = deciding.decide(probabilities)
    return MultiLabelJudged(rows, dataset.label_names, probabilities, chosen, deciding.bundle.thresholds)


def evaluate(  # noqa: PLR0913 - two nouns in, the rest are switches with defaults
    run_folder: Path,
    dataset: Dataset,
    *,
    split: str = "test",
    classifier: Scorer | None = None,
    baseline: bool = True,
    resamples: int = metrics.RESAMPLES,
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
    evaluation = Evaluation(
        split=split,
        rows=len(rows),
        label_names=dataset.label_names,
        metrics=scores.metrics,
        classes=scores.classes,
        confusion=judged.confusion(),
        roc=roc,
        precision_recall=precision_recall,
        by_length=_by_length(judged, tokens),
        mistakes=_mistakes(judged, scorer),
        baselines=_baselines(dataset, judged, resamples) if baseline else (),
        seconds=seconds,
        dataset_fingerprint=dataset.fingerprint,
        run_fingerprint=scorer.fingerprint,
        leakage=_leakage(judged, resamples, dataset),
        task=dataset.task,
        errors=judged.errors(),
    )
    storage.make_folder(run_folder)
    _write_predictions(run_folder / storage.PREDICTIONS, judged)
    storage.write_noun(run_folder / storage.EVALUATION, evaluation)
    return evaluation


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
    right = metrics.wilson(int(judged.right[leaked].sum()), rows)
    clean = _part(judged, ~leaked)
    return Leakage(rows, right, clean.scores(resamples, dataset.info.seed).metrics if rows < len(leaked) else {})


def _part(judged: Judged, chosen: NDArray[np.bool_]) -> Judged:
    """Return some of the rows (N,) with what the classifier says of them, without their texts."""
    nothing = ("",) * int(chosen.sum())
    rows = Split(nothing, nothing, tuple(itertools.compress(judged.rows.labels, chosen)))
    if isinstance(judged, MultiLabelJudged):
        return replace(judged, rows=rows, probabilities=judged.probabilities[chosen], chosen=judged.chosen[chosen])
    return replace(judged, rows=rows, probabilities=judged.probabilities[chosen])


def _by_length(judged: Judged, tokens: NDArray[np.int64]) -> tuple[Slice, ...]:
    """Return the accuracy of the rows in each range of lengths that has rows."""
    # side="left": a text of exactly 64 tokens belongs to 0-64.
    places = np.searchsorted(LENGTH_EDGES, tokens, side="left")
    slices = []
    for place, name in enumerate(_length_names()):
        chosen = judged.right[places == place]
        if len(chosen):
            slices.append(Slice(name, len(chosen), metrics.wilson(int(chosen.sum()), len(chosen))))
    return tuple(slices)


def _length_names() -> list[str]:
    starts = (0, *(edge + 1 for edge in LENGTH_EDGES))
    ranges = [f"{start}–{end}" for start, end in zip(starts, LENGTH_EDGES, strict=False)]
    return [*ranges, f"over {LENGTH_EDGES[-1]}"]


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


def _write_predictions(path: Path, judged: Judged) -> None:
    """Write one row per scored text, in the order of the split, block by block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.list_(pa.string()) if isinstance(judged, MultiLabelJudged) else pa.string()
    texts = {"id": pa.string(), "text": pa.string(), "label": label, "prediction": label}
    numbers = ("probability", *(f"probability_{name}" for name in judged.label_names))
    schema = pa.schema([*texts.items(), *((name, pa.float64()) for name in numbers)])
    with storage.atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for start in range(0, len(judged.rows), BLOCK):
            columns = _prediction_columns(judged, slice(start, start + BLOCK))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _prediction_columns(judged: Judged, block: slice) -> list[Any]:
    texts = [judged.rows.ids[block], judged.rows.texts[block]]
    return [*texts, *judged.columns(block), *judged.probabilities[block].T]


# --- baselines ----------------------------------------------------------------------------


def _baselines(dataset: Dataset, judged: Judged, resamples: int) -> tuple[Baseline, ...]:
    """Train the cheap methods on the training split and score them on the same rows."""
    seed = dataset.info.seed
    if isinstance(judged, MultiLabelJudged):
        train, validation = (_bounded(split, seed) for split in (dataset.train, dataset.validation))
        return multilabel_evaluation.baselines(judged, train, validation, resamples=resamples, seed=seed)
    found = []
    for name, method in (("majority class", _majority), ("TF-IDF + logistic regression", _tfidf)):
        started = time.perf_counter()
        result = method(dataset, judged.rows)
        if result is None:
            continue
        description, probabilities = result
        theirs = _Judged(judged.rows, judged.label_names, probabilities)
        seconds = time.perf_counter() - started
        ahead = metrics.advantage(judged.right, theirs.right, resamples=resamples, seed=seed)
        found.append(Baseline(name, description, theirs.scores(resamples, seed).metrics, seconds, ahead))
    return tuple(found)


def _majority(dataset: Dataset, rows: Split) -> tuple[str, NDArray[np.float64]] | None:
    """Give every row the class shares of the training split: the most frequent class wins."""
    counts = np.asarray(dataset.train.class_counts(len(dataset.label_names)), np.float64)
    often = dataset.label_names[int(counts.argmax())]
    return f"always says {often!r}, the most frequent label of the training split", np.tile(
        counts / counts.sum(), (len(rows), 1)
    )


def _tfidf(dataset: Dataset, rows: Split) -> tuple[str, NDArray[np.float64]] | None:
    """Fit a linear model on word and word-pair counts; ``None`` where the texts hold no words."""
    train = _bounded(dataset.train, dataset.info.seed)
    vectorizer, matrix = tfidf.vectorized(train.texts)
    if matrix is None:
        return None
    model, choice = _chosen(matrix, train.labels, vectorizer, _bounded(dataset.validation, dataset.info.seed))
    probabilities = np.zeros((len(rows), len(dataset.label_names)))
    for start in range(0, len(rows), BLOCK):
        block = vectorizer.transform(rows.texts[start : start + BLOCK])
        probabilities[start : start + BLOCK, model.classes_] = model.predict_proba(block)
    part = "" if len(train) == len(dataset.train) else f" of {len(train):,} of {len(dataset.train):,} training texts"
    return f"words and word pairs{part}, {choice}", probabilities


def _bounded(split: Split, seed: int) -> Split:
    """Return the split, or as many rows of each class, drawn at random, as stay within ``BASELINE_CHARACTERS``."""
    characters = sum(map(len, split.texts))
    if characters <= BASELINE_CHARACTERS:
        return split
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(split), np.bool_)
    for rows in _by_label(split.labels):
        # One row at least of every class.
        size = math.ceil(len(rows) * BASELINE_CHARACTERS / characters)
        drawn[generator.choice(rows, size, replace=False)] = True
    ids, texts = (tuple(itertools.compress(column, drawn)) for column in (split.ids, split.texts))
    return Split(ids, texts, tuple(itertools.compress(split.labels, drawn)))


def _by_label(labels: Sequence[Label]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each class, in multi-label data those of each combination."""
    numbers: dict[Label, int] = {}
    found = np.array([numbers.setdefault(label, len(numbers)) for label in labels])
    for number in range(len(numbers)):
        yield np.flatnonzero(found == number)


def _chosen(matrix: Any, labels: Sequence[Label], vectorizer: Any, validation: Split) -> tuple[Any, str]:
    """Return the model whose strength does best on the validation rows, and that choice in words."""
    fits = [(strength, tfidf.logistic(strength).fit(matrix, labels)) for strength in tfidf.STRENGTHS]
    if not len(validation):
        strength, model = fits[0]
        return model, f"C = {strength:g}, no validation rows to choose it by"
    held_out = vectorizer.transform(validation.texts)
    # On ties the stronger regularisation wins: it comes first.
    strength, model = max(fits, key=lambda fit: fit[1].score(held_out, validation.labels))
    return model, f"C = {strength:g} chosen on the validation split"
