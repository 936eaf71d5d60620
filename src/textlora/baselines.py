"""Cheap methods for rows with one label each, trained on the training split; what a classifier has to beat.

N rows, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import tfidf
from textlora.types import Dataset, Label, Split

CHARACTERS = 64_000_000
"""Characters that TF-IDF is trained on, some 50,000 reviews: it takes about 14 bytes of memory for each."""
BLOCK = 8_192
"""Rows that are scored at once."""
Fitted = tuple[str, NDArray[np.float64]]
"""A method's description, and its probabilities of the rows to score (N, C)."""


def majority(dataset: Dataset, rows: Split) -> Fitted | None:
    """Give every row the class shares of the training split: the most frequent class wins."""
    counts = np.asarray(dataset.train.class_counts(len(dataset.label_names)), np.float64)
    often = dataset.label_names[int(counts.argmax())]
    return f"always says {often!r}, the most frequent label of the training split", np.tile(
        counts / counts.sum(), (len(rows), 1)
    )


def linear(dataset: Dataset, rows: Split) -> Fitted | None:
    """Fit a linear model on word and word-pair counts; ``None`` where the texts hold no words."""
    train = bounded(dataset.train, dataset.info.seed)
    vectorizer, matrix = tfidf.vectorized(train.texts)
    if matrix is None:
        return None
    model, choice = _chosen(matrix, train.labels, vectorizer, bounded(dataset.validation, dataset.info.seed))
    probabilities = np.zeros((len(rows), len(dataset.label_names)))
    for start in range(0, len(rows), BLOCK):
        block = vectorizer.transform(rows.texts[start : start + BLOCK])
        probabilities[start : start + BLOCK, model.classes_] = model.predict_proba(block)
    part = "" if len(train) == len(dataset.train) else f" of {len(train):,} of {len(dataset.train):,} training texts"
    return f"words and word pairs{part}, {choice}", probabilities


METHODS: tuple[tuple[str, Callable[[Dataset, Split], Fitted | None]], ...] = (
    ("majority class", majority),
    ("TF-IDF + logistic regression", linear),
)


def bounded(split: Split, seed: int) -> Split:
    """Return the split, or as many rows of each class, drawn at random, as stay within ``CHARACTERS``."""
    characters = sum(map(len, split.texts))
    if characters <= CHARACTERS:
        return split
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(split), np.bool_)
    for rows in _by_label(split.labels):
        # One row at least of every class.
        size = math.ceil(len(rows) * CHARACTERS / characters)
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
