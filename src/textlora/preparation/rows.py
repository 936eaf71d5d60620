"""What must be known of all rows at once, in some 30 bytes each; their texts wait on disk."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.label_cells import JOINT
from textlora.preparation.attributes import GROUP
from textlora.preparation.ledger import CELL_LIMIT, MAIN, SHOWN_PLACES, Entry, Ledger, Place
from textlora.preparation.request import Origin
from textlora.preparation.spilling import Spill

if TYPE_CHECKING:
    from textlora.preparation.label_sets import LabelSets

LABEL_LIMIT = 50_000
"""Different labels that a source may have; a label's number takes two bytes."""
SET_LIMIT = 500_000
"""Different combinations of labels, where a row may have several; a combination's number takes four bytes."""
_HASH_BYTES = 16
_COUNTED_ROWS = 1 << 20


class Rows:
    """All whole rows, sampled ones only, in the order main source, validation file, test file.

    A row has a text and label in ``spill``, and at the same place in these arrays: ``hashes``
    (N, 2) of the cleaned text, ``groups`` (N,) by a hash of their names, which is 0 where there is
    none, or None where nobody asked for groups, ``labels`` (N,) as numbers into ``label_texts``, ``lines`` (N,),
    ``classes`` (N,) once the label names are known, and ``reasons`` (N,), which is 0 as long as the
    row is kept and else one more than the place of the reason in ``reason_texts``.

    Built by ``add`` and ``add_faulty``, then ``seal``.

    Args:
        spill: takes the texts.
        label_column: its name, for a message.
        slice_columns: what the rows' extra cells hold besides group and time.
        several: a row may have several labels; ``classes`` then holds numbers into ``sets``.
    """

    def __init__(
        self, spill: Spill, label_column: str, slice_columns: Sequence[str] = (), *, several: bool = False
    ) -> None:
        self.spill = spill
        self.slice_columns = tuple(slice_columns)
        self.several = several
        self.sets: LabelSets | None = None
        self.label_texts: list[str] = []
        self.reason_texts: list[str] = []
        self.classes: NDArray[np.int32] = np.zeros(0, np.int32)
        self._label_column = label_column
        self._label_numbers: dict[str, int] = {}
        self._ends: dict[Origin, int] = {}
        self.groups: NDArray[np.uint64] | None = None
        self._hashes = bytearray()
        self._groups = bytearray()
        self._labels = array("I" if several else "H")
        self._lines = array("q")
        self._reasons = array("H")

    def __len__(self) -> int:
        """Return the number of rows, those set aside included."""
        return len(self._lines)

    def add(self, entry: Entry, text: str) -> None:
        """Add a row with its cleaned text.

        Raises:
            DataError: more different labels than a data set may have.
        """
        raw = text.encode()
        self._hashes += hashlib.blake2b(raw, digest_size=_HASH_BYTES).digest()
        self._append(entry, raw, entry.label, self._number(entry.label))

    def add_faulty(self, entry: Entry, text: str, fault: str) -> None:
        """Add a row that cannot be used, cut to what ``quarantine.csv`` shows."""
        self._hashes += bytes(_HASH_BYTES)
        self._append(entry, text[:CELL_LIMIT].encode(), entry.label[:CELL_LIMIT], 0)
        self._reasons[-1] = self._reason(fault)

    def seal(self) -> None:
        """End the adding: the arrays are there from now on."""
        self.hashes = np.frombuffer(self._hashes, np.uint64).reshape(-1, 2)
        groups = np.frombuffer(self._groups, np.uint64)
        self.groups = groups if groups.any() else None
        self.labels = np.frombuffer(self._labels, np.uint32 if self.several else np.uint16)
        self.lines = np.frombuffer(self._lines, np.int64)
        self.reasons = np.frombuffer(self._reasons, np.uint16).copy()

    def bounds(self, origin: Origin) -> slice:
        """Return the places of the rows from one source."""
        names: list[Origin] = [MAIN, "validation", "test"]
        before = [self._ends.get(name, 0) for name in names[: names.index(origin)]]
        start = max(before, default=0)
        return slice(start, max(start, self._ends.get(origin, 0)))

    def kept(self, origin: Origin) -> NDArray[np.bool_]:
        """Return which rows (N,) are from one source and were not set aside."""
        # A mask and not places: one byte a row instead of eight.
        mask = np.zeros(len(self), np.bool_)
        mask[self.bounds(origin)] = self.reasons[self.bounds(origin)] == 0
        return mask

    def places(self, rows: NDArray[np.intp]) -> list[Place]:
        """Return where the first few of some rows stand, for a message."""
        return [(self._origin(row), int(self.lines[row])) for row in rows[:SHOWN_PLACES].tolist()]

    def set_aside(
        self, marks: NDArray[np.uint16], reasons: Sequence[str], ledger: Ledger, *, for_label: bool = False
    ) -> None:
        """Set aside the rows whose mark (N,) is not 0; the mark k stands for ``reasons[k - 1]``.

        With ``for_label`` the ledger is told the labels too, since they are why.
        """
        marked = np.flatnonzero(marks)
        for mark, _ in counts_in_order(marks[marked]):
            rows = marked[marks[marked] == mark]
            self.reasons[rows] = self._reason(reasons[mark - 1])
            labels = self._label_counts(rows) if for_label else {}
            ledger.set_aside(reasons[mark - 1], len(rows), self.places(rows), labels)

    def report_faulty(self, ledger: Ledger) -> None:
        """Enter the rows that were added as faulty into the ledger."""
        self.set_aside(self.reasons.copy(), list(self.reason_texts), ledger)

    def label_counts(self, chosen: NDArray[Any], size: int) -> NDArray[np.int64]:
        """Return how many of the chosen rows, a mask or places, have each of ``size`` labels."""
        classes = self.classes[chosen]
        return self.sets.label_counts(classes, size) if self.sets else occurrences(classes, size)

    def having(self, label: int) -> NDArray[np.bool_]:
        """Return which rows (N,) have a label."""
        return self.sets.having(self.classes, label) if self.sets else self.classes == label

    def _append(self, entry: Entry, text: bytes, label: str, number: int) -> None:
        self.spill.append(entry.id, entry.line, text, label, extra=entry.extra)
        if entry.extra:
            self._groups += group_hash(entry.extra[GROUP])
        self._labels.append(number)
        self._lines.append(entry.line)
        self._reasons.append(0)
        self._ends[entry.origin] = len(self._lines)

    def _number(self, label: str) -> int:
        number = self._label_numbers.setdefault(label, len(self.label_texts))
        if number == len(self.label_texts):
            limit = SET_LIMIT if self.several else LABEL_LIMIT
            if number == limit:
                what = "combinations of labels" if self.several else "labels"
                raise DataError(
                    f"The label column {self._label_column!r} has more than {limit:,} different {what}.",
                    hint="Name another label column with --label.",
                )
            self.label_texts.append(label)
        return number

    def _reason(self, text: str) -> int:
        if text not in self.reason_texts:
            self.reason_texts.append(text)
        return self.reason_texts.index(text) + 1

    def _origin(self, row: int) -> Origin:
        return next(origin for origin, end in self._ends.items() if row < end)

    def _label_counts(self, rows: NDArray[np.intp]) -> dict[str, int]:
        """Return how often the labels of some rows occur, in the order of their first row, cut as the rows are."""
        found = counts_in_order(self.labels[rows])
        return {shown_label(self.label_texts[number])[:CELL_LIMIT]: count for number, count in found}


def group_hash(group: str) -> bytes:
    """Return eight bytes that stand for a group."""
    return hashlib.blake2b(group.encode(), digest_size=8).digest() if group else bytes(8)


def shown_label(text: str) -> str:
    """Return a row's label, or all of them, as a person reads them."""
    return text.replace(JOINT, ", ")


def counts_in_order(numbers: NDArray[Any]) -> list[tuple[int, int]]:
    """Return every number (N,) that occurs and how often, in the order of the first occurrences."""
    found, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    order = np.argsort(first)
    return list(zip(found[order].tolist(), counts[order].tolist(), strict=True))


def occurrences(numbers: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Return how often each of ``range(size)`` occurs in ``numbers`` (N,)."""
    found = np.zeros(size, np.int64)
    # In parts, since numpy makes eight bytes of each number first.
    for start in range(0, len(numbers), _COUNTED_ROWS):
        found += np.bincount(numbers[start : start + _COUNTED_ROWS], minlength=size)
    return found
