"""Rows that must stay together: those of a group, those of a cluster of near-duplicates, and both combined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.ledger import MAIN
from textlora.preparation.likeness import Likeness
from textlora.preparation.rows import Rows
from textlora.similarity import Forest


def find_units(rows: Rows, likeness: Likeness | None) -> NDArray[np.int32] | None:
    """Return the first row of what each row (N,) must stay together with, or None where all rows are free."""
    main = rows.kept(MAIN)
    if likeness is not None and not (likeness.clustered & main).any():
        likeness = None
    if rows.groups is None:
        return likeness.clusters if likeness is not None else None
    forest = Forest(len(rows), _first_of_group(rows.groups, main))
    if likeness is not None:
        members = np.flatnonzero(likeness.clustered & main)
        forest.unite(np.stack([members, likeness.clusters[members]], axis=1).astype(np.int64))
    return forest.roots()


def _first_of_group(groups: NDArray[np.uint64], main: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the first row of each main row's group (N,); other rows stand for themselves."""
    found = np.arange(len(groups), dtype=np.int32)
    places = np.flatnonzero(main)
    _, first, numbers = np.unique(groups[places], return_index=True, return_inverse=True)
    found[places] = places[first][numbers]
    return found


def count_groups(rows: Rows) -> int:
    """Return how many groups the main rows have."""
    return len(np.unique(rows.groups[rows.kept(MAIN)])) if rows.groups is not None else 0
