"""Scores of multi-label decisions in plain numpy, each with a 95 % interval.

Letters in shapes: N rows, C classes, B resamples worked on together. They equal scikit-learn's with
``zero_division=0``. What is a share (of rows, or of answers) has a closed interval, see ``intervals``;
the others have one from the bootstrap, see ``resampling``. The answers of a row belong together:
where a share counts answers, its effective number of answers is estimated from the rows.

Micro scores count all (row, label) pairs together, so that frequent labels weigh more; macro scores
are the plain mean over the labels. Hamming loss is the share of pairs that are wrong; subset accuracy
(called ``accuracy``) the share of rows with all labels right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora import intervals, metrics, ranking, thresholds
from textlora.confusion import Floats, ratios
from textlora.metrics import Scores
from textlora.ranking import Ranking
from textlora.resampling import RESAMPLES, Units, collect
from textlora.types import Curve, Interval

Decisions = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What each row contributes: hits, labels given and labels had (N, C), and (N, 3) its own figures."""

    hits: Floats
    given: Floats
    had: Floats
    rows: Floats
    """All labels right, share of wrong labels, log loss."""

    @classmethod
    def of(cls, truth: Decisions, chosen: Decisions, probabilities: Floats) -> _Pairs:
        wrong = truth != chosen
        rows = np.stack([~wrong.any(axis=1), wrong.mean(axis=1), row_losses(truth, probabilities)], axis=1)
        return cls((truth & chosen).astype(float), chosen.astype(float), truth.astype(float), rows.astype(float))


def row_losses(truth: Decisions, probabilities: Floats) -> Floats:
    """Return each row's mean negative log-probability of its yes and no answers: (N,) from (N, C)."""
    step = np.finfo(np.float64).eps
    right = np.where(truth, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(right, step, 1)).mean(axis=1))


def point_scores(truth: Decisions, chosen: Decisions, probabilities: Floats) -> dict[str, float]:
    """Return every score over all classes, without intervals.

    Args:
        truth: (N, C), the labels that the rows have.
        chosen: (N, C), the labels that were given.
        probabilities: (N, C).

    Returns:
        ``accuracy`` (subset accuracy), ``hamming_loss``, precision, recall and F1 in ``_micro`` and
        ``_macro``, ``roc_auc`` and ``average_precision`` (mean over the classes that define them), and
        ``log_loss`` (mean over rows and classes). A score that these rows do not define is absent.
    """
    weights = np.ones((1, len(truth)))
    values = _overall(_Pairs.of(truth, chosen, probabilities), weights)
    values |= ranking.mean_scores(_rankings(truth, probabilities), weights)
    return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])}


def validation_scores(truth: Decisions, probabilities: Floats) -> dict[str, float]:
    """Return what training watches: ``accuracy``, ``f1_macro`` and ``f1_micro``.

    Decided with the thresholds that fit these rows best, since those are what the classifier will use:
    at 0.5 a rare label is hardly ever given in the first epochs, and its F1 would be 0 whatever was learnt.
    """
    truth = np.asarray(truth, np.bool_)
    chosen = probabilities >= np.asarray(thresholds.fit(truth, probabilities))
    scores = _overall(_Pairs.of(truth, chosen, probabilities), np.ones((1, len(truth))))
    return {name: float(scores[name][0]) for name in ("accuracy", "f1_macro", "f1_micro")}


def scores(  # noqa: PLR0913 - the rows, their units, and two switches with defaults
    truth: Decisions,
    chosen: Decisions,
    probabilities: Floats,
    *,
    label_names: Sequence[str],
    units: Units | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score multi-label decisions, every figure with its 95 % interval.

    Args:
        truth: (N, C), at least one row.
        chosen: (N, C).
        probabilities: (N, C) in the order of ``label_names``.
        label_names: C names.
        units: which rows resemble each other and are drawn together; without it each is its own.
        resamples: how many times the rows are drawn again.
        seed: same seed, same intervals.

    Returns:
        Scores over all classes and per class. A resample in which a score is undefined does not
        count towards that score's interval.
    """
    drawn_units = (units or Units(len(truth))).judged((truth == chosen).all(axis=1))
    pairs, rankings = _Pairs.of(truth, chosen, probabilities), _rankings(truth, probabilities)
    drawn = collect(
        {**_overall(pairs, block), **ranking.mean_scores(rankings, block)}
        for block in drawn_units.weights(resamples, seed)
    )
    shares = metrics.class_shares(zip(truth.T, chosen.T, strict=True), drawn_units)
    doubts = {**metrics.macro_doubts(shares), **ranking.doubts(rankings, drawn_units)}
    figures = {
        name: drawn_units.interval(
            value, drawn[name], bounds=metrics.bounds_of(name), doubt=doubts.get(name), scale=metrics.SCALES.get(name)
        )
        for name, value in point_scores(truth, chosen, probabilities).items()
    }
    figures |= _closed(truth, chosen, drawn_units)
    return Scores(figures, metrics.class_scores(label_names, shares, truth.sum(axis=0)))


def _closed(truth: Decisions, chosen: Decisions, units: Units) -> dict[str, Interval]:
    """Return the scores that are shares of rows or of answers."""
    hits, given, had = ((counts).sum(axis=1) for counts in (truth & chosen, chosen, truth))
    answers = np.full(len(truth), truth.shape[1])
    return {
        "accuracy": units.ratio((truth == chosen).all(axis=1), np.ones(len(truth))),
        "hamming_loss": units.ratio((truth != chosen).sum(axis=1), answers),
        "precision_micro": units.ratio(hits, given),
        "recall_micro": units.ratio(hits, had),
        "f1_micro": intervals.f1_from_overlap(units.ratio(hits, given + had - hits)),
    }


def confusions(truth: Decisions, chosen: Decisions) -> NDArray[np.int64]:
    """Return (C, 2, 2) counts: for each class rows without and with it (down), not given and given (across)."""
    cells = [[~truth & ~chosen, ~truth & chosen], [truth & ~chosen, truth & chosen]]
    return np.moveaxis(np.array([[cell.sum(axis=0) for cell in row] for row in cells]), -1, 0)


def curves(
    truth: Decisions, probabilities: Floats, *, label_names: Sequence[str]
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the ROC and the precision-recall curve of each class that has rows with and without it."""
    return ranking.curves(list(zip(label_names, truth.T, probabilities.T, strict=True)))


def per_class(hits: Floats, given: Floats, had: Floats, weights: Floats) -> dict[str, Floats]:
    """Return ``precision``, ``recall`` and ``f1`` (B, C) for row weights (B, N) from what each row has (N, C)."""
    return ratios(weights @ hits, weights @ given, weights @ had)


def _overall(pairs: _Pairs, weights: Floats) -> dict[str, Floats]:
    """Return the scores over all classes (B,) for row weights (B, N)."""
    hits, given, had = (weights @ counts for counts in (pairs.hits, pairs.given, pairs.had))
    right, wrong, loss = (weights @ pairs.rows / weights.sum(axis=1, keepdims=True)).T
    micro = ratios(hits.sum(axis=1), given.sum(axis=1), had.sum(axis=1))
    return {
        "accuracy": right,
        "hamming_loss": wrong,
        **{f"{name}_micro": values for name, values in micro.items()},
        **{f"{name}_macro": values.mean(axis=1) for name, values in ratios(hits, given, had).items()},
        "log_loss": loss,
    }


def _rankings(truth: Decisions, probabilities: Floats) -> list[Ranking]:
    return [Ranking.of(truth[:, place], probabilities[:, place]) for place in range(truth.shape[1])]
