"""Cross-validation: what classifiers that have not seen a row say of it.

Every member, a way to see the texts, has a linear classifier for each fold, trained on the other folds. The
members' answers are pooled: p ~ product of p_m ^ w_m, the logarithmic opinion pool (Genest and Zidek 1986,
"Combining probability distributions"), with the weights that fit the given labels best, so that the
pooled probabilities are calibrated too.

Letters in shapes: N rows, C classes, M members.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora.auditing.members import Member
from textlora.tasks import TASKS, Decisions, Floats
from textlora.types import Task

MOST_TRAINED = 50_000
"""Rows that a classifier is trained on at most, drawn at random; more take memory and hardly help a linear one."""
BLOCK = 4_096
LEAST = 1e-6
"""Probabilities below count as this, so that one sure member cannot outvote all others."""
MOST_WEIGHT = 4.0
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Rows that are divided into folds.

    Attributes:
        truth: (N, C) the given labels.
        folds: (N,) the fold of each row, from 0.
        task: whether a row has one label or several.
        seed: of the rows that are drawn where there are too many to train on.
    """

    truth: Decisions
    folds: NDArray[np.int8]
    task: Task
    seed: int

    def out_of_fold(self, member: Member, tell: Tell) -> Floats:
        """Return the probabilities (N, C) of all rows by classifiers that were trained on other folds.

        The strength of regularisation is the one with the smallest log loss on the first fold.

        Args:
            member: gives the features.
            tell: called with classifiers trained and all of them.
        """
        count = int(self.folds.max()) + 1
        total = count - 1 + len(member.strengths)
        found = np.zeros(self.truth.shape)
        held_out = self.folds == 0
        tried: list[tuple[float, float, Floats]] = []
        for number, strength in enumerate(member.strengths, start=1):
            answers = self._answers(member, strength, 0)
            tried.append((_loss(self.truth[held_out], answers, self.task), strength, answers))
            tell(number, total)
        # Of equals the stronger regularisation: it comes first.
        _, best, found[held_out] = min(tried, key=lambda one: one[0])
        for fold in range(1, count):
            found[self.folds == fold] = self._answers(member, best, fold)
            tell(len(member.strengths) + fold, total)
        return found

    def _answers(self, member: Member, strength: float, fold: int) -> Floats:
        """Return the probabilities of a fold's rows (n, C) by a classifier trained on the other folds."""
        training, held_out = np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)
        if len(training) > MOST_TRAINED:
            drawn = np.random.default_rng([self.seed, fold]).choice(training, MOST_TRAINED, replace=False)
            training = _with_every_label(drawn, training, self.truth)
        model, places = self._fit(member.classifier(strength), member.rows(training), training)
        found = np.zeros((len(held_out), self.truth.shape[1]))
        for start in range(0, len(held_out), BLOCK):
            rows = held_out[start : start + BLOCK]
            found[start : start + len(rows), places] = model.predict_proba(member.rows(rows))
        return found

    def _fit(self, classifier: Any, features: Any, rows: NDArray[np.intp]) -> tuple[Any, NDArray[np.intp]]:
        """Return a fitted classifier and the class of each of its columns."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.multiclass import OneVsRestClassifier

        with warnings.catch_warnings():
            # What has not converged yet is good enough to rank by.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if self.task == "single_label":
                model = classifier.fit(features, self.truth[rows].argmax(axis=1))
                return model, np.asarray(model.classes_)
            # A label that all training rows have, or none, is answered without a model.
            warnings.filterwarnings("ignore", message="Label .* is present in all", category=UserWarning)
            model = OneVsRestClassifier(classifier).fit(features, self.truth[rows].astype(np.int8))
            return model, np.arange(self.truth.shape[1])

    def pool(self, members: Sequence[Floats]) -> tuple[Floats, tuple[float, ...]]:
        """Return the pooled probabilities (N, C) of several members' (N, C), and the members' weights.

        The given labels choose the weights: a number a member, from all rows.
        """
        from scipy.optimize import minimize

        evidence = np.stack([_evidence(one, self.task) for one in members])
        probabilities = TASKS[self.task].probabilities

        def loss(weights: NDArray[np.float64]) -> float:
            return _loss(self.truth, probabilities(np.tensordot(weights, evidence, 1)), self.task)

        start = np.full(len(members), 1 / len(members))
        best = minimize(loss, start, method="L-BFGS-B", bounds=[(0.0, MOST_WEIGHT)] * len(members)).x
        return probabilities(np.tensordot(best, evidence, 1)), tuple(best.tolist())


def _with_every_label(drawn: NDArray[np.intp], training: NDArray[np.intp], truth: Decisions) -> NDArray[np.intp]:
    """Return the drawn rows and a training row of each label that none of them has."""
    missing = np.flatnonzero(~truth[drawn].any(axis=0) & truth[training].any(axis=0))
    more = [training[truth[training, label]][0] for label in missing.tolist()]
    return np.unique(np.concatenate([drawn, np.array(more, np.intp)]))


def _loss(truth: Decisions, probabilities: Floats, task: Task) -> float:
    """Return the mean negative log-likelihood of the rows; of all their labels where they may have several."""
    safe = np.clip(probabilities, LEAST, 1 - LEAST)
    absent = 0.0 if task == "single_label" else np.log1p(-safe)
    return float(-np.where(truth, np.log(safe), absent).sum(axis=1).mean())


def _evidence(probabilities: Floats, task: Task) -> Floats:
    """Return logits (N, C) whose probabilities these are."""
    safe = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.log(safe) if task == "single_label" else np.log(safe) - np.log1p(-safe)
