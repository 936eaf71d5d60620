"""No text twice: overlap with the given files, duplicates, conflicting labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.request import Origin
from textlora.preparation.rows import Rows

IN_TEST, IN_VALIDATION, CONFLICT, DUPLICATE = 1, 2, 3, 4
REASONS = ("also in the test file", "also in the validation file", "conflicting labels", "duplicate")
_SORTED_ROWS = 1 << 21
"""Rows that are sorted at once: sorting takes several times the memory of the hashes."""
_ORIGINS: tuple[Origin, ...] = (MAIN, "validation", "test")


def without_repeats(rows: Rows, ledger: Ledger) -> None:
    """Set rows aside so that no text stands in two splits; given test rows all stay.

    Of equal rows the first is kept, and none of a text that has several labels. Texts are compared
    by a hash of 128 bits.
    """
    origins = np.zeros(len(rows), np.int8)
    for number, origin in enumerate(_ORIGINS):
        origins[rows.bounds(origin)] = number
    marks = np.zeros(len(rows), np.uint16)
    repeats: Counter[int] = Counter()
    for part in _parts(rows):
        repeats += _mark(rows, part, origins[part], marks)
    validation = rows.bounds("validation")
    first = np.zeros_like(marks)
    first[validation] = marks[validation]
    rows.set_aside(first, REASONS, ledger)
    marks[validation] = 0
    rows.set_aside(np.where(marks <= IN_VALIDATION, marks, 0), REASONS, ledger)
    rows.set_aside(np.where(marks > IN_VALIDATION, marks, 0), REASONS, ledger)
    for number in (1, 2):
        _note_repeats(_ORIGINS[number], repeats[number], ledger)


def _parts(rows: Rows) -> Iterator[NDArray[np.intp]]:
    """Yield the rows that are left in parts, so that equal texts are in the same part."""
    count = len(rows) // _SORTED_ROWS + 1
    # One byte of the hash tells the parts apart, so that no copy of all hashes is made.
    parts = rows.hashes.view(np.uint8)[:, 0] % min(count, 256)
    for number in range(min(count, 256)):
        yield np.flatnonzero((rows.reasons == 0) & (parts == number))


def _mark(rows: Rows, part: NDArray[np.intp], origins: NDArray[np.int8], marks: NDArray[np.uint16]) -> Counter[int]:
    """Mark the rows of a part (N,) that cannot stay; return how many repeats the given files keep, by origin."""
    if not len(part):
        return Counter()
    hashes = rows.hashes[part]
    # Stable: equal texts keep the order of the rows.
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    part, origins, hashes = part[order], origins[order], hashes[order]
    fresh = np.ones(len(part), dtype=np.bool_)
    fresh[1:] = (hashes[1:] != hashes[:-1]).any(axis=1)
    texts, starts = np.cumsum(fresh) - 1, np.flatnonzero(fresh)
    in_test, in_validation = (np.logical_or.reduceat(origins == number, starts)[texts] for number in (2, 1))
    classes = rows.classes[part]
    several = (np.minimum.reduceat(classes, starts) != np.maximum.reduceat(classes, starts))[texts]
    main = origins == 0
    # The first that holds wins: a row has one reason.
    cases = [in_test & (origins < 2), in_validation & main, several & main, ~fresh & main]  # noqa: PLR2004
    marks[part] = np.select(cases, [IN_TEST, IN_VALIDATION, CONFLICT, DUPLICATE], 0)
    repeated = {number: _repeated(texts[(origins == number) & (marks[part] == 0)]) for number in (1, 2)}
    return Counter(repeated)


def _repeated(texts: NDArray[np.intp]) -> int:
    """Return how many of the texts stand in an earlier place, too."""
    return len(texts) - len(np.unique(texts))


def _note_repeats(origin: Origin, repeats: int, ledger: Ledger) -> None:
    if repeats:
        # Without them the scores could not be compared with those of others on the same file.
        ledger.note(
            "given_duplicates",
            "warning",
            f"{repeats:,} rows of the {origin} file repeat a text of it; they were kept.",
            repeats,
        )
