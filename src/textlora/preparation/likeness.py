"""Which rows are near-duplicates of each other, found without holding the texts.

    sketching: every text's band hashes go to a file -> a band at a time: candidate pairs
    -> their texts, read again: true similarity -> clusters, and links between the files

Rows of the main source hang together in clusters, the connected components of the pairs that are
alike. A row of a given file is never moved, so only its links with main rows are kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from textlora import hardware, similarity, storage
from textlora.errors import ResourceError
from textlora.preparation.grouped import LabelledRows
from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.rows import Rows
from textlora.similarity import Banding, Forest, Sets

MOST_ROWS = 10_000_000
"""Rows among which near-duplicates are looked for: the search takes some 30 bytes of memory for each, and time."""
COMPARED = 32
"""Pairs that are compared at most, for each row; texts of one template would have no end of them."""
LEAST_COMPARED = 1_000_000
GIANT_SHARE = 0.25
"""A cluster of more than this share of all rows, or of those with one label, is held together by a template."""
GIANT_ROWS = 20
"""Smaller clusters are none."""
EQUAL = 1.0
FORESEEN_GB = 0.05
"""Less than this is not foreseen: writing it fails at once, and says that the disk is full."""

_SKETCHED_CHARACTERS = 1 << 18
_SKETCHED_ROWS = 4_096
_VERIFIED_SHINGLES = 1 << 24
_VERIFIED_PAIRS = 1 << 16
_MAIN_MAIN, _MAIN_GIVEN = 0, 1


@dataclass(frozen=True, slots=True)
class Likeness:
    """What near-duplicates there are. N rows, L links.

    Attributes:
        clusters: (N,) the first row of each row's cluster; rows that are alone stand for themselves.
        links: (L, 2) a row of the main source and one of a given file that are near-duplicates.
        tightened: rows of clusters that were too large, which were divided at a higher threshold.
        exhausted: whether so many pairs looked alike that not all were compared.
    """

    clusters: NDArray[np.int32]
    links: NDArray[np.int64]
    tightened: int = 0
    exhausted: bool = False

    @property
    def clustered(self) -> NDArray[np.bool_]:
        """Which rows (N,) share their cluster with another one."""
        return sizes_of(self.clusters)[self.clusters] > 1

    @property
    def alike(self) -> NDArray[np.bool_]:
        """Which rows (N,) have a near-duplicate anywhere."""
        found = self.clustered
        found[self.links.ravel()] = True
        return found

    def leaked(self, training: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows (N,) of given files have a near-duplicate among the training rows (N,)."""
        found = np.zeros(len(training), np.bool_)
        found[self.links[training[self.links[:, 0]], 1]] = True
        return found


def sizes_of(clusters: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the size of the cluster that each row (N,) stands for."""
    return np.bincount(clusters, minlength=len(clusters))


def find_likeness(rows: Rows, threshold: float, folder: Path, ledger: Ledger) -> Likeness:
    """Find the near-duplicates among the rows that are left.

    Raises:
        ResourceError: the disk has no room for the sketches.
    """
    places = np.flatnonzero(rows.reasons == 0).astype(np.int32)
    cut = similarity.banding(threshold)
    _check_disk(folder, len(places), cut)
    with closing(_Sketches(folder, len(places))) as sketches:
        sketches.fill(rows, places, cut, ledger)
        return _Search(rows, places, sketches, ledger).run(threshold)


def _check_disk(folder: Path, count: int, cut: Banding) -> None:
    needed, free = 4 * count * (cut.bands + 1) / 1e9, hardware.free_disk_gb(folder)
    if needed > max(free, FORESEEN_GB):
        raise ResourceError(
            f"Looking for near-duplicates among {count:,} rows takes {needed:.1f} GB of disk, and {folder} has {free:.1f} GB free.",
            hint="Free some space, choose a folder on another disk with --out, or leave it out: --set data.near_duplicates=0.",
        )


class _Sketches:
    """The band hashes of all texts, in a file without a name; a band is read as one array."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._blocks: list[tuple[int, int]] = []
        self.lengths = np.zeros(count, np.uint32)
        self.bands = 0

    def fill(self, rows: Rows, places: NDArray[np.int32], cut: Banding, ledger: Ledger) -> None:
        """Sketch all texts; the first band is the hash of the whole text."""
        self.bands = cut.bands + 1
        done = 0
        for texts in _pieces(rows, places):
            shingles = similarity.shingle(texts)
            self.lengths[done : done + len(texts)] = shingles.lengths
            block = np.vstack([similarity.content_hashes(shingles), similarity.sketch(shingles, cut)])
            with storage.disk_errors(self._folder):
                self._blocks.append((self._file.tell(), len(texts)))
                self._file.write(block.tobytes())
                self._file.flush()  # so that a full disk is noticed here
            done += len(texts)
            ledger.progress("sketch", done, len(places))

    def band(self, number: int) -> NDArray[np.uint32]:
        """Return the hashes of one band (N,)."""
        found = np.empty(len(self.lengths), np.uint32)
        start = 0
        with storage.disk_errors(self._folder):
            for offset, count in self._blocks:
                self._file.seek(offset + 4 * number * count)
                found[start : start + count] = np.frombuffer(self._file.read(4 * count), np.uint32)
                start += count
        return found

    def close(self) -> None:
        """Give the disk space back."""
        # What could not be written would be tried again; the failure has been told.
        with contextlib.suppress(OSError):
            self._file.close()


def _pieces(rows: Rows, places: NDArray[np.int32]) -> Iterator[list[str]]:
    """Yield the texts at some places, a few at a time."""
    held: list[str] = []
    characters = 0
    for text in _texts(rows, places):
        held.append(text)
        characters += len(text)
        if characters >= _SKETCHED_CHARACTERS or len(held) >= _SKETCHED_ROWS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _texts(rows: Rows, places: NDArray[np.int32]) -> Iterator[str]:
    mask = np.zeros(len(rows), np.bool_)
    mask[places] = True
    for _, block in rows.spill.chosen(mask):
        for text in block["text"].to_pylist():
            yield text.decode()


class _Search:
    """Candidate pairs, compared until clusters and links are known. Works on the M rows that are left."""

    def __init__(self, rows: Rows, places: NDArray[np.int32], sketches: _Sketches, ledger: Ledger) -> None:
        self._rows = rows
        self._places = places
        self._sketches = sketches
        self._ledger = ledger
        self._main = int(rows.kept(MAIN).sum())
        self._left = 0
        self._exhausted = False
        self._links: list[NDArray[np.int64]] = []

    def run(self, threshold: float) -> Likeness:
        """Find the clusters, and divide those that are too large at ever higher thresholds."""
        everywhere = np.ones(len(self._places), np.bool_)
        roots = self._clusters(threshold, everywhere, linking=True)
        tightened = 0
        while threshold < EQUAL and (giants := self._giants(roots)).any():
            tightened = max(tightened, int(giants.sum()))
            threshold = (1 + threshold) / 2 if threshold < 0.95 else EQUAL  # noqa: PLR2004 - three steps at most
            roots = np.where(giants, self._clusters(threshold, giants, linking=False), roots)
        clusters = np.arange(len(self._rows), dtype=np.int32)
        clusters[self._places] = self._places[roots]
        links = self._places[_different(self._links)].astype(np.int64)
        return Likeness(clusters, links, tightened, self._exhausted)

    def _giants(self, roots: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which rows (M,) are in a cluster that is too large."""
        sizes = sizes_of(roots)
        largest = np.flatnonzero(sizes > GIANT_ROWS)
        found = np.zeros(len(roots), np.bool_)
        if not len(largest):
            return found
        labelled = LabelledRows(self._rows.classes[self._places[: self._main]], self._rows.sets)
        wholes = labelled.counts(np.arange(self._main))
        for root in largest.tolist():
            members = np.flatnonzero(roots == root)
            counts = labelled.counts(members)
            if len(members) > GIANT_SHARE * self._main or (counts > np.maximum(GIANT_SHARE * wholes, GIANT_ROWS)).any():
                found[members] = True
        return found

    def _clusters(self, threshold: float, among: NDArray[np.bool_], *, linking: bool) -> NDArray[np.int32]:
        """Return the first row of the cluster of each row (M,); rows that are not ``among`` them are alone."""
        self._left = max(COMPARED * int(among.sum()), LEAST_COMPARED)
        forest = Forest(len(self._places))
        held: list[NDArray[np.int64]] = []
        for band in range(self._sketches.bands):
            for pairs in similarity.candidate_pairs(self._sketches.band(band)):
                held.append(self._open(pairs, among, forest, linking))
                # Equal texts come first and whatever it takes: they must never be parted.
                if band == 0:
                    self._compare(_different(held), threshold, forest)
                    held = []
                elif sum(map(len, held)) >= _VERIFIED_PAIRS:
                    self._compare(self._affordable(held), threshold, forest)
                    held = []
            self._ledger.progress("near-duplicates", band + 1, self._sketches.bands)
        self._compare(self._affordable(held), threshold, forest)
        return forest.roots()

    def _open(
        self, pairs: NDArray[np.int64], among: NDArray[np.bool_], forest: Forest, linking: bool
    ) -> NDArray[np.int64]:
        """Return the pairs that would tell something new."""
        pairs = pairs[among[pairs].all(axis=1)]
        given = (pairs >= self._main).sum(axis=1)
        fresh = forest.roots(pairs[:, 0]) != forest.roots(pairs[:, 1])
        found: NDArray[np.int64] = pairs[((given == _MAIN_MAIN) & fresh) | ((given == _MAIN_GIVEN) & linking)]
        return found

    def _affordable(self, held: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the different pairs, as many as may still be compared."""
        pairs = _different(held)
        self._exhausted |= len(pairs) > self._left
        pairs = pairs[: self._left]
        self._left -= len(pairs)
        return pairs

    def _compare(self, pairs: NDArray[np.int64], threshold: float, forest: Forest) -> None:
        """Compare the texts of pairs and take in those that are alike."""
        for part in self._portions(pairs):
            alike = part[self._similarity(part) >= threshold]
            linking = alike[:, 1] >= self._main
            forest.unite(alike[~linking])
            self._links.append(alike[linking])

    def _portions(self, pairs: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield pairs in portions whose texts fit into memory."""
        if not len(pairs):
            return
        sizes = self._sketches.lengths[np.unique(pairs)].sum(dtype=np.int64)
        if sizes <= _VERIFIED_SHINGLES or len(pairs) == 1:
            yield pairs
            return
        for half in np.array_split(pairs, 2):
            yield from self._portions(half)

    def _similarity(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        wanted, numbers = np.unique(pairs, return_inverse=True)
        parts = [Sets.of(similarity.shingle(texts)) for texts in _pieces(self._rows, self._places[wanted])]
        return similarity.jaccard(Sets.joined(parts), numbers.reshape(-1, 2))


def _different(held: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return all pairs (P, 2) of several arrays once, in order."""
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *held])
    keys = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1)
