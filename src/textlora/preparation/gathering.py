"""All rows of a source, cleaned and with the numbers of their labels; their texts wait on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from textlora import storage
from textlora.preparation.cleaning import collect, name_labels
from textlora.preparation.label_sets import name_label_sets
from textlora.preparation.ledger import MAIN, Ledger, Progress
from textlora.preparation.reading import line_unit, note_columns, note_label_form, open_all, read_all
from textlora.preparation.request import Request
from textlora.preparation.rows import Rows
from textlora.preparation.spilling import Spill, check_disk
from textlora.preparation.times import Clock, Times
from textlora.readers import Columns


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was read.

    Attributes:
        rows: all whole rows, those without text or known label set aside.
        names: the label names.
        columns: where text and label were found.
        times: when the rows were written, where a column says so.
        broken: the records that are no rows.
        ledger: counts and findings so far.
        folder: the request's folder, which exists.
    """

    rows: Rows
    names: tuple[str, ...]
    columns: Columns
    times: Times | None
    broken: Spill
    ledger: Ledger
    folder: Path


@contextmanager
def gathered(request: Request, out: Path, progress: Progress) -> Iterator[Gathered]:
    """Read, clean and name the labels; what waits on disk is gone when the context ends.

    Raises:
        DataError: the file cannot become labelled rows.
        UsageError: a column, label list or encoding that makes no sense.
        ResourceError: the folder cannot be written, or its disk is too small.
    """
    tables, columns, cells, attributes = open_all(request)
    folder = storage.make_folder(out)
    check_disk(folder, request)
    ledger = Ledger(progress, {origin: line_unit(origin, table) for origin, table in tables.items()})
    note_columns(ledger, tables[MAIN], columns)
    with closing(Spill(folder)) as texts, closing(Spill(folder)) as broken:
        rows = Rows(texts, columns.label, attributes.kept, several=cells.task == "multi_label")
        entries = read_all(tables, (columns, cells, attributes), request.settings, ledger, broken)
        clock = Clock(attributes.time) if attributes.time else None
        collect(entries, rows, ledger, markup=request.settings.data.clean_html, clock=clock)
        times = clock.times(tables[MAIN].name, ledger) if clock else None
        note_label_form(ledger, cells, rows, columns.label)
        names = (name_label_sets if rows.several else name_labels)(rows, request, ledger)
        yield Gathered(rows, names, columns, times, broken, ledger, folder)
