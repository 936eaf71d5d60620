"""Near-duplicates with different labels, and texts that are like no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora import similarity
from textlora.similarity import Sets
from textlora.tasks import Decisions

NEIGHBOURS = 10
REFERENCES = 20_000
"""Rows among which neighbours are looked for at most."""
SPREADS = 4.0
"""Distances between the quartiles that an outlier lies beyond the upper one."""
MOST_OUTLIERS = 20
COMPARED = 50
"""Rows of a cluster that are compared with each other at most; templates make large ones."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row with another label than its near-duplicates.

    Attributes:
        row: its place.
        similar: the place of the row with another label that is most like it.
        likeness: share of their character 5-grams that both have.
        labels: the labels that most of its near-duplicates have.
        alone: whether fewer of them have the row's label than have ``labels``.
    """

    row: int
    similar: int
    likeness: float
    labels: tuple[int, ...]
    alone: bool


def find_conflicts(clusters: NDArray[np.int32], truth: Decisions, texts: Sequence[str]) -> list[Conflict]:
    """Return the rows whose label is not that of most of their near-duplicates; in a tie, all of them.

    Args:
        clusters: (N,) the first row of what each row is a near-duplicate of, possibly itself.
        truth: (N, C) the given labels.
        texts: (N,) the cleaned texts.
    """
    found: list[Conflict] = []
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > 1 and (truth[members] != truth[members[0]]).any():
            found += _in_cluster(members, truth, texts)
    return found


def _in_cluster(members: NDArray[np.intp], truth: Decisions, texts: Sequence[str]) -> list[Conflict]:
    sets, numbers, counts = np.unique(truth[members], axis=0, return_inverse=True, return_counts=True)
    numbers, most = numbers.ravel(), counts.max()
    tied = int((counts == most).sum()) > 1
    found = []
    for place in np.flatnonzero((counts[numbers] < most) | tied).tolist():
        others = np.flatnonzero(numbers != numbers[place])[:COMPARED]
        likeness = _likeness(texts, int(members[place]), members[others])
        nearest = others[likeness.argmax()]
        alone = bool(counts[numbers[place]] < most)
        chosen = int(counts.argmax()) if alone else numbers[nearest]
        labels = tuple(np.flatnonzero(sets[chosen]).tolist())
        found.append(Conflict(int(members[place]), int(members[nearest]), float(likeness.max()), labels, alone))
    return found


def _likeness(texts: Sequence[str], row: int, others: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the Jaccard similarity (n,) of a row's text and those of some others."""
    shingles = similarity.shingle([texts[row], *(texts[other] for other in others.tolist())])
    pairs = np.stack([np.zeros(len(others), np.int64), np.arange(1, len(others) + 1)], axis=1)
    return similarity.jaccard(Sets.of(shingles), pairs)


def find_outliers(states: NDArray[np.float32], clusters: NDArray[np.int32], *, seed: int) -> NDArray[np.intp]:
    """Return the rows that are far from all others, the farthest first.

    Far is the mean cosine distance to the ten nearest other rows that are no near-duplicates, well beyond that of
    most rows.

    Args:
        states: (N, H) what an encoder makes of each text.
        clusters: (N,) the first row of what each row is a near-duplicate of, possibly itself.
        seed: of the rows that others are compared with where there are too many.
    """
    from sklearn.neighbors import NearestNeighbors

    references = np.unique(clusters).astype(np.intp)
    if len(references) > REFERENCES:
        references = np.sort(np.random.default_rng(seed).choice(references, REFERENCES, replace=False))
    # One more, since a row may find its own cluster.
    count = min(NEIGHBOURS + 1, len(references))
    distances, places = NearestNeighbors(n_neighbors=count, metric="cosine").fit(states[references]).kneighbors(states)
    own = clusters[references[places]] == clusters[:, None]
    mean = np.where(own, 0.0, distances).sum(axis=1) / np.maximum((~own).sum(axis=1), 1)
    low, high = np.quantile(mean, (0.25, 0.75))
    far = np.argsort(-mean, kind="stable")[:MOST_OUTLIERS]
    return np.asarray(far[mean[far] > high + SPREADS * (high - low)])
