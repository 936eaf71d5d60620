"""A copy of a file in which some rows have another value in one column, or are gone; all else stays as it is.

In text files every other line is copied byte for byte, broken ones too: quotes, line ends, byte order
mark and encoding stay. Parquet files keep schema, metadata and compression.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import lzma
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textlora.errors import DataError
from textlora.readers.decoding import TextFile
from textlora.readers.delimited import csv_table
from textlora.readers.json_lines import is_json, json_table
from textlora.readers.parquet import open_parquet
from textlora.readers.tables import RECORD_LIMIT, Row, Table
from textlora.readers.unpacking import byte_chunks

_BATCH_ROWS = 1 << 16


def rewrite_text(
    source: TextFile, target: Path, column: str, changes: Mapping[int, Any], dropped: Collection[int]
) -> None:
    """Copy a CSV file or JSON lines with some changes.

    Args:
        source: the file, as ``open_text`` returns it.
        target: its suffix says whether it is compressed (``.gz``, ``.xz``, ``.zst``).
        column: whose cells change.
        changes: new cells by ``Row.number``.
        dropped: numbers of the rows to leave out.

    Raises:
        DataError: a line is too long to be copied whole.
        UnicodeEncodeError: the source's encoding has no place for a new cell.
        OSError: the target cannot be written.
    """
    json_lines = is_json(source)
    table = json_table(source) if json_lines else csv_table(source, None)
    write = _json_line if json_lines else _csv_lines
    with _target_stream(target) as stream:
        stream.write(_byte_order_mark(source))
        lines = _whole_lines(source)
        done = 1
        for start, stop, row in _spans(table, changes, dropped):
            for line in itertools.islice(lines, start - done):
                stream.write(line.encode(source.codec))
            held = list(itertools.islice(lines, None if stop is None else stop - start))
            if row.number not in dropped:
                stream.write(write(table, row, column, changes[row.number], held).encode(source.codec))
            done = start + len(held)
        for line in lines:
            stream.write(line.encode(source.codec))


def _byte_order_mark(source: TextFile) -> bytes:
    head = next(byte_chunks(source.path), b"")
    return head[: source.skip]


def _whole_lines(source: TextFile) -> Iterator[str]:
    for number, line in enumerate(source.lines(), start=1):
        if len(line) > RECORD_LIMIT:
            raise DataError(
                f"Line {number} of {source.path} has more than {RECORD_LIMIT:,} characters and cannot be copied.",
                hint="Take the line out of the file first.",
            )
        yield line


def _spans(table: Table, changes: Mapping[int, Any], dropped: Collection[int]) -> Iterator[tuple[int, int | None, Row]]:
    """Yield first line, line behind the last (None at the end of the file) and row of what changes or goes."""
    concerned: Row | None = None
    for row in table:
        if concerned is not None:
            yield concerned.line, row.line, concerned
        whole = isinstance(row, Row) and (row.number in changes or row.number in dropped)
        concerned = row if isinstance(row, Row) and whole else None
    if concerned is not None:
        yield concerned.line, None, concerned


def _csv_lines(table: Table, row: Row, column: str, cell: Any, lines: list[str]) -> str:
    """Return a row with another cell, with the line end that it had."""
    values = list(row.values)
    values[table.columns.index(column)] = cell
    text = io.StringIO(newline="")
    # Cells with a line end are quoted only for what stands in the terminator, so the row's own comes afterwards.
    csv.writer(text, delimiter=table.delimiter or ",", lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + _line_end(lines)


def _json_line(_: Table, __: Row, column: str, cell: Any, lines: list[str]) -> str:
    """Return an object with another value, in the order of its keys."""
    line = next(line for line in lines if line.strip())
    values = json.loads(line) | {column: cell}
    return json.dumps(values, ensure_ascii=line.isascii()) + _line_end(lines)


def _line_end(lines: list[str]) -> str:
    last = lines[-1]
    return last[len(last.rstrip("\r\n")) :]


@contextmanager
def _target_stream(target: Path) -> Iterator[Any]:
    """Yield a stream of bytes that compresses as the suffix says."""
    suffix = target.suffix.lower()
    with target.open("wb") as raw:
        if suffix == ".gz":
            # No time stamp: the same rows give the same bytes.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
                yield stream
        elif suffix == ".xz":
            with lzma.LZMAFile(raw, "wb") as packed:
                yield packed
        elif suffix == ".zst":
            import zstandard

            with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as frame:
                yield frame
        else:
            yield raw


def rewrite_parquet(
    source: Path, target: Path, column: str, changes: Mapping[int, Any], dropped: Collection[int]
) -> None:
    """Copy a Parquet file with some changes; arguments as of ``rewrite_text``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_parquet(source) as file:
        schema = file.schema_arrow
        place = schema.names.index(column)
        codec = file.metadata.row_group(0).column(0).compression
        with pq.ParquetWriter(target, schema, compression="none" if codec == "UNCOMPRESSED" else codec) as out:
            start = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                numbers = range(start, start + len(batch))
                kept = pa.array([number not in dropped for number in numbers])
                out.write_batch(_changed(batch, place, numbers, changes).filter(kept))
                start += len(batch)


def _changed(batch: Any, place: int, numbers: range, changes: Mapping[int, Any]) -> Any:
    """Return a record batch, whose rows have these numbers, with the changes in its column ``place``."""
    import pyarrow as pa

    if not any(number in changes for number in numbers):
        return batch
    field, cells = batch.schema.field(place), batch.column(place).to_pylist()
    cells = [changes.get(number, cell) for number, cell in zip(numbers, cells, strict=True)]
    return batch.set_column(place, field, pa.array(cells, field.type))
