"""MinHash signatures of sets, and their bands, whose hashes similar sets are likely to share.

A signature has ``BINS`` numbers, and two sets agree in each with a probability of their Jaccard
similarity (Broder 1997). Each n-gram is hashed once and falls into one bin, as in one-permutation
hashing (Li, Owen and Zhang 2012), rather than once for every bin. Small sets would leave bins
empty, so they throw their n-grams again, and a later throw counts only where no earlier one fell
(Dahlgaard, Knudsen and Thorup 2017, "Fast similarity sketching"). What is left empty borrows from
the next bin (Shrivastava and Li 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora.similarity.shingles import Shingles, mix

BINS = 256
RECALL = 0.999
"""Chance at least that a pair exactly at the threshold shares a band."""

_BIN_BITS = 8
_VALUE_BITS = 44
_EMPTY = np.uint64((1 << 64) - 1)
MOST_TEXTS = 1 << (64 - _BIN_BITS - _VALUE_BITS)
"""Texts that can be sketched at once."""
_THROWN = 3 * BINS
"""n-grams that a text throws at least, in as many rounds as that takes; leaves 5 % of the bins empty."""
_ROUND = 0xD1B54A32D192ED03
_WHOLE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Banding:
    """How signatures are cut: ``bands`` of ``rows`` numbers each."""

    bands: int
    rows: int

    def chance(self, similarity: float) -> float:
        """Return the chance that two sets of a Jaccard similarity share a band."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def banding(threshold: float) -> Banding:
    """Return the narrowest banding that finds pairs at the threshold with ``RECALL``: it has the fewest false ones."""
    choices = [Banding(BINS // rows, rows) for rows in range(1, 17)]
    return max((choice for choice in choices if choice.chance(threshold) >= RECALL), key=lambda choice: choice.rows)


def sketch(shingles: Shingles, cut: Banding) -> NDArray[np.uint32]:
    """Return the hash of each band (bands, N)."""
    table = _signatures(shingles)
    hashes = np.zeros((len(shingles), cut.bands), np.uint64)
    for row in range(cut.rows):
        # Bins of a band lie far apart: neighbours may have borrowed from each other.
        hashes = mix(hashes + table[:, row * cut.bands : (row + 1) * cut.bands])
    return np.ascontiguousarray((hashes >> np.uint64(32)).astype(np.uint32).T)


def content_hashes(shingles: Shingles) -> NDArray[np.uint32]:
    """Return a hash of each text as it is compared (N,): texts with the same n-grams have the same one."""
    return (mix(np.add.reduceat(shingles.hashes, shingles.starts[:-1])) >> np.uint64(32)).astype(np.uint32)


def _signatures(shingles: Shingles) -> NDArray[np.uint64]:
    """Return the signatures (N, BINS)."""
    count = len(shingles)
    if count > MOST_TEXTS:
        raise ValueError(f"at most {MOST_TEXTS} texts can be sketched at once")
    table = np.full(count * BINS, _EMPTY)
    rounds = -(-_THROWN // shingles.lengths)
    texts = np.repeat(np.arange(count, dtype=np.uint64), shingles.lengths)
    hashes, last = shingles.hashes, np.repeat(rounds, shingles.lengths)
    for number in range(int(rounds.max())):
        if number:
            again = last > number
            if not again.all():
                texts, hashes, last = texts[again], hashes[again], last[again]
        _throw(table, texts, mix(hashes + np.uint64(number * _ROUND & _WHOLE)), number)
    return _densified(table.reshape(count, BINS))


def _throw(table: NDArray[np.uint64], texts: NDArray[np.uint64], hashes: NDArray[np.uint64], number: int) -> None:
    """Let every n-gram fall into a bin of its text: the smallest value stays, if the bin was empty before."""
    # Text, bin and value in one number: sorting is several times faster than ``np.minimum.at``.
    keys = texts << np.uint64(_BIN_BITS + _VALUE_BITS) | hashes >> np.uint64(64 - _BIN_BITS - _VALUE_BITS)
    keys.sort()
    places = (keys >> np.uint64(_VALUE_BITS)).astype(np.intp)
    first = np.flatnonzero(np.diff(places, prepend=-1))
    first = first[table[places[first]] == _EMPTY]
    table[places[first]] = keys[first] & np.uint64((1 << _VALUE_BITS) - 1) | np.uint64(number << _VALUE_BITS)


def _densified(table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the table with every empty bin filled from the next one that is not, around the end."""
    empty = table == _EMPTY
    if not empty.any():
        return table
    # Twice around: what follows the last bin is the first.
    source = np.where(np.tile(empty, 2), 2 * BINS, np.arange(2 * BINS))
    source = np.minimum.accumulate(source[:, ::-1], axis=1)[:, ::-1][:, :BINS] % BINS
    filled: NDArray[Any] = np.take_along_axis(table, source, axis=1)
    return filled
