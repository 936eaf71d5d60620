"""Where a classifier does worse: the share of right rows in parts of the data, each held against the rest.

A part is called worse (or better) only where a test says so that was corrected for the number of
parts; two intervals that overlap say nothing of a difference, and of many parts one looks bad by
chance. N rows, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from textlora import intervals, significance
from textlora.resampling import Units
from textlora.types import SLICE, Slice, Split

LENGTH_EDGES = (64, 128, 256, 512)
GROUPS = 8
"""The largest groups, which are looked at one by one."""
VALUES = 12
"""The most frequent values of a kept column, which are looked at one by one."""
NOTABLE = 0.05
"""A part that may be worse than the rest by more than this has too few rows to tell."""
_HALVES = {
    "truncated": {"yes": "texts of which a part was not seen", "no": "texts seen whole"},
    "near_duplicate": {"yes": "rows with near-duplicates", "no": "rows without near-duplicates"},
}
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the rows (N,), by what they have in common.

    ``grouped`` says whether they stand for other groups too; the rows of one group stand for that group alone.
    """

    kind: str
    name: str
    chosen: Marks
    grouped: bool = True


def parts(
    rows: Split, labels: Mapping[str, Marks], tokens: NDArray[np.int64], whole_length: int | None
) -> Iterator[Part]:
    """Yield the parts of a split that are looked at and have rows.

    Args:
        rows: the split.
        labels: which rows (N,) have each label.
        tokens: (N,) tokens of each text before any cut.
        whole_length: tokens up to which nothing of a text is lost; None where that is not known.
    """
    yield from _by_length(tokens)
    if whole_length is not None and (tokens > whole_length).any():
        yield from _halves("truncated", tokens > whole_length)
    yield from (Part("label", name, chosen) for name, chosen in labels.items() if chosen.any())
    if rows.near_duplicates is not None and any(rows.near_duplicates):
        marks = np.asarray(rows.near_duplicates, np.bool_)
        yield from _halves("near_duplicate", marks)
    if rows.groups is not None:
        yield from (replace(part, grouped=False) for part in _by_value("group", rows.groups, GROUPS, least=2))
    for column, values in rows.slices.items():
        yield from _by_value(f"{SLICE}{column}", values, VALUES)


def _by_length(tokens: NDArray[np.int64]) -> Iterator[Part]:
    # side="left": a text of exactly 64 tokens belongs to 0-64.
    places = np.searchsorted(LENGTH_EDGES, tokens, side="left")
    for place, name in enumerate(length_names()):
        if (places == place).any():
            yield Part("length", name, places == place)


def length_names() -> list[str]:
    """Return the names of the ranges of lengths, the shortest first."""
    starts = (0, *(edge + 1 for edge in LENGTH_EDGES))
    ranges = [f"{start}–{end}" for start, end in zip(starts, LENGTH_EDGES, strict=False)]
    return [*ranges, f"over {LENGTH_EDGES[-1]}"]


def _halves(kind: str, marks: Marks) -> Iterator[Part]:
    yield from (Part(kind, name, chosen) for name, chosen in (("yes", marks), ("no", ~marks)) if chosen.any())


def _by_value(kind: str, values: Sequence[str], most: int, *, least: int = 1) -> Iterator[Part]:
    """Yield the rows of the most frequent values that are not empty."""
    column = list(values)
    counts = Counter(value for value in column if value)
    # Equally frequent ones in the order of the rows.
    numbers = {value: number for number, (value, count) in enumerate(counts.most_common(most)) if count >= least}
    found = np.array([numbers.get(value, -1) for value in column])
    yield from (Part(kind, value, found == number) for value, number in numbers.items())


def title(part: Slice) -> str:
    """Return what the rows of a part are called in a sentence."""
    if part.kind in _HALVES:
        return _HALVES[part.kind][part.name]
    if part.kind == "length":
        return f"texts of {part.name} tokens"
    return f"{part.kind.removeprefix(SLICE)} “{part.name}”"


def judge(found: Sequence[Part], right: Marks, units: Units) -> tuple[Slice, ...]:
    """Return the share of right rows of each part, with interval and verdict.

    Tests are corrected together (Holm). Parts with the same rows, and the two halves of the data, are
    one test.

    Args:
        found: the parts.
        right: (N,) which rows are right.
        units: which rows resemble each other.
    """
    tested = {_key(part): part for part in found if not part.chosen.all()}
    p_values = [_test(part, right, units) for part in tested.values()]
    corrected = dict(zip(tested, significance.holm(p_values), strict=True))
    return tuple(_slice(part, right, units, corrected.get(_key(part))) for part in found)


def _key(part: Part) -> bytes:
    """Return what is the same for equal rows, and for the other half of the rows."""
    return np.packbits(part.chosen ^ part.chosen[0]).tobytes()


def _test(part: Part, right: Marks, units: Units) -> float:
    sides = part.chosen, ~part.chosen
    one, other = ((right[side], units.numbers_of(side) if part.grouped else None) for side in sides)
    return significance.two_shares(one, other)


def _slice(part: Part, right: Marks, units: Units, p_value: float | None) -> Slice:
    within = right[part.chosen]
    numbers = units.numbers_of(part.chosen) if part.grouped else None
    accuracy = intervals.ratio(within, np.ones(len(within)), numbers)
    if p_value is None:
        return Slice(part.name, len(within), accuracy, part.kind)
    rest = float(right[~part.chosen].mean())
    verdict = _verdict(accuracy.value, accuracy.low, rest, p_value)
    return Slice(part.name, len(within), accuracy, part.kind, rest, p_value, verdict)


def _verdict(share: float, low: float, rest: float, p_value: float) -> Literal["worse", "better", "same", "unknown"]:
    if p_value < significance.LEVEL:
        return "worse" if share < rest else "better"
    return "unknown" if low < rest - NOTABLE else "same"
