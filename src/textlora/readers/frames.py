"""Data frames of pandas, which need not be installed for all else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from textlora.errors import DataError
from textlora.readers.tables import BadRow, Row, Table


def read_frame(frame: Any) -> Table:
    """Return a pandas data frame as a table; ``number`` is the position, missing values are None.

    Raises:
        DataError: the frame has no rows or no columns.
    """
    columns = tuple(str(name) for name in frame.columns)
    if not len(frame) or not columns:
        raise DataError("The data frame has no rows.", hint="At least two rows of each label are needed.")
    return Table("DataFrame", "frame", columns, lambda: _frame_rows(frame))


def _frame_rows(frame: Any) -> Iterator[Row | BadRow]:
    missing = frame.isna()
    columns = [
        [
            None if gone else value
            for value, gone in zip(frame.iloc[:, i].tolist(), missing.iloc[:, i].tolist(), strict=True)
        ]
        for i in range(frame.shape[1])
    ]
    for number, values in enumerate(zip(*columns, strict=True)):
        yield Row(number, number + 1, values)
