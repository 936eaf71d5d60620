"""Splits by time: the oldest rows train, the newest are the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.types import SPLIT_NAMES


def assign_by_time(times: NDArray[np.float64], shares: Mapping[str, float], column: str) -> NDArray[np.int8]:
    """Return the split of each row (n,), as a place in ``SPLIT_NAMES``; equal times are never divided.

    Args:
        times: (n,) numbers that grow with time.
        shares: the wanted share of the rows for the test and the validation split, as far as they are made.
        column: name of the time column, for a message.

    Raises:
        DataError: there are fewer different times than splits.
    """
    names = [name for name in SPLIT_NAMES if name == "train" or name in shares]
    moments, counts = np.unique(times, return_counts=True)
    if len(moments) < len(names):
        raise DataError(
            f"The column {column!r} has {len(moments)} different time{'s' if len(moments) > 1 else ''}; "
            f"{len(names)} splits need {len(names)} at least.",
            hint="Name a finer time with --time, or leave --time out.",
        )
    parts = np.full(len(times), SPLIT_NAMES.index("train"), dtype=np.int8)
    for name, first in zip(names[1:], _firsts(counts, [shares[name] for name in names[1:]]), strict=True):
        parts[times >= moments[first]] = SPLIT_NAMES.index(name)
    return parts


def _firsts(counts: NDArray[np.int64], shares: Sequence[float]) -> list[int]:
    """Return the first moment of each later split: nearest to its share, with a moment at least for every split."""
    total = int(counts.sum())
    before = np.concatenate([[0], np.cumsum(counts)])[:-1]
    firsts: list[int] = []
    last = len(counts)
    for place in reversed(range(len(shares))):
        wanted = round(total * (1 - sum(shares[place:])))
        # Moments are left for the splits before: training and those not placed yet.
        choices = np.arange(place + 1, last)
        last = int(choices[np.abs(before[choices] - wanted).argmin()])
        firsts.insert(0, last)
    return firsts


def newer_copies(parts: NDArray[np.int8], units: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which rows (n,) are in a later split than the first row of their unit."""
    first = np.full(int(units.max(initial=0)) + 1, len(SPLIT_NAMES), dtype=np.int8)
    np.minimum.at(first, units, parts)
    return np.asarray(parts > first[units])
