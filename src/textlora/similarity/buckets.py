"""Pairs of rows that share a band."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 16
"""Rows after it in its bucket that a row is paired with, so that buckets up to 17 rows are paired in full."""
LEADERS = 8
"""First rows of a larger bucket that all its rows are paired with."""
_PIECE = 1 << 16
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def candidate_pairs(hashes: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of places (P, 2), the smaller one first, whose hashes (N,) are equal, in pieces.

    Of a large bucket each row is paired with its next neighbours and with the first rows, which
    bounds the pairs by 24 N; rows that are alike among themselves still hang together by these.
    """
    rows, starts = _shared(hashes)
    ends = np.append(starts[1:], len(rows))
    for start in range(0, len(rows), _PIECE):
        yield _pairs(rows, starts, ends, np.arange(start, min(start + _PIECE, len(rows))))


def _pairs(
    rows: NDArray[np.int64], starts: NDArray[np.intp], ends: NDArray[np.intp], places: NDArray[np.intp]
) -> NDArray[np.int64]:
    """Return the pairs in which the rows at some places (P,) are one."""
    bucket = np.searchsorted(starts, places, side="right") - 1
    found = []
    for step in range(1, NEIGHBOURS + 1):
        inside = places + step < ends[bucket]
        if not inside.any():
            break
        found.append(np.stack([rows[places[inside]], rows[places[inside] + step]], axis=1))
    for step in range(LEADERS):
        leader = starts[bucket] + step
        far = leader + NEIGHBOURS < places
        if not far.any():
            break
        found.append(np.stack([rows[leader[far]], rows[places[far]]], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _shared(hashes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the places of all hashes (N,) that are not alone, bucket after bucket, and where the buckets start."""
    # Hash and place in one number: sorting places by hash would take twice the memory.
    keys = np.empty(len(hashes), np.uint64)
    for start in range(0, len(keys), _PIECE):
        piece = slice(start, min(start + _PIECE, len(keys)))
        keys[piece] = hashes[piece].astype(np.uint64) << _HALF | np.arange(piece.start, piece.stop, dtype=np.uint64)
    keys.sort()
    equal = np.zeros(len(keys) + 1, np.bool_)
    for start in range(1, len(keys), _PIECE):
        piece = slice(start, min(start + _PIECE, len(keys)))
        equal[piece] = keys[piece] >> _HALF == keys[piece.start - 1 : piece.stop - 1] >> _HALF
    shared = np.flatnonzero(equal[1:] | equal[:-1])
    return (keys[shared] & _LOW).astype(np.int64), np.flatnonzero(~equal[shared])
