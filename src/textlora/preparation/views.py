"""Rows of several splits as one, and some rows as a split, without copying a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from textlora.types import Split

Value = TypeVar("Value")


class Picked(Sequence[Value]):
    """Some places of columns that are laid end to end.

    Args:
        columns: read where something is asked for.
        places: (n,) places in all of them together.
    """

    def __init__(self, columns: Sequence[Sequence[Value]], places: NDArray[np.intp]) -> None:
        self._columns = columns
        self._starts = np.cumsum([0, *map(len, columns)])
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Value, ...]: ...
    def __getitem__(self, index: int | slice) -> Value | tuple[Value, ...]:
        """Return a value, or a tuple of them for a slice."""
        if isinstance(index, slice):
            return tuple(map(self._at, self._places[index].tolist()))
        return self._at(int(self._places[index]))

    def _at(self, place: int) -> Value:
        column = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._columns[column][place - int(self._starts[column])]


def pick(splits: Sequence[Split], places: NDArray[np.intp]) -> Split:
    """Return rows of splits laid end to end, at some places (n,) in this order.

    A column that one of the splits has not got is left out; ``leaked`` marks lose their meaning and are.
    """

    def chosen(columns: Sequence[Any]) -> Any:
        return None if any(column is None for column in columns) else Picked(columns, places)

    kept = [name for name in splits[0].slices if all(name in split.slices for split in splits)]
    return Split(
        ids=chosen([split.ids for split in splits]),
        texts=chosen([split.texts for split in splits]),
        labels=tuple(Picked([split.labels for split in splits], places)),
        groups=chosen([split.groups for split in splits]),
        near_duplicates=chosen([split.near_duplicates for split in splits]),
        clusters=chosen([split.clusters for split in splits]),
        slices={name: chosen([split.slices[name] for split in splits]) for name in kept},
    )
