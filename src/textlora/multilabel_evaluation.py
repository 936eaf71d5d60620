"""Multi-label rows beside what a method says of them, and the cheap methods to compare with.

``evaluation`` asks the same questions of these as of rows with one label each. N rows, C classes.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textlora import metrics, multilabel_metrics, paired, tfidf, thresholds
from textlora.paired import Difference
from textlora.resampling import Units
from textlora.tasks import Decisions, Floats, above_thresholds, label_matrix
from textlora.types import Baseline, Curve, LabelErrors, Split

NO_LABEL = "(no label)"
"""Stands in the place of labels where there are none."""
Probabilities: TypeAlias = Callable[[Sequence[str]], Floats]
"""Returns the probabilities of N texts."""


@dataclass(frozen=True)
class MultiLabelJudged:
    """Scored rows with their labels, the probabilities, and the labels that were given."""

    rows: Split
    label_names: tuple[str, ...]
    probabilities: Floats
    chosen: Decisions
    thresholds: tuple[float, ...] = ()

    @cached_property
    def truth(self) -> Decisions:
        """Which labels the rows have (N, C)."""
        return label_matrix(self.rows.labels, len(self.label_names))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Rows with all labels right (N,)."""
        return np.asarray((self.truth == self.chosen).all(axis=1))

    @property
    def confidence(self) -> Floats:
        """Probability of each row's surest wrong answer, yes or no; 0 where all are right (N,)."""
        return np.asarray(self._wrong.max(axis=1))

    @cached_property
    def _wrong(self) -> Floats:
        """Probability of each answer that is wrong, 0 for the right ones (N, C)."""
        answer = np.where(self.chosen, self.probabilities, 1 - self.probabilities)
        return np.asarray(np.where(self.truth == self.chosen, 0.0, answer))

    @property
    def answer_names(self) -> tuple[str, ...]:
        """Names of all answers that can be explained: yes for each label, then no for each (2C)."""
        return tuple(f"{name}: {answer}" for answer in ("yes", "no") for name in self.label_names)

    def answer(self, row: int) -> int:
        """Return the answer whose probability is the row's ``confidence``: the surest wrong one."""
        label = int(self._wrong[row].argmax())
        return label if self.chosen[row, label] else len(self.label_names) + label

    @staticmethod
    def answers_of(predict_proba: Probabilities) -> Probabilities:
        """Return a function from texts to the probabilities of all answers (N, 2C)."""

        def answers(texts: Sequence[str]) -> Floats:
            probabilities = predict_proba(texts)
            return np.concatenate([probabilities, 1 - probabilities], axis=1)

        return answers

    def scores(self, resamples: int, seed: int) -> metrics.Scores:
        """Return all figures with intervals."""
        return multilabel_metrics.scores(
            self.truth, self.chosen, self.probabilities,
            label_names=self.label_names, units=self.units, resamples=resamples, seed=seed,
        )  # fmt: skip

    @cached_property
    def units(self) -> Units:
        """Which rows resemble each other."""
        return Units.of_split(self.rows)

    @property
    def memberships(self) -> dict[str, NDArray[np.bool_]]:
        """Which rows (N,) have each label."""
        return dict(zip(self.label_names, self.truth.T, strict=True))

    def points(self) -> dict[str, float]:
        """Return all figures over all labels, without intervals."""
        return multilabel_metrics.point_scores(self.truth, self.chosen, self.probabilities)

    def curves(self) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
        """Return ROC and precision-recall curves of the labels."""
        return multilabel_metrics.curves(self.truth, self.probabilities, label_names=self.label_names)

    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Return nothing: no label is taken for another one; see ``errors``."""
        return ()

    def errors(self) -> tuple[LabelErrors, ...]:
        """Return for each label how often it was given rightly, missed, and given wrongly."""
        counts = multilabel_metrics.confusions(self.truth, self.chosen).tolist()
        cuts = self.thresholds or (thresholds.USUAL,) * len(self.label_names)
        return tuple(
            LabelErrors(name, found, missed, wrong, cut)
            for name, ((_, wrong), (missed, found)), cut in zip(self.label_names, counts, cuts, strict=True)
        )

    def label_of(self, row: int) -> str:
        """Return the labels that a row has, for a person."""
        return self._named(self.truth[row])

    def prediction_of(self, row: int) -> str:
        """Return the labels that a row was given, for a person."""
        return self._named(self.chosen[row])

    def _named(self, has: NDArray[np.bool_]) -> str:
        return ", ".join(itertools.compress(self.label_names, has)) or NO_LABEL

    def columns(self, block: slice) -> list[Any]:
        """Return labels and predictions, as lists of names, and the highest probability of some rows."""
        had, given = (
            [list(itertools.compress(self.label_names, row)) for row in matrix[block]]
            for matrix in (self.truth, self.chosen)
        )
        return [had, given, self.probabilities[block].max(axis=1)]

    def ahead_of(self, other: MultiLabelJudged, resamples: int, seed: int) -> Difference:
        """Return by how much the macro F1 exceeds another's on the same rows."""
        return paired.f1_difference(
            self.truth, self.chosen, other.chosen, units=self.units, resamples=resamples, seed=seed
        )


Fitted = tuple[str, Floats, Floats]
"""A method's description, and its probabilities of the validation rows and of the rows to score."""


def baselines(
    judged: MultiLabelJudged, train: Split, validation: Split, *, resamples: int, seed: int
) -> tuple[Baseline, ...]:
    """Train the cheap methods on the training split and score them on the same rows.

    Their thresholds are fitted on the validation split, as the classifier's are.
    """
    truth = label_matrix(validation.labels, len(judged.label_names))
    found = []
    methods: Sequence[tuple[str, Callable[..., Fitted | None]]] = (
        ("label frequencies", _frequencies),
        ("TF-IDF + logistic regression", _tfidf),
    )
    for name, method in methods:
        started = time.perf_counter()
        result = method(train, validation, judged.rows, len(judged.label_names))
        if result is None:
            continue
        description, held_out, probabilities = result
        cuts = thresholds.fit(truth, held_out)
        theirs = MultiLabelJudged(
            judged.rows, judged.label_names, probabilities, above_thresholds(probabilities, cuts), cuts
        )
        seconds = time.perf_counter() - started
        scores, ahead = theirs.scores(resamples, seed).metrics, judged.ahead_of(theirs, resamples, seed)
        found.append(Baseline(name, description, scores, seconds, ahead.interval, ahead.p_value))
    return tuple(found)


def _frequencies(train: Split, validation: Split, rows: Split, classes: int) -> Fitted:
    """Give every row the label frequencies of the training split."""
    shares = np.asarray(train.class_counts(classes), np.float64) / len(train)
    words = "gives a label to all rows or to none, whichever has the better F1 on the validation split"
    return words, np.tile(shares, (len(validation), 1)), np.tile(shares, (len(rows), 1))


def _tfidf(train: Split, validation: Split, rows: Split, classes: int) -> Fitted | None:
    """Fit a linear model for each label on word and word-pair counts; ``None`` where the texts hold no words."""
    vectorizer, matrix = tfidf.vectorized(train.texts)
    if matrix is None:
        return None
    truth, held_out = label_matrix(train.labels, classes), vectorizer.transform(validation.texts)
    wanted = label_matrix(validation.labels, classes)
    best: tuple[float, float, Any, Floats] | None = None
    for strength in tfidf.STRENGTHS:
        model = _one_vs_rest(matrix, truth, strength)
        probabilities = np.asarray(model.predict_proba(held_out))
        score = multilabel_metrics.validation_scores(wanted, probabilities)["f1_macro"] if len(validation) else 0.0
        # On ties the stronger regularisation wins: it comes first.
        if best is None or score > best[0]:
            best = score, strength, model, probabilities
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    _, strength, model, probabilities = best
    words = f"words and word pairs, one model a label, C = {strength:g} chosen on the validation split"
    return words, probabilities, np.asarray(model.predict_proba(vectorizer.transform(rows.texts)))


def _one_vs_rest(matrix: Any, truth: Decisions, strength: float) -> Any:
    from sklearn.multiclass import OneVsRestClassifier

    with warnings.catch_warnings():
        # A label that all or none of the rows have needs no model.
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples|Label not .*")
        return OneVsRestClassifier(tfidf.logistic(strength)).fit(matrix, truth.astype(int))
