"""Files and data frames as rows: CSV, TSV, JSON lines and Parquet, plain or compressed.

``open_table`` finds format, compression, encoding and delimiter from the content. Iterating a
``Table`` yields a ``Row`` for every whole record and a ``BadRow`` for every broken one, in the
order of the file, so that nothing disappears unseen. CSV and JSON lines are streamed.

    unpacking: bytes -> decoding: lines -> delimited | json_lines: rows -> columns: text and label

``parquet`` makes rows of the bytes themselves, ``frames`` of a data frame, ``lines`` of plain text.
``rewriting`` copies a file with some cells changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from textlora.readers.columns import (
    LABEL_NAMES,
    TEXT_NAMES,
    WEAK_LABEL_NAMES,
    Columns,
    find_columns,
    find_text_column,
)
from textlora.readers.decoding import open_text
from textlora.readers.delimited import DELIMITERS, csv_table
from textlora.readers.folders import data_files
from textlora.readers.frames import read_frame
from textlora.readers.json_lines import is_json, json_table
from textlora.readers.lines import kind_of, open_lines
from textlora.readers.parquet import parquet_schema, parquet_table
from textlora.readers.rewriting import rewrite_parquet, rewrite_text
from textlora.readers.tables import RAW_LIMIT, RECORD_LIMIT, SAMPLE_ROWS, BadRow, Confidence, Format, Row, Table
from textlora.readers.unpacking import check_file, is_compressed, peek

__all__ = [
    "DELIMITERS",
    "LABEL_NAMES",
    "RAW_LIMIT",
    "RECORD_LIMIT",
    "SAMPLE_ROWS",
    "TEXT_NAMES",
    "WEAK_LABEL_NAMES",
    "BadRow",
    "Columns",
    "Confidence",
    "Format",
    "Row",
    "Table",
    "check_file",
    "data_files",
    "find_columns",
    "find_text_column",
    "is_compressed",
    "kind_of",
    "open_lines",
    "open_table",
    "parquet_schema",
    "read_frame",
    "rewrite_file",
]


def open_table(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Table:
    r"""Open a CSV, TSV, JSON lines or Parquet file, plain or compressed with gzip, xz or zstd.

    Args:
        path: the file; compression and Parquet are told by the first bytes, not by the name.
        encoding: name of the text encoding; else UTF-8, or UTF-16 when a byte order mark says so.
        delimiter: what stands between CSV cells (``\t`` or ``tab`` for tabs); else found.

    Raises:
        DataError: missing, empty, header only, of another format or encoding. A wrong byte
            further down raises while iterating.
        UsageError: unknown encoding, or a delimiter of several characters.
    """
    path = Path(path)
    check_file(path)
    head = peek(path)
    if head.startswith(b"PAR1"):
        return parquet_table(path)
    source = open_text(path, head, encoding)
    if is_json(source):
        return json_table(source)
    return csv_table(source, delimiter)


def rewrite_file(
    path: Path,
    target: Path,
    *,
    column: str,
    changes: Mapping[int, Any],
    dropped: Collection[int],
    encoding: str | None = None,
) -> None:
    """Copy a file that ``open_table`` reads with other cells in one column, and without some rows.

    Args:
        path: the file; format, delimiter, encoding and line ends stay as they are.
        target: compressed if its suffix says so (``.gz``, ``.xz``, ``.zst``).
        column: whose cells change.
        changes: new cells by ``Row.number``.
        dropped: numbers of the rows to leave out.
        encoding: as for ``open_table``.

    Raises:
        DataError: the file cannot be read.
        UnicodeEncodeError: its encoding has no place for a new cell.
        OSError: the target cannot be written.
    """
    head = peek(path)
    if head.startswith(b"PAR1"):
        rewrite_parquet(path, target, column, changes, dropped)
    else:
        rewrite_text(open_text(path, head, encoding), target, column, changes, dropped)
