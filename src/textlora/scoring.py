"""File to file prediction: every input column kept, in order, with the predictions beside them."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from textlora import storage
from textlora.errors import DataError, UsageError
from textlora.readers import BadRow, Row, Table, find_text_column, open_table
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
        quarantine: where the broken lines are, if there were any.
    """

    out: Path
    text_column: str
    scored: int
    without_text: int
    quarantined: int
    truncated: int
    quarantine: Path | None


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
    added = added_columns(classifier.label_names)
    _check_output(table, out, added)
    storage.make_folder(out.parent)
    counts = _Counts()
    with _writer(out, table, source, added) as write:
        for rows in _blocks(table, counts):
            write(_scored(classifier, rows, table.columns.index(column), counts))
            if progress:
                progress(counts.done, 0)
    quarantine = _write_quarantine(out, counts.bad)
    return ScoredFile(out, column, counts.scored, counts.without_text, len(counts.bad), counts.truncated, quarantine)


class _Counts:
    def __init__(self) -> None:
        self.scored = 0
        self.without_text = 0
        self.truncated = 0
        self.bad: list[BadRow] = []

    @property
    def done(self) -> int:
        return self.scored + self.without_text + len(self.bad)


def added_columns(label_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that scoring adds."""
    return ("prediction", "probability", *(f"probability_{name}" for name in label_names))


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
    width = len(added_columns(classifier.label_names))
    return [[*row.values, *_cells(predictions.get(index), width)] for index, row in enumerate(rows)]


def _cells(prediction: Prediction | None, width: int) -> list[Any]:
    if prediction is None:
        return [None] * width
    return [prediction.label, prediction.probability, *prediction.probabilities.values()]


@contextmanager
def _writer(out: Path, table: Table, source: Path, added: Sequence[str]) -> Iterator[_Writer]:
    columns = [*table.columns, *added]
    suffix = out.suffix.lower()
    with storage.atomic_path(out) as temporary, ExitStack() as stack:
        if suffix == ".parquet":
            yield _parquet_writer(temporary, columns, _input_schema(table, source), stack)
            return
        stream = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        yield _json_writer(stream, columns) if suffix == ".jsonl" else _csv_writer(stream, columns, suffix)


def _csv_writer(stream: IO[str], columns: Sequence[str], suffix: str) -> _Writer:
    writer = csv.writer(stream, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerow(columns)
    return writer.writerows


def _json_writer(stream: IO[str], columns: Sequence[str]) -> _Writer:
    def write(rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            stream.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str) + "\n")

    return write


def _input_schema(table: Table, source: Path) -> Any:
    """Return the Arrow schema of the input columns where the file has one, else ``None``."""
    if table.format != "parquet":
        return None
    import pyarrow.parquet as pq

    return pq.read_schema(source)


def _parquet_writer(path: Path, columns: Sequence[str], inputs: Any, stack: ExitStack) -> _Writer:
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened: list[Any] = []

    def write(rows: Sequence[Sequence[Any]]) -> None:
        values: Iterable[list[Any]] = (list(column) for column in zip(*rows, strict=True))
        schema = opened[0].schema if opened else None
        arrays = {}
        for name, column in zip(columns, values, strict=True):
            known = schema or inputs
            kind = known.field(name).type if known is not None and name in known.names else None
            arrays[name] = _array(pa, name, column, kind)
        batch = pa.table(arrays)
        if not opened:
            opened.append(stack.enter_context(pq.ParquetWriter(path, batch.schema, compression="zstd")))
        opened[0].write_table(batch)

    return write


def _array(pa: Any, name: str, column: list[Any], kind: Any) -> Any:
    if kind is None:
        kind = pa.string() if name == "prediction" else pa.float64() if name.startswith("probability") else None
    try:
        return pa.array(column, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"Column {name!r} holds values of several kinds, which Parquet cannot store: {error}",
            hint="Write to a .jsonl file instead.",
        ) from error


def _write_quarantine(out: Path, bad: Sequence[BadRow]) -> Path | None:
    if not bad:
        return None
    path = out.with_name(f"{out.name}.quarantine.csv")
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["line", "reason", "raw"])
        writer.writerows([row.line, row.reason, row.raw] for row in bad)
    return path
