"""File to file prediction: every input column kept, in order, with the predictions beside them."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from textlora import storage
from textlora.errors import UsageError
from textlora.readers import BadRow, Row, Table, find_text_column, open_table, parquet_schema
from textlora.types import Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
BLOCK = 2_048


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What became of a file's rows: ``read == scored + without_text + quarantined``.

    Attributes:
        out: the written file.
        scored: rows with a prediction.
        without_text: rows kept with an empty prediction, since their text is missing.
        quarantined: broken lines, which are in ``quarantine`` instead.
        truncated: scored rows whose text was cut.
        not_sure: scored rows that the classifier abstains from; None where it never does.
        quarantine: where the broken lines are, if there were any.
    """

    out: Path
    text_column: str
    scored: int
    without_text: int
    quarantined: int
    truncated: int
    quarantine: Path | None
    not_sure: int | None = None


class _Writer(Protocol):
    def __call__(self, rows: Sequence[Sequence[Any]]) -> None: ...


def score_file(
    classifier: Classifier,
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    encoding: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredFile:
    """Predict every row of a CSV, TSV, JSON lines or Parquet file.

    Args:
        classifier: the model.
        source: the file, compressed or not.
        out: written atomically; its suffix chooses the format (``.csv .tsv .jsonl .parquet``).
        text: name of the text column; by default the one of the training file, else found.
        encoding: of the source, when it is neither UTF-8 nor UTF-16.
        progress: called with the rows done and 0, since the number of rows is not known before.

    Raises:
        UsageError: unknown output format, or the file already has a column of a prediction.
        DataError: the file cannot be read.
        ResourceError: the output cannot be written.
    """
    table = open_table(source, encoding=encoding)
    column = _text_column(table, classifier.bundle.text_column, text)
    added = added_columns(classifier.label_names, sets=classifier.bundle.abstention is not None)
    _check_output(table, out, added)
    storage.make_folder(out.parent)
    counts = _Counts()
    with _writer(out, table, source, added, several=_gives_several(classifier)) as write:
        for rows in _blocks(table, counts):
            write(_scored(classifier, rows, table.columns.index(column), counts))
            if progress:
                progress(counts.done, 0)
    quarantine = _write_quarantine(out, counts.bad)
    return ScoredFile(
        out,
        column,
        counts.scored,
        counts.without_text,
        len(counts.bad),
        counts.truncated,
        quarantine,
        counts.not_sure if classifier.bundle.abstention else None,
    )


class _Counts:
    def __init__(self) -> None:
        self.scored = 0
        self.without_text = 0
        self.truncated = 0
        self.not_sure = 0
        self.bad: list[BadRow] = []

    @property
    def done(self) -> int:
        return self.scored + self.without_text + len(self.bad)


NOT_SURE, POSSIBLE = "not_sure", "possible_labels"
"""Columns of a classifier with an error rate."""


def added_columns(label_names: Sequence[str], *, sets: bool = False) -> tuple[str, ...]:
    """Return the names of the columns that scoring adds; ``sets`` with those of a classifier with an error rate."""
    probabilities = (f"probability_{name}" for name in label_names)
    return ("prediction", "probability", *((NOT_SURE, POSSIBLE) if sets else ()), *probabilities, "truncated")


def _text_column(table: Table, known: str, text: str | None) -> str:
    if text is None and known in table.columns:
        return known
    return find_text_column(table.head(), table.columns, text=text, where=table.name)


def _check_output(table: Table, out: Path, added: Sequence[str]) -> None:
    if out.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{out.name} ends in {out.suffix or 'nothing'!r}, expected one of {' '.join(FORMATS)}.",
            hint="The suffix of --out chooses the format.",
        )
    taken = [name for name in added if name in table.columns]
    if taken:
        raise UsageError(
            f"{table.name} already has the column{'s' if len(taken) > 1 else ''} {', '.join(map(repr, taken))}, which the predictions would be written to.",
            hint="Rename or drop them first.",
        )


def _blocks(table: Table, counts: _Counts) -> Iterator[list[Row]]:
    whole = _whole_rows(table, counts)
    while block := list(itertools.islice(whole, BLOCK)):
        yield block


def _whole_rows(table: Table, counts: _Counts) -> Iterator[Row]:
    for row in table:
        if isinstance(row, BadRow):
            counts.bad.append(row)
        else:
            yield row


def _scored(classifier: Classifier, rows: Sequence[Row], column: int, counts: _Counts) -> list[list[Any]]:
    texts = [row.values[column] for row in rows]
    present = [index for index, text in enumerate(texts) if text is not None and str(text).strip()]
    found = classifier.predict([str(texts[index]) for index in present])
    predictions = dict(zip(present, found, strict=True))
    counts.scored += len(found)
    counts.without_text += len(rows) - len(found)
    counts.truncated += sum(prediction.truncated for prediction in found)
    counts.not_sure += sum(prediction.abstains for prediction in found)
    sets, several = classifier.bundle.abstention is not None, _gives_several(classifier)
    width = len(added_columns(classifier.label_names, sets=sets))
    return [
        [*row.values, *_cells(predictions.get(index), width, several=several, sets=sets)]
        for index, row in enumerate(rows)
    ]


def _gives_several(classifier: Classifier) -> bool:
    return classifier.bundle.task == "multi_label"


def _cells(prediction: Prediction | None, width: int, *, several: bool, sets: bool) -> list[Any]:
    if prediction is None:
        return [None] * width
    given = list(prediction.labels) if several else prediction.label
    doubt = [prediction.abstains, list(prediction.labels)] if sets else []
    return [given, prediction.probability, *doubt, *prediction.probabilities.values(), prediction.truncated]


@contextmanager
def _writer(out: Path, table: Table, source: Path, added: Sequence[str], *, several: bool) -> Iterator[_Writer]:
    columns = [*table.columns, *added]
    suffix = out.suffix.lower()
    with storage.atomic_path(out) as temporary, ExitStack() as stack:
        if suffix == ".parquet":
            yield _parquet_writer(temporary, _schema(table, source, added, several=several), stack)
            return
        # A lone surrogate, which JSON lines may hold, is written as the escape that JSON has for it.
        stream = stack.enter_context(temporary.open("w", encoding="utf-8", errors="backslashreplace", newline=""))
        yield _json_writer(stream, columns) if suffix == ".jsonl" else _csv_writer(stream, columns, suffix)


def _csv_writer(stream: IO[str], columns: Sequence[str], suffix: str) -> _Writer:
    writer = csv.writer(stream, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerow(columns)
    return lambda rows: writer.writerows(map(_csv_cell, row) for row in rows)


def _csv_cell(value: Any) -> Any:
    """Return a list as JSON text, which ``prepare`` reads back as one."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _json_writer(stream: IO[str], columns: Sequence[str]) -> _Writer:
    def write(rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            values = dict(zip(columns, map(_finite, row), strict=True))
            stream.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")

    return write


def _finite(value: Any) -> Any:
    """Return None for NaN and the infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parquet_writer(path: Path, schema: Any, stack: ExitStack) -> _Writer:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))

    def write(rows: Sequence[Sequence[Any]]) -> None:
        columns = zip(*rows, strict=True)
        arrays = [_array(pa, field, column) for field, column in zip(schema, columns, strict=True)]
        file.write_table(pa.Table.from_arrays(arrays, schema=schema))

    return write


def _schema(table: Table, source: Path, added: Sequence[str], *, several: bool) -> Any:
    """Return the Arrow schema of the output; the input columns keep the types they have."""
    import pyarrow as pa

    if table.format == "parquet":
        inputs = list(parquet_schema(source))
    else:
        kinds = _json_kinds(table) if table.format == "jsonl" else {}
        inputs = [pa.field(name, _arrow_type(pa, kinds.get(name, {str}))) for name in table.columns]
    types = {added[0]: pa.list_(pa.string()) if several else pa.string(), added[-1]: pa.bool_()}
    if NOT_SURE in added:
        types |= {NOT_SURE: pa.bool_(), POSSIBLE: pa.list_(pa.string())}
    outputs = [pa.field(name, types.get(name, pa.float64())) for name in added]
    return pa.schema([*inputs, *outputs])


def _json_kinds(table: Table) -> dict[str, set[type]]:
    """Return the kinds of values in each column; the first rows alone would not do."""
    kinds: dict[str, set[type]] = {name: set() for name in table.columns}
    for row in table:
        if isinstance(row, Row):
            for name, value in zip(table.columns, row.values, strict=True):
                kinds[name].add(_kind(value))
    return {name: found - {type(None)} for name, found in kinds.items()}


def _kind(value: Any) -> type:
    too_large = isinstance(value, int) and abs(value) >= 2**63
    return dict if too_large else type(value)


def _arrow_type(pa: Any, kinds: set[type]) -> Any:
    """Return the Arrow type for JSON values; what has no simple one becomes JSON text."""
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _array(pa: Any, field: Any, column: Sequence[Any]) -> Any:
    if pa.types.is_string(field.type):
        column = [value if value is None else _text(value) for value in column]
    return pa.array(column, type=field.type)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_quarantine(out: Path, bad: Sequence[BadRow]) -> Path | None:
    path = out.with_name(f"{out.name}.quarantine.csv")
    if not bad:
        path.unlink(missing_ok=True)  # of an earlier call
        return None
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["line", "reason", "raw"])
        writer.writerows([row.line, row.reason, row.raw] for row in bad)
    return path
