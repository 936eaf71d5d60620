"""From bytes to lines: encoding, byte order mark and line ends."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from textlora.errors import DataError, UsageError, did_you_mean
from textlora.readers.tables import RECORD_LIMIT
from textlora.readers.unpacking import EXPECTED, Meter, byte_chunks

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, slots=True)
class TextFile:
    """How the bytes of a text file become lines.

    Attributes:
        path: the file.
        codec: Python's name of the encoding.
        chosen: the user named the encoding.
        skip: bytes of the byte order mark.
        newline: what ends a line.
        start: the decoded beginning, for guessing.
        meter: told how far an iteration of the lines has come.
    """

    path: Path
    codec: str
    chosen: bool
    skip: int
    newline: str
    start: str
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    def lines(self) -> Iterator[str]:
        """Yield the lines with their ends."""
        return _lines(_decoded(self), self.newline)


def open_text(path: Path, head: bytes, encoding: str | None) -> TextFile:
    """Return how a text file is read, from its first bytes and the encoding the user named.

    Raises:
        UsageError: there is no such encoding.
        DataError: the file is binary, or in UTF-16 without a byte order mark.
    """
    codec, skip = _codec(head, encoding)
    if skip == 0 and encoding is None:
        _refuse_binary(path, head)
    start = head[skip:].decode(codec, errors="replace")
    newline = "\r" if "\r" in start and "\n" not in start else "\n"
    return TextFile(path, codec, encoding is not None, skip, newline, start)


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
        raise DataError(f"{path} is a binary file of unknown kind; {EXPECTED}.", hint="Save or export it as CSV.")


def _decoded(text: TextFile) -> Iterator[str]:
    """Yield the decoded text piece by piece; a wrong byte is reported with its place."""
    decoder = codecs.getincrementaldecoder(text.codec)()
    offset, lines, skip = text.skip, 1, text.skip
    for chunk in itertools.chain(byte_chunks(text.path, text.meter), (b"",)):
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


def _encoding_error(text: TextFile, error: UnicodeDecodeError, offset: int, line: int) -> DataError:
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
