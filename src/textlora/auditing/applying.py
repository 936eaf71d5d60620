"""A reviewed audit turned into a corrected copy of the file: everything is checked before anything is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textlora import checks, readers, storage
from textlora.auditing.decisions import DROP, KEEP, LabelWords
from textlora.auditing.nouns import Correction
from textlora.auditing.review import Reviewed, read_review, row_key
from textlora.errors import DataError, UsageError
from textlora.label_cells import JOINT, items
from textlora.preparation.ledger import MAIN
from textlora.preparation.reading import LabelColumn, open_all
from textlora.preparation.request import Request, is_frame
from textlora.readers import Row, Table

_SHOWN = 20


def apply_review(request: Request, review: Path, out: Path) -> Correction:
    """Write a copy of a file with the labels as a review decided.

    Args:
        request: the file, read as it was audited.
        review: the reviewed ``audit.csv``.
        out: the copy; replaced if it is there.

    Raises:
        UsageError: the review is of another file, has impossible decisions, or ``out`` is a file in use here.
        DataError: a file cannot be read.
        ResourceError: the copy cannot be written.
    """
    _check_paths(request, review, out)
    reviewed = read_review(review)
    tables, columns, cells, _ = open_all(request)
    table = tables[MAIN]
    seen = _look_up(table, (columns.text, columns.label), cells, request, {one.row for one in reviewed})
    words = LabelWords(_names(seen, request), several=cells.task == "multi_label", separator=cells.separator)
    decided = _decide(reviewed, seen, words, (review, request.source))
    changes = {number: seen.cell(labels, cells, table) for number, labels in decided.changes.items()}
    _write(request, out, columns.label, changes, decided.dropped)
    return Correction(
        out=out,
        rows=seen.rows - len(decided.dropped),
        changed=dict(decided.told.most_common()),
        dropped=len(decided.dropped),
        confirmed=decided.confirmed,
        undecided=decided.undecided,
    )


def _check_paths(request: Request, review: Path, out: Path) -> None:
    if is_frame(request.source):
        raise UsageError("A review is applied to a file, not to a data frame.", hint="Write the frame to a file first.")
    for path, what in ((Path(request.source), "the audited file"), (review, "the reviewed file")):
        if out.exists() and path.exists() and path.samefile(out):
            raise UsageError(f"{out} is {what} itself, which stays as it is.", hint="Name another file with --out.")
    known = _format_of(Path(request.source)), _format_of(out)
    if known[0] and known[1] and known[0] != known[1]:
        raise UsageError(
            f"{out.name} ends in {known[1]!r}, but the copy keeps the format of {request.source}.",
            hint=f"Name a file that ends in {known[0]}.",
        )


def _format_of(path: Path) -> str:
    """Return the suffix that tells the format, without that of a compression; empty if none is known."""
    last = readers.kind_of(path)
    same = {".ndjson": ".jsonl", ".json": ".jsonl"}
    return same.get(last, last) if last in (".csv", ".tsv", ".parquet", ".jsonl", *same) else ""


# -- the audited file ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What the audited file holds: the rows that the review names, and all labels.

    Attributes:
        found: line, key and labels of each reviewed row, by its number as text.
        counts: how often each label occurs.
        raw: how the source writes each label.
        rows: whole rows.
        unit: what the lines count.
    """

    unit: str
    found: dict[str, tuple[int, str, tuple[str, ...]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    raw: dict[str, Any] = field(default_factory=dict)
    rows: int = 0

    def cell(self, labels: Sequence[str], cells: LabelColumn, table: Table) -> Any:
        """Return the cell that gives a row these labels, in the form of the column."""
        raw = [self.raw.get(label, label) for label in labels]
        if cells.form == "one":
            return raw[0]
        if cells.form == "separated":
            return (cells.separator or "").join(map(str, raw))
        return json.dumps(raw, ensure_ascii=False) if table.format == "csv" else raw


def _look_up(table: Table, columns: tuple[str, str], cells: LabelColumn, request: Request, wanted: set[str]) -> _Seen:
    """Go through the file once, as the audit did."""
    seen = _Seen(table.unit)
    text_place, label_place = (table.columns.index(name) for name in columns)
    for row in table:
        if not isinstance(row, Row):
            continue
        seen.rows += 1
        cell = row.values[label_place]
        label = cells.read(cell)
        for item in items(cell, cells.form, cells.separator) or ():
            if name := checks.as_label(item):
                seen.counts[name] += 1
                seen.raw.setdefault(name, item)
        if str(row.number) in wanted:
            text = checks.clean_text(
                checks.as_text(row.values[text_place]) or "", markup=request.settings.data.clean_html
            )
            labels = tuple(label.split(JOINT)) if label else ()
            seen.found[str(row.number)] = (row.line, row_key(str(row.number), text), labels)
    return seen


def _names(seen: _Seen, request: Request) -> Sequence[str]:
    """Return the labels that a row may be given: those that occur, but for misspelt ones."""
    variants = checks.spelling_variants(seen.counts)
    counts = {name: count for name, count in seen.counts.items() if name not in variants}
    typos = checks.label_typos(counts)
    asked = [name for name in request.labels or () if name.casefold() not in {one.casefold() for one in counts}]
    return (*checks.natural_order(set(counts) - set(typos)), *asked)


# -- the decisions -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Decided:
    changes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)
    confirmed: int = 0
    undecided: int = 0


def _decide(reviewed: Sequence[Reviewed], seen: _Seen, words: LabelWords, files: tuple[Path, Any]) -> _Decided:
    """Return what the review says, or raise with all that is wrong with it."""
    review, source = files
    strangers = list(_strangers(reviewed, seen, words))
    if reviewed and len(strangers) == len(reviewed):
        raise UsageError(
            f"{review} was not made from {source}: none of its {len(reviewed):,} rows is there with the same text and label.",
            hint="Name the file that was audited, with the same --text, --label and --set options.",
        )
    problems = [*strangers, *_doubles(reviewed), *_unknown(reviewed, words)]
    if problems:
        more = [f"{len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
        raise UsageError(
            f"{review} cannot be applied to {source}:",
            problems=[*problems[:_SHOWN], *more],
            hint="Mend the review; nothing was written.",
        )
    return _tally(reviewed, seen, words)


def _strangers(reviewed: Sequence[Reviewed], seen: _Seen, words: LabelWords) -> Iterator[str]:
    """Tell which rows of the review are not in the source as they were audited."""
    for one in reviewed:
        if one.row not in seen.found:
            yield f"{one.place}: the row {one.row!r} is not in the source"
            continue
        line, key, labels = seen.found[one.row]
        if key != one.key:
            yield f"{one.place}: row {one.row} ({seen.unit} {line}) has another text in the source"
        elif _folded(words, one.label) != {label.casefold() for label in labels}:
            yield (
                f"{one.place}: row {one.row} ({seen.unit} {line}) has the label {words.show(labels)!r} in the source, "
                f"not {one.label!r}"
            )


def _folded(words: LabelWords, text: str) -> set[str]:
    """Return the labels that a cell names, known ones or not, without capitals."""
    known = words.labels(text)
    parts = known if known is not None else text.split(words.joint) if words.several else (text,)
    return {" ".join(part.split()).casefold() for part in parts}


def _doubles(reviewed: Sequence[Reviewed]) -> Iterator[str]:
    first: dict[str, str] = {}
    for one in reviewed:
        if one.row in first:
            yield f"{one.place}: row {one.row} is there already ({first[one.row]})"
        first.setdefault(one.row, one.place)


def _unknown(reviewed: Sequence[Reviewed], words: LabelWords) -> Iterator[str]:
    for one in reviewed:
        if one.decision and words.decide(one.decision) is None:
            yield f"{one.place}: the decision is {one.decision!r}, {words.expected(one.decision)}"


def _tally(reviewed: Sequence[Reviewed], seen: _Seen, words: LabelWords) -> _Decided:
    done = _Decided()
    for one in reviewed:
        decision = words.decide(one.decision) if one.decision else ""
        labels = seen.found[one.row][2]
        if decision == "":
            done.undecided += 1
        elif decision == DROP:
            done.dropped.add(int(one.row))
        elif decision in (KEEP, labels):
            done.confirmed += 1
        elif isinstance(decision, tuple):
            done.changes[int(one.row)] = decision
            done.told[f"{words.show(labels)} -> {words.show(decision)}"] += 1
    return done


def _write(request: Request, out: Path, column: str, changes: Mapping[int, Any], dropped: set[int]) -> None:
    storage.make_folder(out.absolute().parent)
    try:
        with storage.atomic_path(out) as temporary:
            readers.rewrite_file(
                Path(request.source), temporary, column=column, changes=changes, dropped=dropped,
                encoding=request.encoding,
            )  # fmt: skip
    except UnicodeEncodeError as error:
        raise DataError(
            f"{request.source} is in {request.encoding or error.encoding}, which has no {error.object[error.start]!r}.",
            hint="Save the file as UTF-8 first.",
        ) from error
