"""Files and data frames as rows: CSV, TSV, JSON lines and Parquet, plain or compressed.

``open_table`` finds format, compression, encoding and delimiter from the content. Iterating a
``Table`` yields a ``Row`` for every whole record and a ``BadRow`` for every broken one, in the
order of the file, so that nothing disappears unseen. CSV and JSON lines are streamed.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import lzma
import re
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from textlora.errors import DataError, UsageError, did_you_mean

Confidence = Literal["sure", "likely", "guess"]
Format = Literal["csv", "jsonl", "parquet", "frame"]

DELIMITERS = (",", ";", "\t", "|")
RECORD_LIMIT = 1 << 24
"""Characters of one record; longer ones count as broken and are never put together."""
RAW_LIMIT = 2_000
"""Characters of a broken record that are kept for the user to see."""
SAMPLE_ROWS = 1_000
"""Rows that ``Table.head`` gives to find the columns."""

_CHUNK = 1 << 20
_PEEK = 1 << 16
_SNIFF_ROWS = 200
_SNIFF_LIMIT = 1 << 20
_FAIR_SHARE = 0.5
_GOOD_SHARE = 0.9
_SHOWN_NAME = 40
_TEXT_WORDS = 3
_LABEL_WORDS = 4
_WHOLE_NAME = 2
_EXPECTED = "a CSV, TSV, JSON lines or Parquet file is expected, plain or compressed with gzip, xz or zstd"
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"BZh": "compressed with bzip2",
    b"ARROW1": "an Arrow file",
    b"7z\xbc\xaf": "a 7-Zip archive",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A whole record.

    Attributes:
        number: index among the whole records, from 0, as a data frame's index would be.
        line: line of the file where the record starts, from 1; for Parquet and data frames the
            row, from 1.
        values: one per column; text for CSV, native Python objects elsewhere, None for missing.
    """

    number: int
    line: int
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that is broken in itself; ``reason`` is one of a few stable short texts."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Table:
    """Rows with named columns; every iteration reads the source from its start."""

    name: str
    format: Format
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Row | BadRow]] = field(repr=False)
    delimiter: str | None = None
    delimiter_confidence: Confidence | None = None
    encoding: str | None = None

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Yield whole and broken records in the order of the source."""
        return self.read()

    @property
    def unit(self) -> str:
        """What ``line`` counts: lines of a text file, else rows."""
        return "line" if self.format in ("csv", "jsonl") else "row"

    def head(self, count: int = SAMPLE_ROWS) -> list[Row]:
        """Return the whole rows among the first ``count`` records."""
        return [row for row in itertools.islice(self, count) if isinstance(row, Row)]


# -- opening -------------------------------------------------------------------------------------


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
    _check_file(path)
    head = _peek(path)
    if head.startswith(b"PAR1"):
        return _parquet_table(path)
    source = _text_source(path, head, encoding)
    if _is_json(source):
        return _json_table(source)
    return _csv_table(source, _delimiter_option(delimiter))


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; {_EXPECTED}.", hint="Name one file of it.")
    if not path.exists():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{path} does not exist.{did_you_mean(path.name, siblings)}", hint="Check the path and the name."
        )
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; {_EXPECTED}.", hint="Write the data to a file first.")


def _peek(path: Path) -> bytes:
    """Return the first bytes of the content and refuse what can be no table."""
    head = bytearray()
    for chunk in _byte_chunks(path):
        head += chunk[:_PEEK]
        if len(head) >= _PEEK:
            break
    if not head.strip():
        raise DataError(f"{path} is empty.", hint="The first line must name the columns, rows must follow.")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}; {_EXPECTED}.", hint="Save or export it as CSV.")
    return bytes(head)


def _byte_chunks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content; damage becomes a ``DataError``."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(6)
        yield from _opener(magic)(path)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged: {error}.",
            hint="The compressed data ends early or is broken: copy or download the file again.",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check the file and its permissions."
        ) from error


def _opener(magic: bytes) -> Callable[[Path], Iterator[bytes]]:
    if magic.startswith(b"\x1f\x8b"):
        return _gzip_chunks
    if magic.startswith(b"\xfd7zXZ\x00"):
        return _xz_chunks
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd_chunks
    return _plain_chunks


def _plain_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _gzip_chunks(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _xz_chunks(path: Path) -> Iterator[bytes]:
    with lzma.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    # Not stream_reader: it ends without a word where a frame is cut short.
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 16):
                while block:
                    if frame.eof:
                        frame = decompressor.decompressobj()
                    yield frame.decompress(block)
                    block = frame.unused_data
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
    if not frame.eof:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")


# -- text ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    """How the bytes of a text file become lines.

    Attributes:
        path: the file.
        codec: Python's name of the encoding.
        chosen: the user named the encoding.
        skip: bytes of the byte order mark.
        newline: what ends a line.
        start: the decoded beginning, for guessing.
    """

    path: Path
    codec: str
    chosen: bool
    skip: int
    newline: str
    start: str

    def lines(self) -> Iterator[str]:
        """Yield the lines with their ends."""
        return _lines(_decoded(self), self.newline)


_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def _text_source(path: Path, head: bytes, encoding: str | None) -> _Text:
    codec, skip = _codec(head, encoding)
    if skip == 0 and encoding is None:
        _refuse_binary(path, head)
    start = head[skip:].decode(codec, errors="replace")
    newline = "\r" if "\r" in start and "\n" not in start else "\n"
    return _Text(path, codec, encoding is not None, skip, newline, start)


def _codec(head: bytes, encoding: str | None) -> tuple[str, int]:
    """Return the codec and the length of the byte order mark."""
    wanted = _encoding_option(encoding)
    for mark, codec in _MARKS:
        if head.startswith(mark) and (wanted is None or codec.startswith(wanted.removesuffix("-sig"))):
            return codec, len(mark)
    return wanted or "utf-8", 0


def _encoding_option(encoding: str | None) -> str | None:
    if encoding is None:
        return None
    try:
        b"ab".decode(encoding, errors="replace")
    except LookupError as error:
        known = ["utf-8", "utf-16", "latin-1", "cp1252", "iso-8859-15", "shift-jis", "gb18030", "koi8-r"]
        raise UsageError(
            f"There is no text encoding {encoding!r}.{did_you_mean(encoding, known)}",
            hint=f"Common ones: {', '.join(known)}.",
        ) from error
    return codecs.lookup(encoding).name


def _refuse_binary(path: Path, head: bytes) -> None:
    half = len(head) // 2
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if half and head[first::2].count(0) > 0.4 * half > 4 * head[1 - first :: 2].count(0):
            raise DataError(
                f"{path} looks like UTF-16 without a byte order mark.",
                hint=f"If that is so, say it with --encoding {name}.",
            )
    control = sum(head.count(code) for code in range(1, 32) if code not in (9, 10, 12, 13, 26, 27))
    if control > 0.05 * len(head) or head.count(0) > 0.3 * len(head):
        raise DataError(f"{path} is a binary file of unknown kind; {_EXPECTED}.", hint="Save or export it as CSV.")


def _decoded(text: _Text) -> Iterator[str]:
    """Yield the decoded text piece by piece; a wrong byte is reported with its place."""
    decoder = codecs.getincrementaldecoder(text.codec)()
    offset, lines, skip = text.skip, 1, text.skip
    for chunk in itertools.chain(_byte_chunks(text.path), (b"",)):
        data, skip = chunk[skip:], max(0, skip - len(chunk))
        pending = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(data, final=not chunk)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(text.codec, errors="replace")
            raise _encoding_error(
                text, error, offset - pending + error.start, lines + before.count(text.newline)
            ) from error
        offset += len(data)
        lines += piece.count(text.newline)
        yield piece


def _encoding_error(text: _Text, error: UnicodeDecodeError, offset: int, line: int) -> DataError:
    name = text.codec.upper()
    message = f"{text.path} is not {name}: byte 0x{error.object[error.start]:02x} at offset {offset} (line {line}) cannot be read."
    if text.chosen or text.skip:
        return DataError(message, hint="Name the encoding the file was saved with: --encoding NAME.")
    hint = (
        "If you know how the file was saved, say it: --encoding latin-1, or --encoding cp1252 for files from Windows."
    )
    return DataError(message, hint=hint)


def _lines(pieces: Iterable[str], newline: str) -> Iterator[str]:
    """Cut text into lines that keep their end; of an endless line only the start is kept."""
    rest: list[str] = []
    size = 0
    for piece in pieces:
        *whole, last = piece.split(newline)
        for part in whole:
            yield "".join((*rest, part, newline)) if rest else part + newline
            rest, size = [], 0
        rest.append(last[: max(0, RECORD_LIMIT + 1 - size)])
        size += len(rest[-1])
    if size:
        yield "".join(rest)


# -- CSV -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    """Cells of one CSV record, or the reason why there are none; ``lines`` are its raw lines."""

    line: int
    cells: list[str] | None
    reason: str
    lines: tuple[str, ...]

    @property
    def raw(self) -> str:
        return _shorten(self.lines)

    @property
    def quotes(self) -> int:
        return sum(line.count('"') for line in self.lines)


def _shorten(lines: Iterable[str]) -> str:
    return "".join(line[:RAW_LIMIT] for line in itertools.islice(lines, 20))[:RAW_LIMIT].rstrip("\r\n")


class _Feed:
    """Hands lines to ``csv.reader`` and keeps those of the record in hand, to be able to go back.

    A quote that is never closed swallows all that follows. Then the line where the record began
    is given up and reading goes on at the next line. To keep this linear, what is read in vain
    may not exceed four times what was read for good, plus one record's limit.
    """

    def __init__(self, lines: Iterable[str], limit: int) -> None:
        self._lines = iter(lines)
        self._returned: deque[str] = deque()
        self._limit = limit
        self._credit = limit
        self._room = limit
        self.line = 1
        self.held: list[str] = []
        self.cut = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._room <= 0:
            self.cut = True
            raise StopIteration
        self.held.append(self._next_line())
        self._room -= len(self.held[-1])
        if len(self.held[-1]) > RECORD_LIMIT:
            raise csv.Error("oversized line")
        return self.held[-1]

    def _next_line(self) -> str:
        if self._returned:
            return self._returned.popleft()
        try:
            return next(self._lines)
        except StopIteration:
            self.cut = True
            raise

    def begin(self) -> None:
        """Start a record."""
        self.line += len(self.held)
        self._credit += 4 * sum(map(len, self.held))
        self.held, self.cut = [], False
        self._room = max(1, min(self._limit, self._credit))

    def go_back(self) -> None:
        """Return all lines but the first of the failed record."""
        self._credit -= sum(map(len, self.held[1:]))
        self._returned.extendleft(reversed(self.held[1:]))
        del self.held[1:]


def _csv_records(lines: Iterable[str], delimiter: str, limit: int = RECORD_LIMIT) -> Iterator[_Record]:
    """Yield the records that are not blank; broken ones without cells."""
    # The limit is one of the whole process: it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))
    feed = _Feed(lines, limit)
    while True:
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        try:
            feed.begin()
            for cells in reader:
                if cells and not (len(cells) == 1 and not cells[0].strip()):
                    yield _whole_record(feed, cells)
                feed.begin()
            return
        except csv.Error:
            reason = _fault(feed)
            feed.go_back()
            yield _Record(feed.line, None, reason, tuple(feed.held))


def _whole_record(feed: _Feed, cells: list[str]) -> _Record:
    lines = tuple(feed.held)
    if any("\0" in line for line in lines):
        return _Record(feed.line, None, "nul byte", lines)
    return _Record(feed.line, cells, "", lines)


def _fault(feed: _Feed) -> str:
    first = feed.held[0]
    if "\0" in first:
        return "nul byte"
    if len(first) > RECORD_LIMIT:
        return "oversized"
    return "unclosed quote" if feed.cut or len(feed.held) > 1 else "stray quote"


def _csv_table(source: _Text, delimiter: str | None) -> Table:
    confidence: Confidence = "sure"
    if delimiter is None:
        delimiter, confidence = _find_delimiter(source)
    found = delimiter
    records = _csv_records(source.lines(), found)
    columns = _header(source.path, next(records, None))
    if next(records, None) is None:
        raise DataError(
            f"{source.path} has a header but no rows.", hint="Rows must follow the line that names the columns."
        )
    return Table(
        str(source.path),
        "csv",
        columns,
        lambda: _csv_rows(source, found, len(columns)),
        found,
        confidence,
        source.codec,
    )


def _header(path: Path, record: _Record | None) -> tuple[str, ...]:
    if record is None:
        raise DataError(f"{path} is empty.", hint="The first line must name the columns, rows must follow.")
    if record.cells is None:
        raise DataError(
            f"The header of {path} (line {record.line}) is broken: {record.reason}.",
            hint="The first line must name the columns.",
        )
    twice = sorted({name for name in record.cells if name and record.cells.count(name) > 1})
    if twice:
        raise DataError(
            f"The header of {path} names {', '.join(map(repr, twice))} more than once.",
            hint="Every column needs a name of its own.",
        )
    return tuple(record.cells)


def _csv_rows(source: _Text, delimiter: str, width: int) -> Iterator[Row | BadRow]:
    records = _csv_records(source.lines(), delimiter)
    next(records)
    number = 0
    mended = True
    for record in records:
        reason = record.reason or _width_fault(record.cells, width)
        # After a broken quote, the tail of the broken cell may look like a row: its quotes tell.
        if not reason and not mended and record.quotes % 2:
            reason = "stray quote"
        mended = not reason or (mended and "quote" not in reason)
        if reason:
            yield BadRow(record.line, reason, record.raw)
            continue
        yield Row(number, record.line, tuple(record.cells or ()))
        number += 1


def _width_fault(cells: list[str] | None, width: int) -> str:
    found = len(cells or ())
    return "" if found == width else "too few cells" if found < width else "too many cells"


def _delimiter_option(delimiter: str | None) -> str | None:
    named = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    if named is not None and (len(named) != 1 or named in '"\r\n'):
        raise UsageError(
            f"The delimiter is {delimiter!r}, expected one character.", hint="Usual ones: comma, semicolon, | or tab."
        )
    return named


def _find_delimiter(source: _Text) -> tuple[str, Confidence]:
    """Return the delimiter that cuts header and first rows into equally many cells."""
    shares = {delimiter: _even_share(source, delimiter) for delimiter in DELIMITERS}
    # Ties go to the earlier one in DELIMITERS.
    best = max(DELIMITERS, key=lambda delimiter: shares[delimiter])
    rivals = [delimiter for delimiter in DELIMITERS if delimiter != best and shares[delimiter] >= _FAIR_SHARE]
    if rivals or not shares[best]:
        return best, "guess"
    if shares[best] >= _GOOD_SHARE:
        return best, "sure"
    return best, "likely" if shares[best] >= _FAIR_SHARE or sum(map(bool, shares.values())) == 1 else "guess"


def _even_share(source: _Text, delimiter: str) -> float:
    """Return the share of the first rows with as many cells as the header; 0 for one column."""
    records = _csv_records(source.lines(), delimiter, _SNIFF_LIMIT)
    header = next(records, None)
    if header is None or header.cells is None or len(header.cells) == 1:
        return 0.0
    rows = list(itertools.islice(records, _SNIFF_ROWS))
    even = sum(len(row.cells or ()) == len(header.cells) for row in rows)
    # The header alone counts a little, so that it decides where every row is broken.
    return (even + 0.01) / (len(rows) + 0.01)


# -- JSON lines ----------------------------------------------------------------------------------


def _is_json(source: _Text) -> bool:
    suffixes = [suffix.lower() for suffix in source.path.suffixes if suffix.lower() not in (".gz", ".xz", ".zst")]
    start = source.start.lstrip()
    named = bool(suffixes) and suffixes[-1] in (".jsonl", ".ndjson", ".json")
    if named and start.startswith("["):
        raise DataError(
            f"{source.path} is a JSON array; one JSON object per line is expected.",
            hint="Convert it, for instance with `jq -c '.[]'`.",
        )
    other = bool(suffixes) and suffixes[-1] in (".csv", ".tsv", ".tab")
    return named or (start.startswith("{") and not other)


def _json_table(source: _Text) -> Table:
    columns: dict[str, None] = {}
    for _, value in _json_values(source):
        if isinstance(value, dict):
            columns.update(dict.fromkeys(value))
    if not columns:
        raise DataError(
            f"{source.path} has no JSON object in any line.",
            hint='Every line must be an object such as {"text": "…", "label": "…"}.',
        )
    return Table(
        str(source.path), "jsonl", tuple(columns), lambda: _json_rows(source, tuple(columns)), encoding=source.codec
    )


def _json_values(source: _Text) -> Iterator[tuple[int, Any]]:
    """Yield line number and object of every line that is not blank, or a ``BadRow``."""
    for number, line in enumerate(source.lines(), start=1):
        if line.strip():
            yield number, _json_value(number, line)


def _json_value(number: int, line: str) -> Any:
    if "\0" in line or len(line) > RECORD_LIMIT:
        return BadRow(number, "nul byte" if "\0" in line else "oversized", _shorten([line]))
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow(number, "not JSON", _shorten([line]))
    return value if isinstance(value, dict) else BadRow(number, "not a JSON object", _shorten([line]))


def _json_rows(source: _Text, columns: tuple[str, ...]) -> Iterator[Row | BadRow]:
    number = 0
    for line, value in _json_values(source):
        if isinstance(value, BadRow):
            yield value
            continue
        yield Row(number, line, tuple(value.get(name) for name in columns))
        number += 1


# -- Parquet and data frames ---------------------------------------------------------------------


def _parquet_table(path: Path) -> Table:
    with _parquet_file(path) as file:
        columns, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    if not rows:
        raise DataError(f"{path} has columns but no rows.", hint="At least two rows of each label are needed.")
    return Table(str(path), "parquet", columns, lambda: _parquet_rows(path))


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(_seekable(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}.", hint="Write or copy the file again.") from error


def parquet_schema(path: Path) -> Any:
    """Return the Arrow schema of a Parquet file, compressed or not.

    Raises:
        DataError: the file is damaged.
    """
    with _parquet_file(path) as file:
        return file.schema_arrow


def _seekable(path: Path) -> Any:
    """Return a file that can be read from its end, as Parquet is."""
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return str(path)
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - the Parquet reader keeps it open
    for chunk in _byte_chunks(path):
        unpacked.write(chunk)
    unpacked.seek(0)
    return unpacked


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow as pa

    number = 0
    with _parquet_file(path) as file:
        try:
            for batch in file.iter_batches(batch_size=1024):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Row(number, number + 1, values)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} is damaged after row {number}: {_first_line(error)}.", hint="Write or copy the file again."
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")


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


# -- which column is which -----------------------------------------------------------------------

# fmt: off
TEXT_NAMES = frozenset((
    "text", "texts", "review", "reviews", "sentence", "comment", "content", "body", "tweet", "message", "post", "document",
    "description", "utterance", "question", "headline", "title", "abstract", "statement", "article", "feedback", "phrase", "query",
))
LABEL_NAMES = frozenset((
    "label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity", "intent", "topic", "stance",
))
WEAK_LABEL_NAMES = frozenset(("rating", "stars", "score", "tag", "y", "spam", "toxic"))
# fmt: on


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is the text and which the label, how sure that is, and why."""

    text: str
    label: str
    text_confidence: Confidence
    label_confidence: Confidence
    reason: str


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    confidence: Confidence
    why: str


@dataclass(frozen=True, slots=True)
class _Profile:
    """What a sample shows of a column: mean characters and words, filled and distinct cells."""

    name: str
    characters: float
    words: float
    filled: int
    distinct: int

    @property
    def text_level(self) -> int:
        return 0 if self.label_level else _level(self.name, TEXT_NAMES, frozenset())

    @property
    def label_level(self) -> int:
        return _level(self.name, LABEL_NAMES, WEAK_LABEL_NAMES)

    @property
    def like_text(self) -> bool:
        return self.words >= _TEXT_WORDS and 2 * self.distinct >= self.filled

    @property
    def like_label(self) -> bool:
        return 0 < self.distinct <= min(100, max(2, self.filled // 2)) and self.words <= _LABEL_WORDS


def _level(name: str, names: frozenset[str], weak: frozenset[str]) -> int:
    """Return 2 when the whole name is known, 1 when a part is, else 0."""
    parts = [
        part.rstrip("0123456789") for part in re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    ]
    if "id" in parts:
        return 0
    if len(parts) == 1 and parts[0] in names:
        return _WHOLE_NAME
    return int(any(part in names | weak for part in parts))


def _profiles(rows: Sequence[Row], columns: Sequence[str]) -> list[_Profile]:
    return [_profile(name, [row.values[place] for row in rows]) for place, name in enumerate(columns)]


def _profile(name: str, values: Iterable[Any]) -> _Profile:
    cells = [cell for cell in (str(value)[:10_000] for value in values if value is not None) if cell.strip()]
    count = max(1, len(cells))
    characters = sum(map(len, cells)) / count
    return _Profile(name, characters, sum(len(cell.split()) for cell in cells) / count, len(cells), len(set(cells)))


def find_columns(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    text: str | None = None,
    label: str | None = None,
    where: str = "the data",
) -> Columns:
    """Find the text and the label column by name and by content.

    Args:
        rows: a sample of the rows, as ``Table.head`` gives it.
        columns: the names of all columns.
        text: the text column, when the user named it.
        label: the label column, when the user named it.
        where: what to call the source in an error.

    Raises:
        UsageError: a named column does not exist, or both are the same.
        DataError: no column or several could be meant.
    """
    _check_names(columns, where, (text, label))
    profiles = _profiles(rows, columns)
    chosen_text = (
        _Found(text, "sure", "you named it") if text else _find_text([p for p in profiles if p.name != label], where)
    )
    if label is None:
        chosen_label = _find_label([profile for profile in profiles if profile.name != chosen_text.name], where)
    else:
        chosen_label = _Found(label, "sure", "you named it")
    reason = (
        f"The text is column {chosen_text.name!r} ({chosen_text.confidence}: {chosen_text.why}), "
        f"the label column {chosen_label.name!r} ({chosen_label.confidence}: {chosen_label.why})."
    )
    return Columns(chosen_text.name, chosen_label.name, chosen_text.confidence, chosen_label.confidence, reason)


def find_text_column(
    rows: Sequence[Row], columns: Sequence[str], *, text: str | None = None, where: str = "the data"
) -> str:
    """Find the text column alone, for files without labels; a single column is the text.

    Raises:
        UsageError: the named column does not exist.
        DataError: no column or several could be meant.
    """
    _check_names(columns, where, (text,))
    if text is not None or len(columns) == 1:
        return text or columns[0]
    return _find_text(_profiles(rows, columns), where).name


def _check_names(columns: Sequence[str], where: str, names: Sequence[str | None]) -> None:
    wanted = [name for name in names if name is not None]
    problems = [
        f"There is no column {name!r} in {where}.{did_you_mean(name, columns)}"
        for name in wanted
        if name not in columns
    ]
    if len(problems) == 1:
        raise UsageError(problems[0], hint=_listed(columns))
    if problems:
        raise UsageError(f"Some columns are not in {where}:", problems=problems, hint=_listed(columns))
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"Text and label are the same column {wanted[0]!r}.", hint=_listed(columns))


def _listed(columns: Iterable[str]) -> str:
    return f"Columns: {_names(columns)}."


def _names(columns: Iterable[str]) -> str:
    return ", ".join(name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 1]}…" for name in columns)


def _find_text(profiles: Sequence[_Profile], where: str) -> _Found:
    longest = max((profile.characters for profile in profiles), default=0.0)
    # A known word inside a name counts only where the cells are long, as those of 'review_text'.
    named = [p for p in profiles if p.text_level == _WHOLE_NAME or (p.text_level and 2 * p.characters >= longest)]
    best_level = max((profile.text_level for profile in named), default=0)
    pool = [p for p in named if p.text_level == best_level] or [p for p in profiles if p.like_text]
    if not pool:
        raise _column_error("text", [], profiles, where)
    pool.sort(key=lambda profile: -profile.characters)
    if len(pool) > 1 and 2 * pool[1].characters >= pool[0].characters:
        raise _column_error("text", pool, profiles, where)
    best = pool[0]
    if not named:
        return _Found(best.name, "likely", "it has the longest texts")
    if 2 * best.characters >= longest and best.like_text:
        return _Found(best.name, "sure", "its name and its content agree")
    return _Found(best.name, "likely", "its name says so")


def _find_label(profiles: Sequence[_Profile], where: str) -> _Found:
    best_level = max((profile.label_level for profile in profiles), default=0)
    named = [profile for profile in profiles if best_level and profile.label_level == best_level]
    if len(named) == 1:
        return _named_label(named[0], best_level)
    pool = [profile for profile in named or profiles if profile.like_label and profile.distinct > 1]
    if len(pool) != 1:
        raise _column_error("label", pool or named, profiles, where)
    return _Found(pool[0].name, "likely", "it has few distinct values")


def _named_label(profile: _Profile, level: int) -> _Found:
    if not profile.like_label:
        return _Found(profile.name, "guess", "its name says so, but it has many distinct values")
    if level < _WHOLE_NAME:
        return _Found(profile.name, "likely", "a part of its name and its content say so")
    return _Found(profile.name, "sure", "its name and its content agree")


def _column_error(kind: str, pool: Sequence[_Profile], profiles: Sequence[_Profile], where: str) -> DataError:
    if pool:
        message = f"Several columns of {where} could be the {kind}: {_names(profile.name for profile in pool)}."
        return DataError(message, hint=f"Name it: --{kind} {pool[0].name}.")
    message = f"No column of {where} looks like the {kind}. {_listed(profile.name for profile in profiles)}"
    return DataError(message, hint=f"The first line must name the columns; then name it with --{kind} COLUMN.")
