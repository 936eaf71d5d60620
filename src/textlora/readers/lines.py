"""Plain text files: every line that is not empty is a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from textlora.readers.decoding import open_text
from textlora.readers.tables import RECORD_LIMIT, BadRow, Row, Table, shorten
from textlora.readers.unpacking import check_file, peek

COLUMN = "text"
COMPRESSIONS = (".gz", ".xz", ".zst")


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file holds, such as ``.csv``, behind that of its compression; or ``""``."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def open_lines(path: Path, *, encoding: str | None = None) -> Table:
    """Open a file of plain text as a table with the one column ``text``.

    Raises:
        DataError: missing, empty, binary or of another encoding.
        UsageError: unknown encoding.
    """
    path = Path(path)
    check_file(path)
    source = open_text(path, peek(path), encoding)

    def read() -> Iterator[Row | BadRow]:
        number = 0
        for line, text in enumerate(source.lines(), start=1):
            if len(text) > RECORD_LIMIT:
                yield BadRow(line, "oversized", shorten([text]))
            elif text.strip():
                yield Row(number, line, (text.rstrip("\r\n"),))
                number += 1

    return Table(str(path), "text", (COLUMN,), read, encoding=source.codec, meter=source.meter)
