"""Scores of multi-label decisions in plain numpy, each with a 95 % bootstrap interval.

Letters in shapes: N rows, C classes, B resamples worked on together. They equal scikit-learn's with
``zero_division=0``; the bootstrap draws N of the N rows with replacement, as ``metrics`` does.

Micro scores count all (row, label) pairs together, so that frequent labels weigh more; macro scores
are the plain mean over the labels. Hamming loss is the share of pairs that are wrong; subset accuracy
(called ``accuracy``) the share of rows with all labels right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora import metrics, thresholds
from textlora.metrics import Floats, Scores
from textlora.types import ClassScores, Curve, Interval

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
    values |= _ranked(_rankings(truth, probabilities), weights)
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


def bootstrap(
    truth: Decisions,
    chosen: Decisions,
    probabilities: Floats,
    *,
    label_names: Sequence[str],
    resamples: int = metrics.RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score multi-label decisions, every figure with its 95 % percentile interval.

    Args:
        truth: (N, C), at least one row.
        chosen: (N, C).
        probabilities: (N, C) in the order of ``label_names``.
        label_names: C names.
        resamples: how many times the rows are drawn again.
        seed: same seed, same intervals.

    Returns:
        Scores over all classes and per class. A resample in which a score is undefined does not
        count towards that score's interval.
    """
    pairs, rankings = _Pairs.of(truth, chosen, probabilities), _rankings(truth, probabilities)
    drawn = metrics._collect(
        {**_overall(pairs, block), **_per_class(pairs, block), **_ranked(rankings, block)}
        for block in _blocks(len(truth), resamples, seed)
    )
    values = point_scores(truth, chosen, probabilities)
    figures = {name: metrics._interval(value, drawn[name]) for name, value in values.items()}
    return Scores(figures, _class_scores(pairs, drawn, label_names))


def advantage(
    truth: Decisions, ours: Decisions, theirs: Decisions, *, resamples: int = metrics.RESAMPLES, seed: int = 0
) -> Interval:
    """Return by how much our macro F1 exceeds theirs on the same rows, with its 95 % interval.

    Both are judged on the same resampled rows, so that rows that are hard for both do not blur the difference.

    Args:
        truth: (N, C), the labels that the rows have.
        ours: (N, C), the labels that we give.
        theirs: (N, C), the labels that they give.
        resamples: how many times the rows are drawn again.
        seed: same seed, same interval.
    """
    pairs = [_Pairs.of(truth, chosen, truth.astype(float)) for chosen in (ours, theirs)]

    def difference(weights: Floats) -> Floats:
        first, second = (_per_class(each, weights)["f1"].mean(axis=1) for each in pairs)
        return np.asarray(first - second)

    drawn = np.concatenate([difference(block) for block in _blocks(len(truth), resamples, seed)])
    return metrics._interval(float(difference(np.ones((1, len(truth))))[0]), drawn)


def confusions(truth: Decisions, chosen: Decisions) -> NDArray[np.int64]:
    """Return (C, 2, 2) counts: for each class rows without and with it (down), not given and given (across)."""
    cells = [[~truth & ~chosen, ~truth & chosen], [truth & ~chosen, truth & chosen]]
    return np.moveaxis(np.array([[cell.sum(axis=0) for cell in row] for row in cells]), -1, 0)


def curves(
    truth: Decisions, probabilities: Floats, *, label_names: Sequence[str]
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the ROC and the precision-recall curve of each class that has rows with and without it."""
    roc: list[Curve] = []
    precision_recall: list[Curve] = []
    for place, name in enumerate(label_names):
        data = truth[:, place], probabilities[:, place]
        if 0 < data[0].sum() < len(truth):
            roc.append(metrics._curve(name, metrics.roc_points, metrics._area_under_roc, data))
            precision_recall.append(
                metrics._curve(name, metrics.precision_recall_points, metrics._average_precision, data)
            )
    return tuple(roc), tuple(precision_recall)


def _blocks(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    return metrics._resampled_weights(rows, resamples, seed)


def _per_class(pairs: _Pairs, weights: Floats) -> dict[str, Floats]:
    """Return ``precision``, ``recall`` and ``f1`` (B, C) for row weights (B, N)."""
    hits, given, had = (weights @ counts for counts in (pairs.hits, pairs.given, pairs.had))
    return _ratios(hits, given, had)


def _ratios(hits: Floats, given: Floats, had: Floats) -> dict[str, Floats]:
    return {
        "precision": metrics._ratio(hits, given),
        "recall": metrics._ratio(hits, had),
        "f1": metrics._ratio(2 * hits, given + had),
    }


def _overall(pairs: _Pairs, weights: Floats) -> dict[str, Floats]:
    """Return the scores over all classes (B,) for row weights (B, N)."""
    hits, given, had = (weights @ counts for counts in (pairs.hits, pairs.given, pairs.had))
    right, wrong, loss = (weights @ pairs.rows / weights.sum(axis=1, keepdims=True)).T
    micro = _ratios(hits.sum(axis=1), given.sum(axis=1), had.sum(axis=1))
    return {
        "accuracy": right,
        "hamming_loss": wrong,
        **{f"{name}_micro": values for name, values in micro.items()},
        **{f"{name}_macro": values.mean(axis=1) for name, values in _ratios(hits, given, had).items()},
        "log_loss": loss,
    }


def _rankings(truth: Decisions, probabilities: Floats) -> list[metrics._Ranking]:
    return [metrics._ranking(truth[:, place], probabilities[:, place]) for place in range(truth.shape[1])]


def _ranked(rankings: Sequence[metrics._Ranking], weights: Floats) -> dict[str, Floats]:
    counts = [ranking.accumulate(weights) for ranking in rankings]
    return {
        "roc_auc": metrics._mean_defined(np.stack([metrics._area_under_roc(*pair) for pair in counts])),
        "average_precision": metrics._mean_defined(np.stack([metrics._average_precision(*pair) for pair in counts])),
    }


def _class_scores(pairs: _Pairs, drawn: Mapping[str, Floats], label_names: Sequence[str]) -> tuple[ClassScores, ...]:
    single = _per_class(pairs, np.ones((1, len(pairs.hits))))

    def figure(name: str, place: int) -> Interval:
        return metrics._interval(float(single[name][0, place]), drawn[name][:, place])

    return tuple(
        ClassScores(
            label,
            figure("precision", place),
            figure("recall", place),
            figure("f1", place),
            int(pairs.had[:, place].sum()),
        )
        for place, label in enumerate(label_names)
    )
