"""Scores of a classifier in plain numpy, each with a 95 % interval.

Letters in shapes: N rows, C classes, B resamples worked on together, R resamples in all.

Conventions, the same as scikit-learn's with ``zero_division=0``: a quotient over nothing is 0
(precision of a class that is never predicted). With two classes the last label is the positive
one for ROC-AUC and average precision; with more, each class is held against the rest and the
mean is taken.

What is a share of rows (accuracy, precision, recall; F1 through the share it is made of) has a closed
interval, see ``intervals``. All other scores have one from the bootstrap, see ``resampling``:

* Scores that depend on the confusion matrix alone: where single rows are drawn, the resampled matrix is
  one multinomial draw over the C x C cells, which has exactly the same distribution.
* Scores that depend on the probabilities: a resample is a weight per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textlora import intervals, ranking
from textlora.confusion import Floats, Integers, cells, confusion_matrix, matthews, overall
from textlora.ranking import Ranking
from textlora.resampling import (
    FISHER,
    LOG,
    LOGIT,
    RESAMPLES,
    Doubt,
    Scale,
    Share,
    Units,
    block_sizes,
    collect,
    mean_doubt,
)
from textlora.types import ClassScores, Curve, Interval

SCALES: Mapping[str, Scale] = {
    "roc_auc": LOGIT,
    "average_precision": LOGIT,
    "log_loss": LOG,
    "f1_macro": LOGIT,
    "mcc": FISHER,
}
"""Scores whose resamples lie skew where they are good; the intervals were chosen by simulated coverage (``docs/log.md``)."""
BOUNDS: Mapping[str, tuple[float, float]] = {"mcc": (-1.0, 1.0), "log_loss": (0.0, np.inf)}
"""The lowest and the highest value of the scores that do not lie between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures of one classifier on one set of rows, with their intervals."""

    metrics: Mapping[str, Interval]
    classes: tuple[ClassScores, ...]


def row_losses(y_true: ArrayLike, probabilities: Floats) -> Floats:
    """Return each row's negative log-probability of its true class: (N,) from (N, C).

    Probabilities are kept one float step away from 0 and 1, so that no loss is infinite.
    """
    step = np.finfo(np.float64).eps
    labels = np.asarray(y_true, np.int64)
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], step, 1 - step)))


def _rankings(y_true: Integers, probabilities: Floats) -> list[Ranking]:
    """Return one ranking for two classes (the last is positive), else one per class."""
    classes = probabilities.shape[1]
    ranked = [classes - 1] if classes == 2 else range(classes)  # noqa: PLR2004 - two classes need one ranking
    return [Ranking.of(y_true == index, probabilities[:, index]) for index in ranked]


def _weighted_scores(rankings: Sequence[Ranking], losses: Floats, weights: Floats) -> dict[str, Floats]:
    """Return ``roc_auc``, ``average_precision`` and ``log_loss``, each (B,), for row weights (B, N)."""
    return {**ranking.mean_scores(rankings, weights), "log_loss": weights @ losses / weights.sum(1)}


# --- all figures --------------------------------------------------------------------------


def point_scores(y_true: ArrayLike, probabilities: Floats, predicted: ArrayLike | None = None) -> dict[str, float]:
    """Return every score over all classes, without intervals.

    Args:
        y_true: (N,) class indices.
        probabilities: (N, C).
        predicted: (N,) class indices; those with the highest probability by default, the first on ties.

    Returns:
        The keys of ``Evaluation.metrics``; a score that these rows do not define is absent.
    """
    labels = np.asarray(y_true, np.int64)
    counts = confusion_matrix(labels, _predicted(probabilities, predicted), classes=probabilities.shape[1])
    ranked = _weighted_scores(
        _rankings(labels, probabilities), row_losses(labels, probabilities), np.ones((1, len(labels)))
    )
    values = {name: float(value) for name, value in overall(counts).items()}
    values |= {name: float(value[0]) for name, value in ranked.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def validation_scores(y_true: ArrayLike, probabilities: Floats) -> dict[str, float]:
    """Return ``accuracy``, ``f1_macro`` and ``loss``: what training watches. Shapes (N,) and (N, C)."""
    labels = np.asarray(y_true, np.int64)
    scores = overall(confusion_matrix(labels, probabilities.argmax(1), classes=probabilities.shape[1]))
    loss = float(row_losses(labels, probabilities).mean())
    return {"accuracy": float(scores["accuracy"]), "f1_macro": float(scores["f1_macro"]), "loss": loss}


def _predicted(probabilities: Floats, predicted: ArrayLike | None) -> Integers:
    return np.asarray(probabilities.argmax(1) if predicted is None else predicted, np.int64)


def scores(  # noqa: PLR0913 - truth and answers, and how the rows are drawn
    y_true: ArrayLike,
    probabilities: Floats,
    predicted: ArrayLike | None = None,
    *,
    label_names: Sequence[str],
    units: Units | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score a classifier, every figure with its 95 % interval.

    Args:
        y_true: (N,) class indices, at least one row.
        probabilities: (N, C) in the order of ``label_names``.
        predicted: (N,) class indices; those with the highest probability by default, the first on ties.
        label_names: C names.
        units: which rows resemble each other and are drawn together; without it each is its own.
        resamples: how many times the rows are drawn again.
        seed: same seed, same intervals.

    Returns:
        Scores over all classes and per class. A resample in which a score is undefined does not
        count towards that score's interval. No figure is ever nan.
    """
    labels, given = np.asarray(y_true, np.int64), _predicted(probabilities, predicted)
    drawn_units = (units or Units(len(labels))).judged(labels == given)
    counts = confusion_matrix(labels, given, classes=len(label_names))
    rankings = _rankings(labels, probabilities)
    weighted = partial(_weighted_scores, rankings, row_losses(labels, probabilities))
    places = cells(labels, given, classes=len(counts))
    drawn = collect(map(overall, _resampled_matrices(places, counts, drawn_units, resamples, seed)))
    drawn |= collect(map(weighted, drawn_units.weights(resamples, seed)))
    shares = class_shares(((labels == place, given == place) for place in range(len(counts))), drawn_units)
    doubts = _doubts(counts, shares, rankings, drawn_units)
    figures = {
        name: drawn_units.interval(
            value, drawn[name], bounds=bounds_of(name), doubt=doubts.get(name), scale=SCALES.get(name)
        )
        for name, value in point_scores(labels, probabilities, given).items()
    }
    figures["accuracy"] = drawn_units.ratio(labels == given, np.ones(len(labels)))
    return Scores(figures, class_scores(label_names, shares, counts.sum(1)))


def bounds_of(name: str) -> tuple[float, float]:
    """Return the lowest and the highest value of a score."""
    return BOUNDS.get(name, (0.0, 1.0))


ClassShares = Mapping[str, Sequence[Share]]
"""``precision``, ``recall`` and ``f1`` of each class (C), with closed intervals."""


def class_shares(classes: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]], units: Units) -> ClassShares:
    """Return the shares of classes from which rows (N,) have each, and which are given it."""
    found: dict[str, list[Share]] = {"precision": [], "recall": [], "f1": []}
    for had, given in classes:
        hits, either = had & given, had | given
        found["precision"].append(Share(units.ratio(hits, given), units.effective(given)))
        found["recall"].append(Share(units.ratio(hits, had), units.effective(had)))
        found["f1"].append(Share(intervals.f1_from_overlap(units.ratio(hits, either)), units.effective(either)))
    return found


def class_scores(label_names: Sequence[str], shares: ClassShares, support: Integers) -> tuple[ClassScores, ...]:
    """Return the scores of each class (C) as nouns."""
    columns = ([share.interval for share in shares[name]] for name in ("precision", "recall", "f1"))
    return tuple(ClassScores(*column) for column in zip(label_names, *columns, support.tolist(), strict=True))


# --- what resamples do not show -------------------------------------------------------------


def _doubts(counts: Integers, shares: ClassShares, rankings: Sequence[Ranking], units: Units) -> dict[str, Doubt]:
    """Return what the resamples do not show of each score."""
    present = [share for share in shares["recall"] if share.units]
    macro = macro_doubts(shares)
    return {
        "balanced_accuracy": mean_doubt(present, classes=max(1, len(present))),
        **macro,
        "mcc": _correlation_doubt(
            counts, [share.interval for share in shares["recall"]], units, macro["f1_macro"].wider
        ),
        **ranking.doubts(rankings, units),
    }


def macro_doubts(shares: ClassShares) -> dict[str, Doubt]:
    """Return what the resamples do not show of the means over all classes."""
    # A class that is never predicted has no precision to be wrong about.
    return {
        f"{name}_macro": mean_doubt(found, classes=len(found), absent=name != "precision")
        for name, found in shares.items()
    }


def _correlation_doubt(counts: Integers, recalls: Sequence[Interval], units: Units, wider: float) -> Doubt:
    """Return the same for Matthews' correlation: where all rows are right or all get one label, it shows no spread."""
    had, given = counts.sum(1), counts.sum(0)
    value = float(matthews(counts))
    if (had > 0).sum() > 1 and np.trace(counts) == counts.sum():
        worst = max(np.flatnonzero(had).tolist(), key=lambda place: recalls[place].value - recalls[place].low)
        rows = had[worst] * (recalls[worst].value - recalls[worst].low)
        moved = _moved(counts, rows, (worst, worst), (worst, _largest(had, worst)))
        return Doubt(down=value - float(matthews(moved)))
    if (had > 0).sum() > 1 and (given > 0).sum() == 1:
        always = int(given.argmax())
        other, rows = _largest(had, always), units.unseen(np.ones(units.rows, np.bool_)) * counts.sum()
        right = _moved(counts, min(rows, had[other]), (other, always), (other, other))
        wrong = _moved(counts, min(rows, had[always]), (always, always), (always, other))
        return Doubt(down=max(0.0, value - float(matthews(wrong))), up=max(0.0, float(matthews(right)) - value))
    return Doubt(wider)


def _largest(rows: Integers, but: int) -> int:
    """Return the class with the most rows but for one."""
    return max((place for place in range(len(rows)) if place != but), key=lambda place: rows[place])


def _moved(counts: Integers, rows: float, start: tuple[int, int], end: tuple[int, int]) -> Floats:
    """Return the matrix with some rows moved from one cell to another."""
    found = counts.astype(np.float64)
    found[start] -= rows
    found[end] += rows
    return found


def _resampled_matrices(
    places: Integers, counts: Integers, units: Units, resamples: int, seed: int
) -> Iterator[NDArray[np.integer | np.floating]]:
    """Yield blocks (B, C, C) of resampled confusion matrices from the cells of the rows (N,)."""
    if units.grouped:
        for weights in units.weights(resamples, seed):
            yield np.stack([np.bincount(places, one, minlength=counts.size).reshape(counts.shape) for one in weights])
        return
    random = np.random.default_rng(seed)
    total, shares = int(counts.sum()), counts.ravel() / counts.sum()
    for size in block_sizes(resamples, counts.size):
        yield random.multinomial(total, shares, size=size).reshape(size, *counts.shape)


def curves(
    y_true: ArrayLike, probabilities: Floats, *, label_names: Sequence[str]
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the ROC and the precision-recall curve of each class, see ``ranking.curves``.

    With two classes only the last label has a curve.
    """
    labels = np.asarray(y_true, np.int64)
    classes = list(enumerate(label_names))
    drawn = classes[-1:] if len(classes) == 2 else classes  # noqa: PLR2004 - one curve tells all of two classes
    return ranking.curves([(name, labels == place, probabilities[:, place]) for place, name in drawn])
