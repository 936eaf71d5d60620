"""From the file to its bytes: plain, or decompressed as its first bytes tell."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from textlora.errors import DataError, did_you_mean

EXPECTED = "a CSV, TSV, JSON lines or Parquet file is expected, plain or compressed with gzip, xz or zstd"
_CHUNK = 1 << 20
_PEEK = 1 << 16
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"BZh": "compressed with bzip2",
    b"ARROW1": "an Arrow file",
    b"7z\xbc\xaf": "a 7-Zip archive",
}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def check_file(path: Path) -> None:
    """Refuse what is not a file.

    Raises:
        DataError: it is missing, a folder, or a device or pipe.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; {EXPECTED}.", hint="Name one file of it.")
    if not path.exists():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{path} does not exist.{did_you_mean(path.name, siblings)}", hint="Check the path and the name."
        )
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; {EXPECTED}.", hint="Write the data to a file first.")


def peek(path: Path) -> bytes:
    """Return the first bytes of the content and refuse what can be no table."""
    head = bytearray()
    for chunk in byte_chunks(path):
        head += chunk[:_PEEK]
        if len(head) >= _PEEK:
            break
    if not head.strip():
        raise DataError(f"{path} is empty.", hint="The first line must name the columns, rows must follow.")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}; {EXPECTED}.", hint="Save or export it as CSV.")
    return bytes(head)


class Meter:
    """How much of a file an iteration has read.

    Attributes:
        share: of the file's bytes, or of a Parquet file's rows; 0 before the first.
    """

    def __init__(self) -> None:
        self.share = 0.0


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed, as its first bytes tell."""
    with path.open("rb") as stream:
        return _opener(stream.read(6)) is not _plain_chunks


def byte_chunks(path: Path, meter: Meter | None = None) -> Iterator[bytes]:
    """Yield the decompressed content; damage becomes a ``DataError``."""
    try:
        with path.open("rb") as stream:
            opener = _opener(stream.read(6))
            stream.seek(0)
            size = max(1, path.stat().st_size)
            for chunk in opener(stream):
                if meter is not None:
                    meter.share = stream.tell() / size
                yield chunk
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged: {error}.",
            hint="The compressed data ends early or is broken: copy or download the file again.",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check the file and its permissions."
        ) from error


def _opener(magic: bytes) -> Callable[[BinaryIO], Iterator[bytes]]:
    if magic.startswith(b"\x1f\x8b"):
        return _gzip_chunks
    if magic.startswith(b"\xfd7zXZ\x00"):
        return _xz_chunks
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd_chunks
    return _plain_chunks


def _plain_chunks(stream: _Readable) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _gzip_chunks(stream: BinaryIO) -> Iterator[bytes]:
    with gzip.open(stream) as content:
        yield from _plain_chunks(content)


def _xz_chunks(stream: BinaryIO) -> Iterator[bytes]:
    with lzma.open(stream) as content:
        yield from _plain_chunks(content)


def _zstd_chunks(stream: BinaryIO) -> Iterator[bytes]:
    import zstandard

    # Not stream_reader: it ends without a word where a frame is cut short.
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    try:
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
