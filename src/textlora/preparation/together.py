"""Which rows of prepared data must stay together: their groups, and the clusters of near-duplicates.

``prepare`` keeps of each row whether it has near-duplicates, not which. They are few, so they are found
again when rows are divided once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textlora import similarity
from textlora.preparation.likeness import COMPARED, EQUAL, GIANT_ROWS, GIANT_SHARE, LEAST_COMPARED, sizes_of
from textlora.similarity import Forest, Sets

_SKETCHED_ROWS = 4_096
_VERIFIED_PAIRS = 4_096


def find_together(
    texts: Sequence[str], groups: Sequence[str] | None, alike: Sequence[bool] | None, threshold: float
) -> NDArray[np.int32]:
    """Return the first row of what each row (N,) must stay together with; its own place where it is free.

    Args:
        texts: N texts.
        groups: the group of each row, where there are any; ``""`` is none.
        alike: which rows have a near-duplicate, where any has.
        threshold: similarity from which two texts are near-duplicates.
    """
    forest = Forest(len(texts))
    if groups is not None:
        forest.unite(_pairs_of_groups(groups))
    if alike is not None and threshold:
        members = np.flatnonzero(np.asarray(alike, np.bool_))
        roots = clusters([texts[place] for place in members.tolist()], threshold, rows=len(texts))
        forest.unite(np.stack([members, members[roots]], axis=1).astype(np.int64))
    return forest.roots()


def _pairs_of_groups(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return each grouped row with the first of its group (P, 2)."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(group, place), place) for place, group in enumerate(groups) if group]
    return np.array(pairs, np.int64).reshape(-1, 2)


def clusters(texts: Sequence[str], threshold: float, *, rows: int) -> NDArray[np.int32]:
    """Return the first text of each text's cluster (n,), the connected components of similar pairs.

    A cluster of more than a quarter of all ``rows`` comes from a template; it is divided at higher thresholds.
    """
    roots = _components(texts, threshold)
    while threshold < EQUAL:
        sizes = sizes_of(roots)[roots]
        giants = np.flatnonzero((sizes > GIANT_ROWS) & (sizes > GIANT_SHARE * rows))
        if not len(giants):
            break
        threshold = (1 + threshold) / 2 if threshold < 0.95 else EQUAL  # noqa: PLR2004 - as prepare does
        roots[giants] = giants[_components([texts[place] for place in giants.tolist()], threshold)]
    return roots


def _components(texts: Sequence[str], threshold: float) -> NDArray[np.int32]:
    forest = Forest(len(texts))
    if len(texts) < 2:  # noqa: PLR2004 - one is not like another
        return forest.roots()
    left = max(COMPARED * len(texts), LEAST_COMPARED)
    for band in _bands(texts, threshold):
        for candidates in similarity.candidate_pairs(band):
            pairs = np.unique(candidates[forest.roots(candidates[:, 0]) != forest.roots(candidates[:, 1])], axis=0)
            pairs = pairs[:left]
            left -= len(pairs)
            for start in range(0, len(pairs), _VERIFIED_PAIRS):
                part = pairs[start : start + _VERIFIED_PAIRS]
                forest.unite(part[_similarity(texts, part) >= threshold])
    return forest.roots()


def _bands(texts: Sequence[str], threshold: float) -> NDArray[np.uint32]:
    """Return the hashes of each band (bands, n); the first one is that of the whole text."""
    cut = similarity.banding(threshold)
    blocks = []
    for start in range(0, len(texts), _SKETCHED_ROWS):
        shingles = similarity.shingle(texts[start : start + _SKETCHED_ROWS])
        blocks.append(np.vstack([similarity.content_hashes(shingles), similarity.sketch(shingles, cut)]))
    return np.hstack(blocks)


def _similarity(texts: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    wanted, numbers = np.unique(pairs, return_inverse=True)
    sets = Sets.of(similarity.shingle([texts[place] for place in wanted.tolist()]))
    return similarity.jaccard(sets, numbers.reshape(-1, 2))
