"""The true similarity of pairs of texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.similarity.shingles import Shingles

_KEYS = 1 << 20
"""Hashes that are sorted at once."""
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Sets:
    """The different n-grams of N texts laid end to end, four bytes each.

    Attributes:
        hashes: (S,) 32 bits, sorted within each text.
        starts: (N + 1,) where each text begins.
    """

    hashes: NDArray[np.uint32]
    starts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many different n-grams each text has (N,)."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, shingles: Shingles) -> Sets:
        """Return the n-grams of each text once."""
        texts = np.repeat(np.arange(len(shingles), dtype=np.uint64), shingles.lengths)
        keys = np.unique(texts << _HALF | shingles.hashes >> _HALF)
        starts = np.searchsorted(keys, np.arange(len(shingles) + 1, dtype=np.uint64) << _HALF)
        return cls((keys & _LOW).astype(np.uint32), starts.astype(np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Sets]) -> Sets:
        """Return the texts of all parts, one part after the other."""
        sizes = np.concatenate([part.sizes for part in parts])
        return cls(np.concatenate([part.hashes for part in parts]), np.concatenate([[0], np.cumsum(sizes)]))


def jaccard(sets: Sets, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Jaccard similarity of the texts at each pair of places (P, 2): shared n-grams over all n-grams."""
    sizes = sets.sizes[pairs].sum(axis=1)
    # A piece ends with the pair that fills it.
    ends = np.searchsorted(np.cumsum(sizes), np.arange(_KEYS, sizes.sum() + _KEYS, _KEYS), side="right")
    bounds = np.unique(np.concatenate([[0], ends, [len(pairs)]])).tolist()
    found = [_shared(sets, pairs[start:end]) for start, end in itertools.pairwise(bounds)]
    shared = np.concatenate([np.zeros(0, np.int64), *found])
    similarity: NDArray[np.float64] = shared / (sizes - shared)
    return similarity


def _shared(sets: Sets, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many n-grams the two texts of each pair share (P,): those that occur twice among both."""
    sizes = sets.sizes[pairs].ravel()
    begins = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(begins[-1]) + np.repeat(sets.starts[pairs].ravel() - begins[:-1], sizes)
    numbers = np.repeat(np.arange(len(pairs), dtype=np.uint64), sizes.reshape(-1, 2).sum(axis=1))
    keys = numbers << _HALF | sets.hashes[places]
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]] >> _HALF
    return np.bincount(twice.astype(np.intp), minlength=len(pairs))
