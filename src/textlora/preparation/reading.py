"""From files and data frames to rows with text and label, and the sample of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from textlora import checks
from textlora.errors import DataError, did_you_mean
from textlora.label_cells import JOINT, Form, form_of, items
from textlora.preparation.attributes import Attributes, check_apart, find_attributes
from textlora.preparation.ledger import CELL_LIMIT, MAIN, SHOWN_PLACES, Entry, Ledger
from textlora.preparation.request import Origin, Request, is_frame
from textlora.preparation.rows import Rows
from textlora.preparation.spilling import Spill
from textlora.readers import BadRow, Columns, Row, Table, find_columns, open_table, read_frame
from textlora.settings import Settings
from textlora.types import Task


def open_all(request: Request) -> tuple[dict[Origin, Table], Columns, LabelColumn, Attributes]:
    """Open the source and the given files, and find the columns; text and label all must have. Tell what the labels are.

    Raises:
        DataError: a file is no table, no column can be told, or a given file lacks one.
        UsageError: a named column or the encoding does not exist.
    """
    tables: dict[Origin, Table] = {MAIN: _open(request.source, request.encoding)}
    main = tables[MAIN]
    sample = main.head()
    separator = request.settings.data.label_separator
    attributes = find_attributes(request.settings.data, main)
    columns = _find_columns(main, sample, attributes, request)
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
    place = main.columns.index(columns.label)
    form = form_of((row.values[place] for row in sample), separator)
    return tables, columns, LabelColumn(form, separator), attributes


def _find_columns(main: Table, sample: Sequence[Row], attributes: Attributes, request: Request) -> Columns:
    """Find text and label among the columns that are nothing else."""
    named = (request.text, request.label)
    places = [n for n, name in enumerate(main.columns) if name not in attributes.names or name in named]
    columns = find_columns(
        [replace(row, values=tuple(row.values[place] for place in places)) for row in sample],
        [main.columns[place] for place in places],
        text=request.text,
        label=request.label,
        where=main.name,
        label_separator=request.settings.data.label_separator,
    )
    check_apart(attributes, columns)
    return columns


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """How the cells of the label column name labels."""

    form: Form
    separator: str | None = None

    @property
    def task(self) -> Task:
        """Whether rows have one label or several: decided here, once."""
        return "single_label" if self.form == "one" else "multi_label"

    def read(self, cell: Any) -> str | None:
        """Return a cell's label, or its labels in natural order with ``JOINT`` between them; None for no label."""
        if self.form == "one":
            return checks.as_label(cell)
        found = items(cell, self.form, self.separator)
        labels = [checks.as_label(item) for item in found or ()]
        if found is None or None in labels:
            return None
        return JOINT.join(checks.natural_order({label for label in labels if label}))


def note_label_form(ledger: Ledger, column: LabelColumn, rows: Rows, name: str) -> None:
    """Say how several labels are told apart.

    Raises:
        DataError: the separator that the user named never occurs.
    """
    if column.form == "list":
        unused = "; they need no separator, so it was not used" if column.separator else ""
        ledger.note(
            "multi_label", "info", f"The label column {name!r} holds lists: rows may have several labels{unused}."
        )
    elif column.form == "separated":
        if not any(JOINT in text for text in rows.label_texts):
            shown = ", ".join(repr(text) for text in rows.label_texts[:SHOWN_PLACES] if text)
            raise DataError(
                f"The separator {column.separator!r} stands between no two labels of the column {name!r}; its cells are {shown or 'empty'}.",
                hint="Name the right one with --label-separator, or leave it out where every row has one label.",
            )
        message = f"The labels in column {name!r} are divided by {column.separator!r}: rows may have several labels."
        ledger.note("multi_label", "info", message)


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


def read_all(
    tables: Mapping[Origin, Table],
    columns: tuple[Columns, LabelColumn, Attributes],
    settings: Settings,
    ledger: Ledger,
    broken: Spill,
) -> Iterator[Entry]:
    """Yield the whole rows of all tables, of the main source those of the sample; broken ones go to ``broken``.

    Raises:
        DataError: more rows of a table are broken than the settings allow, or the sample is empty.
    """
    for origin, table in tables.items():
        entry = _entry_reader(origin, table, columns, settings.data.max_characters)
        entries = _read(origin, table, entry, settings.data.max_quarantined_share, ledger, broken)
        yield from entries if origin else _sample(entries, settings, ledger, broken.folder)


def _read(  # noqa: PLR0917 - a table, how to read it, and where rows go
    origin: Origin, table: Table, entry: Callable[[Row], Entry], limit: float, ledger: Ledger, broken: Spill
) -> Iterator[Entry]:
    """Yield the whole rows; too many broken ones stop everything."""
    before, faults = ledger.read, 0
    for row in table:
        ledger.read += 1
        if isinstance(row, BadRow):
            faults += 1
            broken.append(f"{origin}/" if origin else "", row.line, _utf8(row.raw), fault=row.reason)
            ledger.set_aside(row.reason, 1, [(origin, row.line)])
        else:
            yield entry(row)
        if ledger.read % 1_000 == 0:
            ledger.progress("read", ledger.read, _expected(table, before, ledger.read))
    ledger.progress("read", ledger.read, None)
    _refuse_broken(table, ledger, ledger.read - before, faults, limit)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _expected(table: Table, before: int, read: int) -> int | None:
    """Return how many rows there will be, from the share of the bytes that is read; None where that says nothing."""
    share = table.meter.share
    return before + round((read - before) / share) if 0 < share < 1 else None


def _entry_reader(
    origin: Origin, table: Table, columns: tuple[Columns, LabelColumn, Attributes], limit: int
) -> Callable[[Row], Entry]:
    """Return what makes an entry of a row of the table; cells longer than ``limit`` are cut, and the row faulty."""
    names, labels, attributes = columns
    text_place, label_place = table.columns.index(names.text), table.columns.index(names.label)
    extra = attributes.reader(origin, table.columns)
    wrong = "not a list of labels" if labels.form == "list" else "not a label"

    def read(row: Row) -> Entry:
        text, label = checks.as_text(row.values[text_place]), labels.read(row.values[label_place])
        fault = "not a text" if text is None else wrong if label is None else ""
        row_id = f"{origin}/{row.number}" if origin else str(row.number)
        text, label = text or "", label or ""
        if max(len(text), len(label)) > limit:
            text, label, fault = text[:CELL_LIMIT], label[:CELL_LIMIT], "oversized"
        return Entry(origin, row_id, row.line, text, label, fault, extra(row, row_id))

    return read


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


def _sample(entries: Iterator[Entry], settings: Settings, ledger: Ledger, folder: Path) -> Iterator[Entry]:
    """Yield the rows that pandas' ``sample(frac, random_state=seed)`` draws, in the order of the file."""
    if settings.data.sample is None:
        yield from entries
        return
    with closing(Spill(folder)) as whole:
        # How many there are is known only when all are read.
        for entry in entries:
            whole.add(entry)
        for _, block in whole.chosen(_drawn(len(whole), settings, ledger)):
            for row, line, text, label, fault, extra in zip(
                *(column.to_pylist() for column in block.columns), strict=True
            ):
                yield Entry(MAIN, row, line, text.decode("utf-8", "surrogatepass"), label, fault, tuple(extra))


def _drawn(count: int, settings: Settings, ledger: Ledger) -> NDArray[np.bool_]:
    """Return which rows (N,) the sample holds."""
    share = settings.data.sample or 1.0
    size = round(share * count)
    if not size:
        raise DataError(f"A sample of {share:g} of {count:,} rows is empty.", hint="Draw more with --sample.")
    drawn = np.zeros(count, dtype=np.bool_)
    # pandas draws with numpy's old generator.
    drawn[np.random.RandomState(settings.seed).choice(count, size=size, replace=False)] = True
    ledger.unsampled = count - size
    message = f"A sample of {size:,} of {count:,} rows was drawn with seed {settings.seed}."
    ledger.note("sample", "info", message, ledger.unsampled)
    return drawn
