"""From files and data frames to rows with text and label, and the sample of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textlora import checks
from textlora.errors import DataError, did_you_mean
from textlora.preparation.ledger import CELL_LIMIT, MAIN, Entry, Ledger
from textlora.preparation.request import Origin, Request, is_frame
from textlora.readers import BadRow, Columns, Row, Table, find_columns, open_table, read_frame
from textlora.settings import DataSettings, Settings


def open_all(request: Request) -> tuple[dict[Origin, Table], Columns]:
    """Open the source and the given files, and find the columns, which all must have.

    Raises:
        DataError: a file is no table, no column can be told, or a given file lacks one.
        UsageError: a named column or the encoding does not exist.
    """
    tables: dict[Origin, Table] = {MAIN: _open(request.source, request.encoding)}
    main = tables[MAIN]
    columns = find_columns(main.head(), main.columns, text=request.text, label=request.label, where=main.name)
    for origin, item in request.given.items():
        tables[origin] = _open(item, request.encoding)
        missing = [name for name in (columns.text, columns.label) if name not in tables[origin].columns]
        if missing:
            problems = [
                f"There is no column {name!r} in {tables[origin].name}.{did_you_mean(name, tables[origin].columns)}"
                for name in missing
            ]
            message = f"The {origin} file must have the columns of {main.name}:"
            raise DataError(message, problems=problems, hint="Rename the columns of one of the files.")
    return tables, columns


def _open(source: Any, encoding: str | None) -> Table:
    return read_frame(source) if is_frame(source) else open_table(Path(source), encoding=encoding)


def line_unit(origin: Origin, table: Table) -> str:
    """Return what the line numbers of a table count, for a message: ``line``, ``test row``."""
    return f"{origin} {table.unit}" if origin else table.unit


def note_columns(ledger: Ledger, table: Table, columns: Columns) -> None:
    """Say which columns and which delimiter were taken, and how sure that is."""
    guessed = "guess" in (columns.text_confidence, columns.label_confidence)
    ledger.note("columns", "warning" if guessed else "info", columns.reason)
    if table.delimiter is not None and table.delimiter_confidence != "sure":
        level: Literal["info", "warning"] = "warning" if table.delimiter_confidence == "guess" else "info"
        ledger.note(
            "delimiter", level, f"The cells are taken as divided by {table.delimiter!r} ({table.delimiter_confidence})."
        )


def read_all(tables: Mapping[Origin, Table], columns: Columns, limits: DataSettings, ledger: Ledger) -> list[Entry]:
    """Return the whole rows of all tables; broken ones go to the ledger.

    Raises:
        DataError: more rows of a table are broken than ``limits`` allows.
    """
    entries: list[Entry] = []
    for origin, table in tables.items():
        entries += _read(origin, table, columns, limits, ledger)
    return entries


def _read(origin: Origin, table: Table, columns: Columns, limits: DataSettings, ledger: Ledger) -> list[Entry]:
    """Return the whole rows; broken ones go to the ledger, too many of them stop everything."""
    places = table.columns.index(columns.text), table.columns.index(columns.label)
    entries: list[Entry] = []
    before = ledger.read
    for row in table:
        ledger.read += 1
        if isinstance(row, BadRow):
            ledger.set_aside_broken(origin, row)
        else:
            entries.append(_entry(origin, row, places, limits.max_characters))
        if ledger.read % 1_000 == 0:
            ledger.progress("read", ledger.read, None)
    ledger.progress("read", ledger.read, None)
    _refuse_broken(
        table, ledger, ledger.read - before, ledger.read - before - len(entries), limits.max_quarantined_share
    )
    return entries


def _entry(origin: Origin, row: Row, places: tuple[int, int], limit: int) -> Entry:
    text, label = (checks.as_text(row.values[places[0]]), checks.as_label(row.values[places[1]]))
    fault = "not a text" if text is None else "not a label" if label is None else ""
    text, label = text or "", label or ""
    if max(len(text), len(label)) > limit:
        return Entry(origin, row.number, row.line, text[:CELL_LIMIT], label[:CELL_LIMIT], "oversized")
    return Entry(origin, row.number, row.line, text, label, fault)


def _refuse_broken(table: Table, ledger: Ledger, read: int, broken: int, limit: float) -> None:
    if broken <= limit * read:
        return
    raise DataError(
        f"{broken:,} of {read:,} rows of {table.name} are broken ({broken / read:.0%}), more than the {limit:.0%} that are "
        "tolerated: the file itself is suspect.",
        problems=ledger.summary(),
        hint=_broken_hint(table, broken / read),
    )


def _broken_hint(table: Table, share: float) -> str:
    cells = f" The cells were taken as divided by {table.delimiter!r}." if table.delimiter else ""
    raised = min(1.0, np.ceil(share * 100 + 1) / 100)
    return f"Mend the file.{cells} To go on without the broken rows: --set data.max_quarantined_share={raised:g}."


def draw_sample(entries: list[Entry], settings: Settings, ledger: Ledger) -> list[Entry]:
    """Draw the rows of the main source that pandas' ``sample(frac, random_state=seed)`` draws."""
    if settings.data.sample is None:
        return entries
    main = [entry for entry in entries if not entry.origin]
    size = round(settings.data.sample * len(main))
    # pandas draws with numpy's old generator; the order of the file is kept.
    if not size:
        raise DataError(
            f"A sample of {settings.data.sample:g} of {len(main):,} rows is empty.", hint="Draw more with --sample."
        )
    drawn = set(np.random.RandomState(settings.seed).choice(len(main), size=size, replace=False).tolist())
    ledger.unsampled = len(main) - size
    ledger.note(
        "sample",
        "info",
        f"A sample of {size:,} of {len(main):,} rows was drawn with seed {settings.seed}.",
        ledger.unsampled,
    )
    return [entry for entry in entries if entry.origin or entry.number in drawn]
