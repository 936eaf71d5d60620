"""The file that a person reviews: written with one suspect a row, read back with decisions."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from textlora import checks, readers, storage
from textlora.auditing.nouns import Suspect
from textlora.errors import DataError, UsageError
from textlora.readers import BadRow, Table

COLUMNS = (
    "rank", "decision", "kind", "label", "suggested", "probability", "suggested_probability", "text", "similar_line",
    "row", "line", "key",
)  # fmt: skip
NEEDED = ("row", "label", "decision", "key")
CELL_LIMIT = 30_000
"""Characters of a text in a cell; spreadsheets take a few more."""
_DIGITS = 4


def row_key(row: str, text: str) -> str:
    """Return a short hash of a row and its cleaned text; the letter keeps spreadsheets from seeing a number."""
    digest = hashlib.blake2b(f"{row}\x1f{text}".encode("utf-8", "surrogatepass"), digest_size=5)
    return f"k{digest.hexdigest()}"


def write_review(path: Path, suspects: Iterable[Suspect]) -> None:
    """Write the suspects for a spreadsheet, the worst first; the column ``decision`` is empty.

    Raises:
        ResourceError: the file cannot be written.
    """
    # With a byte order mark, which tells Excel that it is UTF-8.
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, one in enumerate(suspects, start=1):
            texts = map(checks.spreadsheet_cell, (one.kind, one.label, one.suggested))
            probabilities = (_figure(one.probability), _figure(one.suggested_probability))
            text = checks.spreadsheet_cell(one.text[:CELL_LIMIT])
            writer.writerow(
                (rank, "", *texts, *probabilities, text, one.similar_line or "", one.row, one.line, one.key)
            )


def _figure(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.{_DIGITS}f}"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A row of a reviewed file; ``place`` says where it stands there."""

    place: str
    row: str
    label: str
    decision: str
    key: str


def read_review(path: Path) -> list[Reviewed]:
    """Read a reviewed file, in whatever order, with whatever delimiter and in whatever encoding it was saved.

    Raises:
        DataError: it cannot be read, or lines of it are broken.
        UsageError: it lacks a column.
    """
    try:
        return _read(readers.open_table(path), path)
    except DataError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        # Spreadsheets on Windows save so; what it does to other scripts is seen when labels are compared.
        return _read(readers.open_table(path, encoding="cp1252"), path)


def _read(table: Table, path: Path) -> list[Reviewed]:
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UsageError(
            f"{path} is no reviewed audit: it has no column {', '.join(map(repr, missing))}.",
            hint="Take the audit.csv that `textlora audit` wrote; other columns and rows may be deleted, these are needed.",
        )
    places = [table.columns.index(name) for name in NEEDED]
    found: list[Reviewed] = []
    broken: list[str] = []
    for row in table:
        if isinstance(row, BadRow):
            broken.append(f"{table.unit} {row.line}: {row.reason}")
            continue
        cells = (checks.from_spreadsheet(str(row.values[place] or "")) for place in places)
        number, *rest = cells
        found.append(Reviewed(f"{table.unit} {row.line}", number.removesuffix(".0"), *rest))
    _refuse_broken(path, broken)
    return found


def _refuse_broken(path: Path, broken: Sequence[str]) -> None:
    if broken:
        raise DataError(
            f"{len(broken)} row{'s' if len(broken) > 1 else ''} of {path} cannot be read:",
            problems=broken[:10],
            hint="Save the file as CSV again; nothing was changed.",
        )
