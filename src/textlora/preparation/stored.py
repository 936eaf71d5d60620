"""The columns of a split's Parquet file as sequences that read only what is asked for."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from textlora.errors import UsageError
from textlora.types import SLICE, Split

Value = TypeVar("Value", str, int, bool, tuple[int, ...])
Number = TypeVar("Number", int, bool)
_COLUMNS = ("id", "text", "label")
_KEPT_GROUPS = 2
"""Row groups of a column that stay in memory after they were read."""


def open_split(path: Path) -> Split:
    """Return the rows of a split without reading them.

    The file stays open, so that the rows stay the same when another preparation replaces it.

    Raises:
        UsageError: the file is missing or damaged; damage further down raises when it is read.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist.", hint="`textlora prepare` writes it: run that first.")
    file = SplitFile(path)
    return Split(
        StoredTexts(file, "id"),
        StoredTexts(file, "text"),
        StoredLabelSets(file) if file.several_labels else StoredLabels(file),
        groups=StoredTexts(file, "group") if "group" in file.columns else None,
        near_duplicates=StoredMarks(file, "near_duplicate") if "near_duplicate" in file.columns else None,
        leaked=StoredMarks(file, "leaked") if "leaked" in file.columns else None,
        clusters=StoredClusters(file, "cluster") if "cluster" in file.columns else None,
        slices={name.removeprefix(SLICE): StoredTexts(file, name) for name in file.columns if name.startswith(SLICE)},
    )


class SplitFile:
    """An open Parquet file, read one row group and one column at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Both the training thread and the one that tokenizes ahead may read.
        self._lock = threading.Lock()
        self._file = self._opened()
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self.starts: list[int] = [0, *itertools.accumulate(sizes)]
        """The first row of each row group, and the number of rows."""

    @property
    def several_labels(self) -> bool:
        """Whether a row has a list of labels."""
        import pyarrow as pa

        return bool(pa.types.is_list(self._file.schema_arrow.field("label").type))

    def group(self, number: int, column: str) -> Any:
        """Return a column of a row group as an Arrow array.

        Raises:
            UsageError: the file is damaged.
        """
        import pyarrow as pa

        try:
            with self._lock:
                return self._file.read_row_group(number, columns=[column]).column(0).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from error

    def _opened(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from error
        missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise self._damaged(f"the column {missing[0]!r} is missing")
        return file

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"{self.path} is damaged: {why.splitlines()[0]}", hint="Run `textlora prepare` again.")


class _Stored(Sequence[Value]):
    """What both kinds of columns share: equal to any sequence of the same values, slices are tuples."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, file: SplitFile, name: str) -> None:
        self._file = file
        self._name = name

    def __len__(self) -> int:
        return self._file.starts[-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self):,} {self._name}s in {self._file.path}>"


class StoredTexts(_Stored[str]):
    """A column of strings; going through them holds one row group, indexing two."""

    def __init__(self, file: SplitFile, name: str) -> None:
        super().__init__(file, name)
        self._groups: OrderedDict[int, Any] = OrderedDict()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """Return a text, or a tuple of them for a slice."""
        if isinstance(index, slice):
            rows = range(len(self))[index]
            return tuple(self._between(rows.start, rows.stop) if rows.step == 1 else map(self._at, rows))
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._file.starts) - 1):
            yield from self._file.group(number, self._name).to_pylist()

    def _at(self, row: int) -> str:
        number = self._group_of(row)
        return str(self._group(number)[row - self._file.starts[number]].as_py())

    def _between(self, start: int, stop: int) -> Iterable[str]:
        while start < stop:
            number = self._group_of(start)
            first, after = self._file.starts[number], self._file.starts[number + 1]
            part = self._group(number).slice(start - first, min(stop, after) - start)
            yield from part.to_pylist()
            start = after

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._file.starts, row, side="right")) - 1

    def _group(self, number: int) -> Any:
        if number not in self._groups:
            self._groups[number] = self._file.group(number, self._name)
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[number]


class _StoredNumbers(_Stored[Number]):
    """A column of numbers; all of them are read, a few bytes each, when the first is asked for."""

    _dtype: DTypeLike

    @overload
    def __getitem__(self, index: int) -> Number: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Number, ...]: ...
    def __getitem__(self, index: int | slice) -> Number | tuple[Number, ...]:
        """Return a number, or a tuple of them for a slice."""
        if isinstance(index, slice):
            return tuple(self._values[index].tolist())
        value: Number = self._values[index].item()
        return value

    def __iter__(self) -> Iterator[Number]:
        for number in range(len(self._file.starts) - 1):
            yield from self._values[self._file.starts[number] : self._file.starts[number + 1]].tolist()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the numbers (N,) as numpy asks for them."""
        return np.array(self._values, dtype=dtype, copy=copy)

    @cached_property
    def _values(self) -> NDArray[Any]:
        values = np.zeros(len(self), self._dtype)
        for number, (start, after) in enumerate(itertools.pairwise(self._file.starts)):
            values[start:after] = self._file.group(number, self._name).to_numpy(zero_copy_only=False)
        return values


class StoredMarks(_StoredNumbers[bool]):
    """A column that says of each row whether something holds."""

    _dtype = np.bool_


class StoredClusters(_StoredNumbers[int]):
    """The number of each row's cluster of near-duplicates."""

    _dtype = np.int32


class StoredLabels(_StoredNumbers[int]):
    """The labels, as places of the label names."""

    _dtype = np.int32

    def __init__(self, file: SplitFile) -> None:
        super().__init__(file, "label")


class StoredLabelSets(_Stored[tuple[int, ...]]):
    """The labels of rows that may have several; all are read when the first is asked for, four bytes each."""

    def __init__(self, file: SplitFile) -> None:
        super().__init__(file, "label")

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        """Return a row's labels, or a tuple of those of several rows for a slice."""
        rows = range(len(self))[index]
        return tuple(map(self._at, rows)) if isinstance(rows, range) else self._at(rows)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return map(self._at, range(len(self)))

    def _at(self, row: int) -> tuple[int, ...]:
        flat, ends = self._values
        return tuple(flat[ends[row] : ends[row + 1]].tolist())

    @cached_property
    def _values(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The labels of all rows end to end, and where each row's begin and the last one's end (N + 1,)."""
        groups = [self._file.group(number, "label") for number in range(len(self._file.starts) - 1)]
        flat = [group.flatten().to_numpy(zero_copy_only=False) for group in groups]
        sizes = [group.value_lengths().to_numpy(zero_copy_only=False) for group in groups]
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
        return np.concatenate([np.zeros(0, np.int32), *flat]), ends
