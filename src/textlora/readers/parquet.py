"""Parquet, read batch by batch; a compressed file is unpacked first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textlora.errors import DataError
from textlora.readers.tables import BadRow, Row, Table
from textlora.readers.unpacking import Meter, byte_chunks

_BUFFER = 1 << 20


def parquet_table(path: Path) -> Table:
    """Return a Parquet file as a table.

    Raises:
        DataError: the file is damaged or has no rows.
    """
    with open_parquet(path) as file:
        columns, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    if not rows:
        raise DataError(f"{path} has columns but no rows.", hint="At least two rows of each label are needed.")
    meter = Meter()
    return Table(str(path), "parquet", columns, lambda: _parquet_rows(path, meter), meter=meter)


def open_parquet(path: Path) -> Any:
    """Return a Parquet file, compressed or not, to be read row group by row group.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # With a buffer, a row group is read page by page: writers make row groups of any size.
        return pq.ParquetFile(_seekable(path), buffer_size=_BUFFER)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}.", hint="Write or copy the file again.") from error


def parquet_schema(path: Path) -> Any:
    """Return the Arrow schema of a Parquet file, compressed or not.

    Raises:
        DataError: the file is damaged.
    """
    with open_parquet(path) as file:
        return file.schema_arrow


def _seekable(path: Path) -> Any:
    """Return a file that can be read from its end, as Parquet is."""
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return str(path)
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - the Parquet reader keeps it open
    for chunk in byte_chunks(path):
        unpacked.write(chunk)
    unpacked.seek(0)
    return unpacked


def _parquet_rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    import pyarrow as pa

    number = 0
    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=1024):
                meter.share = (number + len(batch)) / file.metadata.num_rows
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Row(number, number + 1, values)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} is damaged after row {number}: {_first_line(error)}.", hint="Write or copy the file again."
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
