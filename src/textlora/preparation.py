"""``prepare``: rows become a ``Dataset`` of three splits, and every row is accounted for.

    read -> sample -> clean -> missing and unknown labels -> overlap -> duplicates -> split -> write

A row that cannot be used is set aside with its line and a reason (``quarantine.csv``); nothing
disappears unseen: rows read = left out by the sample + set aside + kept.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from textlora import checks, storage
from textlora.errors import DataError, UsageError, did_you_mean
from textlora.readers import BadRow, Columns, Row, Table, find_columns, open_table, read_frame
from textlora.settings import DataSettings, Settings, build
from textlora.types import SPLIT_NAMES, Dataset, DatasetInfo, Finding, RowCounts, Split, TokenLengths

Progress = Callable[[str, int, int | None], None]
Origin = Literal["", "validation", "test"]
Option = str | int | float | bool | tuple[str, ...] | None

CELL_LIMIT = 2_000
"""Characters of a cell in ``quarantine.csv``."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
HISTOGRAM_BIN = 32

_BATCH = 1_024
_SHOWN_PLACES = 5
_MAIN: Origin = ""
_SHOWN_PROBLEMS = 10


class TokenCounter(Protocol):
    """Counts tokens as a base model's tokenizer makes them, special ones included, uncut."""

    @property
    def base_model(self) -> str:
        """Whose tokenizer it is."""

    @property
    def max_length(self) -> int:
        """The encoder's limit in tokens."""

    def count(self, texts: Sequence[str], /) -> Sequence[int]:
        """Return the number of tokens of each text."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the caller asked for."""

    source: Any
    text: str | None
    label: str | None
    labels: tuple[str, ...] | None
    given: Mapping[Origin, Any]
    encoding: str | None
    settings: Settings


@dataclass(frozen=True, slots=True)
class _Entry:
    """A whole row on its way to a split. ``origin`` is empty for the main source."""

    origin: Origin
    number: int
    line: int
    text: str
    label: str
    fault: str = ""

    @property
    def id(self) -> str:
        return f"{self.origin}/{self.number}" if self.origin else str(self.number)


@dataclass(frozen=True, slots=True)
class _Rejected:
    """A row that was set aside."""

    origin: Origin
    line: int
    row: str
    reason: str
    text: str = ""
    label: str = ""
    raw: str = ""


@dataclass(slots=True)
class _Ledger:
    """Counts what was read and left out, keeps what was set aside, and collects findings."""

    progress: Progress
    units: dict[Origin, str] = field(default_factory=dict)
    read: int = 0
    unsampled: int = 0
    rejected: list[_Rejected] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def set_aside(self, entry: _Entry, reason: str) -> None:
        text, label = entry.text[:CELL_LIMIT], entry.label[:CELL_LIMIT]
        self.rejected.append(_Rejected(entry.origin, entry.line, entry.id, reason, text, label))

    def set_aside_broken(self, origin: Origin, bad: BadRow) -> None:
        row = f"{origin}/" if origin else ""
        self.rejected.append(_Rejected(origin, bad.line, row, bad.reason, raw=bad.raw))

    def note(self, kind: str, level: Literal["info", "warning"], message: str, count: int = 0) -> None:
        self.findings.append(Finding(kind, level, message, count))

    def reasons(self) -> Counter[str]:
        return Counter(item.reason for item in self.rejected)

    def places(self, items: Sequence[_Rejected] | Sequence[_Entry]) -> str:
        """Return ``lines 3, 7; test line 2 and 5 more``."""
        shown: dict[str, list[str]] = defaultdict(list)
        for item in items[:_SHOWN_PLACES]:
            shown[self.units[item.origin]].append(str(item.line))
        parts = [f"{unit}{'s' if len(lines) > 1 else ''} {', '.join(lines)}" for unit, lines in shown.items()]
        more = f" and {len(items) - _SHOWN_PLACES:,} more" if len(items) > _SHOWN_PLACES else ""
        return "; ".join(parts) + more

    def summary(self) -> list[str]:
        """Return one line per reason, for an error that stops everything."""
        groups: dict[str, list[_Rejected]] = defaultdict(list)
        for item in self.rejected:
            groups[item.reason].append(item)
        return [
            f"{len(items):,} of {self.read:,} rows set aside: {reason} ({self.places(items)})"
            for reason, items in groups.items()
        ]


# -- the front door ------------------------------------------------------------------------------


def prepare(  # noqa: PLR0913 - one source, the rest are switches with defaults
    source: Any,
    *,
    out: str | Path,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    test: Any = None,
    validation: Any = None,
    encoding: str | None = None,
    settings: Settings | None = None,
    token_counter: TokenCounter | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read, check, clean and split labelled texts, and write them to a run folder.

    Args:
        source: path of a CSV, TSV, JSON lines or Parquet file, or a pandas data frame.
        out: the run folder; made when missing, files of an earlier ``prepare`` are replaced.
        text: name of the text column; found when not given.
        label: name of the label column; found when not given.
        labels: the label names, in the order of the class indices; else all that occur, in
            natural order. Rows with another label are set aside.
        test: file or data frame that is the test split, as it is.
        validation: file or data frame that is the validation split.
        encoding: text encoding of all files; else UTF-8, or UTF-16 with a byte order mark.
        settings: ``data.*`` and ``seed`` are used.
        token_counter: measures the texts in tokens; without it nothing is said about lengths.
        progress: called with stage, rows done and rows in all (or None).

    Raises:
        DataError: the file cannot become a data set; all problems that can be seen together.
        UsageError: a column, label list or encoding that makes no sense.
        ResourceError: the folder cannot be written.
    """
    request = _request(source, text, label, labels, {"validation": validation, "test": test}, encoding, settings)
    tables, columns = _open_all(request)
    folder = storage.make_folder(Path(out))
    ledger = _Ledger(progress or _silent, {origin: _unit(origin, table) for origin, table in tables.items()})
    _note_columns(ledger, tables[_MAIN], columns)
    entries = _read_all(tables, columns, request.settings.data, ledger)
    entries = _sample(entries, request.settings, ledger)
    names, entries = _usable(entries, request, ledger)
    entries = _without_repeats(entries, ledger)
    _check_classes(entries, names, request, ledger)
    splits = _split(entries, names, request)
    info = _describe(splits, names, columns, request, ledger)
    info = _measure(info, splits, token_counter, ledger)
    return _write(folder, info, splits, ledger)


def load_dataset(folder: str | Path) -> Dataset:
    """Read what ``prepare`` wrote and check that its files belong together.

    Raises:
        UsageError: a file is missing, damaged, or from another ``prepare``.
    """
    folder = Path(folder)
    info = storage.read_noun(folder / storage.DATASET, DatasetInfo, made_by="prepare")
    splits = {name: _read_split(folder / f"{name}.parquet") for name in SPLIT_NAMES}
    if _fingerprint(info.label_names, splits) != info.fingerprint:
        files = ", ".join(f"{name}.parquet" for name in SPLIT_NAMES)
        raise UsageError(
            f"{folder / storage.DATASET} and the rows beside it ({files}) are not of the same preparation.",
            hint="Run `textlora prepare` again.",
        )
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def is_current(  # noqa: PLR0913 - the arguments of prepare()
    folder: str | Path,
    source: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    test: Any = None,
    validation: Any = None,
    encoding: str | None = None,
    settings: Settings | None = None,
) -> bool:
    """Return whether ``folder`` holds what ``prepare`` would make of the same arguments.

    Files are compared by content. Data frames are never taken as the same.
    """
    request = _request(source, text, label, labels, {"validation": validation, "test": test}, encoding, settings)
    frames = any(_is_frame(item) for item in (source, *request.given.values()))
    if frames or not (Path(folder) / storage.DATASET).exists():
        return False
    try:
        return dict(load_dataset(folder).info.options) == _options(request)
    except (UsageError, OSError):
        return False


def _silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing."""


def _request(  # noqa: PLR0913, PLR0917 - the arguments of prepare()
    source: Any,
    text: str | None,
    label: str | None,
    labels: Sequence[str] | None,
    given: Mapping[Origin, Any],
    encoding: str | None,
    settings: Settings | None,
) -> _Request:
    used: dict[Origin, Any] = {origin: item for origin, item in given.items() if item is not None}
    return _Request(source, text, label, _label_option(labels), used, encoding, settings or build({}))


def _label_option(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    names = tuple(" ".join(str(name).split()) for name in labels)
    shown = ",".join(names)
    if "" in names or len(names) < 2:  # noqa: PLR2004 - a choice needs two
        raise UsageError(
            f"The labels are {shown!r}; at least two names are expected.",
            hint="Write them as --labels negative,positive.",
        )
    if len({name.casefold() for name in names}) < len(names):
        raise UsageError(
            f"The labels {shown!r} name one of them twice.", hint="Write them as --labels negative,positive."
        )
    return names


# -- reading -------------------------------------------------------------------------------------


def _is_frame(source: Any) -> bool:
    return hasattr(source, "iloc") and hasattr(source, "columns")


def _open(source: Any, encoding: str | None) -> Table:
    return read_frame(source) if _is_frame(source) else open_table(Path(source), encoding=encoding)


def _open_all(request: _Request) -> tuple[dict[Origin, Table], Columns]:
    tables: dict[Origin, Table] = {_MAIN: _open(request.source, request.encoding)}
    main = tables[_MAIN]
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


def _unit(origin: Origin, table: Table) -> str:
    return f"{origin} {table.unit}" if origin else table.unit


def _note_columns(ledger: _Ledger, table: Table, columns: Columns) -> None:
    guessed = "guess" in (columns.text_confidence, columns.label_confidence)
    ledger.note("columns", "warning" if guessed else "info", columns.reason)
    if table.delimiter is not None and table.delimiter_confidence != "sure":
        level: Literal["info", "warning"] = "warning" if table.delimiter_confidence == "guess" else "info"
        ledger.note(
            "delimiter", level, f"The cells are taken as divided by {table.delimiter!r} ({table.delimiter_confidence})."
        )


def _read_all(tables: Mapping[Origin, Table], columns: Columns, limits: DataSettings, ledger: _Ledger) -> list[_Entry]:
    entries: list[_Entry] = []
    for origin, table in tables.items():
        entries += _read(origin, table, columns, limits, ledger)
    return entries


def _read(origin: Origin, table: Table, columns: Columns, limits: DataSettings, ledger: _Ledger) -> list[_Entry]:
    """Return the whole rows; broken ones go to the ledger, too many of them stop everything."""
    places = table.columns.index(columns.text), table.columns.index(columns.label)
    entries: list[_Entry] = []
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


def _entry(origin: Origin, row: Row, places: tuple[int, int], limit: int) -> _Entry:
    text, label = (checks.as_text(row.values[places[0]]), checks.as_label(row.values[places[1]]))
    fault = "not a text" if text is None else "not a label" if label is None else ""
    text, label = text or "", label or ""
    if max(len(text), len(label)) > limit:
        return _Entry(origin, row.number, row.line, text[:CELL_LIMIT], label[:CELL_LIMIT], "oversized")
    return _Entry(origin, row.number, row.line, text, label, fault)


def _refuse_broken(table: Table, ledger: _Ledger, read: int, broken: int, limit: float) -> None:
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


def _sample(entries: list[_Entry], settings: Settings, ledger: _Ledger) -> list[_Entry]:
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


# -- cleaning and labels -------------------------------------------------------------------------


def _usable(entries: list[_Entry], request: _Request, ledger: _Ledger) -> tuple[tuple[str, ...], list[_Entry]]:
    """Return the label names and the cleaned rows that have a text and a known label."""
    entries = _filled(entries, ledger, markup=request.settings.data.clean_html)
    counts = Counter(entry.label for entry in entries if not entry.origin)
    if not counts:
        raise DataError(
            f"No row of {_name(request.source)} is left.", problems=ledger.summary(), hint="Look at the reasons above."
        )
    spelling = _known_spelling(counts, request.labels, ledger)
    typos = {} if request.labels else checks.label_typos(_merged(counts, spelling))
    names = request.labels or checks.natural_order(set(spelling.values()) - set(typos))
    if len(names) == 1:
        raise DataError(
            f"{_name(request.source)} has one label only, {names[0]!r}; at least two are needed.",
            problems=ledger.summary(),
            hint="Name another label column with --label.",
        )
    return names, _known(entries, names, spelling, typos, ledger)


def _filled(entries: list[_Entry], ledger: _Ledger, *, markup: bool) -> list[_Entry]:
    filled: list[_Entry] = []
    marked = 0
    for entry in entries:
        text = checks.clean_text(entry.text, markup=markup)
        fault = entry.fault or ("missing text" if not text else "missing label" if not entry.label else "")
        if fault:
            ledger.set_aside(entry, fault)
            continue
        marked += markup and checks.has_markup(entry.text)
        filled.append(replace(entry, text=text))
    if marked:
        ledger.note("markup", "info", f"HTML line breaks and entities were cleaned in {marked:,} texts.", marked)
    return filled


def _known_spelling(counts: Mapping[str, int], labels: tuple[str, ...] | None, ledger: _Ledger) -> dict[str, str]:
    """Map every label that occurs to the spelling that is used for it; capitals do not matter."""
    if labels is None:
        changed = checks.spelling_variants(counts)
    else:
        main = {name.casefold(): name for name in labels}
        changed = {
            label: main[label.casefold()] for label in counts if label not in labels and label.casefold() in main
        }
    for label, name in changed.items():
        ledger.note(
            "label_spelling",
            "warning",
            f"The label {label!r} was read as {name!r}: {counts[label]:,} of the rows.",
            counts[label],
        )
    return {label: changed.get(label, label) for label in counts}


def _merged(counts: Mapping[str, int], spelling: Mapping[str, str]) -> dict[str, int]:
    merged: Counter[str] = Counter()
    for label, count in counts.items():
        merged[spelling[label]] += count
    return dict(merged)


def _known(
    entries: list[_Entry], names: Sequence[str], spelling: Mapping[str, str], typos: Mapping[str, str], ledger: _Ledger
) -> list[_Entry]:
    """Return the rows with a label of ``names``, in its spelling."""
    folded = {name.casefold(): name for name in names}
    known: list[_Entry] = []
    for entry in entries:
        label = spelling.get(entry.label, entry.label)
        name = label if label in names else folded.get(label.casefold())
        if name is not None:
            known.append(replace(entry, label=name))
        elif label in typos and not entry.origin:
            ledger.set_aside(entry, f"label looks like a typo of {typos[label]!r}")
        else:
            ledger.set_aside(entry, "unknown label")
    return known


# -- repeated texts ------------------------------------------------------------------------------


def _without_repeats(entries: list[_Entry], ledger: _Ledger) -> list[_Entry]:
    """Return the rows so that no text stands in two splits; given test rows all stay."""
    by_origin: dict[Origin, list[_Entry]] = {"": [], "validation": [], "test": []}
    for entry in entries:
        by_origin[entry.origin].append(entry)
    held_back: dict[str, str] = {entry.text: "also in the test file" for entry in by_origin["test"]}
    by_origin["validation"] = _without_overlap(by_origin["validation"], held_back, ledger)
    held_back = {entry.text: "also in the validation file" for entry in by_origin["validation"]} | held_back
    by_origin[_MAIN] = _without_duplicates(_without_overlap(by_origin[_MAIN], held_back, ledger), ledger)
    for origin in ("validation", "test"):
        _note_repeats(origin, by_origin[origin], ledger)
    return [entry for origin in by_origin for entry in by_origin[origin]]


def _without_overlap(entries: list[_Entry], held_back: Mapping[str, str], ledger: _Ledger) -> list[_Entry]:
    for entry in entries:
        if entry.text in held_back:
            ledger.set_aside(entry, held_back[entry.text])
    return [entry for entry in entries if entry.text not in held_back]


def _without_duplicates(entries: list[_Entry], ledger: _Ledger) -> list[_Entry]:
    """Keep the first of equal rows, and none of a text that has several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        labels[entry.text].add(entry.label)
    kept: list[_Entry] = []
    seen: set[str] = set()
    for entry in entries:
        if len(labels[entry.text]) > 1:
            ledger.set_aside(entry, "conflicting labels")
        elif entry.text in seen:
            ledger.set_aside(entry, "duplicate")
        else:
            kept.append(entry)
        seen.add(entry.text)
    return kept


def _note_repeats(origin: str, entries: list[_Entry], ledger: _Ledger) -> None:
    repeats = len(entries) - len({entry.text for entry in entries})
    if repeats:
        # Without them the scores could not be compared with those of others on the same file.
        ledger.note(
            "given_duplicates",
            "warning",
            f"{repeats:,} rows of the {origin} file repeat a text of it; they were kept.",
            repeats,
        )


# -- splitting -----------------------------------------------------------------------------------


def _check_classes(entries: Sequence[_Entry], names: Sequence[str], request: _Request, ledger: _Ledger) -> None:
    """Refuse labels with too few rows to stand in every split, all of them together."""
    _check_given(entries, names, request, ledger)
    needed = 3 - len(request.given)
    rows: dict[str, list[_Entry]] = {name: [] for name in names}
    for entry in entries:
        if not entry.origin:
            rows[entry.label].append(entry)
    short = {name: found for name, found in rows.items() if len(found) < needed}
    if not short:
        return
    if not any(rows.values()):
        raise DataError(
            f"No row of {_name(request.source)} is left.", problems=ledger.summary(), hint="Look at the reasons above."
        )
    problems = [_short_label(name, found, ledger) for name, found in short.items()]
    more = [f"{len(problems) - _SHOWN_PROBLEMS:,} more labels"] if len(problems) > _SHOWN_PROBLEMS else []
    raise DataError(
        f"Every label needs at least {needed} different texts, one for each split to be made; in {_name(request.source)} some have fewer:",
        problems=[*problems[:_SHOWN_PROBLEMS], *more, *ledger.summary()],
        hint="Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside.",
    )


def _short_label(name: str, found: Sequence[_Entry], ledger: _Ledger) -> str:
    if not found:
        return f"the label {name!r} has no row left"
    if len(found) == 1:
        return f"the label {name!r} has one text only ({ledger.places(found)})"
    return f"the label {name!r} has {len(found)} texts ({ledger.places(found)})"


def _check_given(entries: Sequence[_Entry], names: Sequence[str], request: _Request, ledger: _Ledger) -> None:
    for origin, item in request.given.items():
        seen = {entry.label for entry in entries if entry.origin == origin}
        if not seen:
            raise DataError(
                f"No row of the {origin} file {_name(item)} is left.",
                problems=ledger.summary(),
                hint=f"Known labels: {', '.join(names)}.",
            )
        absent = [name for name in names if name not in seen]
        if absent:
            ledger.note(
                "absent_label",
                "warning",
                f"The {origin} file has no row with the label {', '.join(map(repr, absent))}.",
                len(absent),
            )


def _split(entries: Sequence[_Entry], names: Sequence[str], request: _Request) -> dict[str, Split]:
    """Divide the main rows by class in the wanted shares; given files are splits already."""
    index = {name: place for place, name in enumerate(names)}
    main = [entry for entry in entries if not entry.origin]
    parts = _assign([index[entry.label] for entry in main], request)
    groups: dict[str, list[_Entry]] = {name: [] for name in SPLIT_NAMES}
    for entry, part in zip(main, parts, strict=True):
        groups[part].append(entry)
    for entry in entries:
        if entry.origin:
            groups[entry.origin].append(entry)
    return {name: _as_split(group, index) for name, group in groups.items()}


def _as_split(entries: Sequence[_Entry], index: Mapping[str, int]) -> Split:
    return Split(
        tuple(entry.id for entry in entries),
        tuple(entry.text for entry in entries),
        tuple(index[entry.label] for entry in entries),
    )


def _assign(labels: Sequence[int], request: _Request) -> list[str]:
    """Return the split of each row: shuffled within its class, then cut."""
    settings = request.settings
    array = np.asarray(labels)
    classes, counts = np.unique(array, return_counts=True)
    wanted: dict[str, float] = {"test": settings.data.test_share, "validation": settings.data.validation_share}
    made = {name: share for name, share in wanted.items() if name not in request.given}
    sizes = {name: _sizes(counts.tolist(), share) for name, share in made.items()}
    parts = np.full(len(array), "train", dtype=object)
    generator = np.random.default_rng(settings.seed)
    for place, label in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(array == label))
        start = 0
        for position, name in enumerate(made):
            # One row at least stays for each of the splits that come after, train among them.
            size = min(sizes[name][place], len(rows) - start - (len(made) - position))
            parts[rows[start : start + size]] = name
            start += size
    return [str(part) for part in parts]


def _sizes(counts: Sequence[int], share: float) -> list[int]:
    """Return the rows of each class in a split: largest remainders, at least one."""
    exact = [count * share for count in counts]
    sizes = [int(value) for value in exact]
    missing = round(sum(exact)) - sum(sizes)
    # Ties go to the earlier class.
    for place in sorted(range(len(counts)), key=lambda i: sizes[i] - exact[i])[:missing]:
        sizes[place] += 1
    return [max(1, size) for size in sizes]


# -- describing ----------------------------------------------------------------------------------


def _name(source: Any) -> str:
    return "the data frame" if _is_frame(source) else str(source)


def _describe(
    splits: Mapping[str, Split], names: tuple[str, ...], columns: Columns, request: _Request, ledger: _Ledger
) -> DatasetInfo:
    counts = {name: split.class_counts(len(names)) for name, split in splits.items()}
    _note_rejected(ledger)
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    ledger.findings.append(checks.balance_finding(names, totals))
    return DatasetInfo(
        source="DataFrame" if _is_frame(request.source) else str(request.source),
        text_column=columns.text,
        label_column=columns.label,
        task="single_label",
        label_names=names,
        seed=request.settings.seed,
        counts=RowCounts(ledger.read, ledger.unsampled, sum(totals), dict(ledger.reasons())),
        split_counts=counts,
        findings=tuple(ledger.findings),
        token_lengths=None,
        fingerprint=_fingerprint(names, splits),
        options=_options(request),
    )


_DETAILS = {
    "duplicate": ", the first of each kept",
    "conflicting labels": ", all rows of a text that has several labels",
    "also in the test file": ", the test file itself is kept whole",
    "also in the validation file": ", the validation file itself is kept",
}


def _note_rejected(ledger: _Ledger) -> None:
    """Add one finding per reason."""
    groups: dict[str, list[_Rejected]] = defaultdict(list)
    for item in ledger.rejected:
        groups[item.reason].append(item)
    for reason, items in groups.items():
        rows = f"{len(items):,} row{'s' if len(items) > 1 else ''}"
        detail = _DETAILS.get(reason, "") or _label_detail(reason, items)
        message = f"{reason[0].upper()}{reason[1:]}: {rows} set aside{detail} ({ledger.places(items)})."
        ledger.note(_kind(reason), "info" if reason == "duplicate" else "warning", message, len(items))


def _kind(reason: str) -> str:
    if reason.startswith("also in"):
        return "overlap"
    return "label_typo" if reason.startswith("label looks") else reason.replace(" ", "_").lower()


def _label_detail(reason: str, items: Sequence[_Rejected]) -> str:
    if reason != "unknown label" and not reason.startswith("label looks"):
        return ""
    labels = [repr(label) for label, _ in Counter(item.label for item in items).most_common(_SHOWN_PLACES)]
    return f", label{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def _options(request: _Request) -> dict[str, Option]:
    """Return all that decides the result, the content of the files among it."""
    options: dict[str, Option] = {
        "text": request.text,
        "label": request.label,
        "labels": request.labels,
        "encoding": request.encoding,
        "seed": request.settings.seed,
    }
    files = {"source": request.source, "validation": request.given.get("validation"), "test": request.given.get("test")}
    for name, item in files.items():
        options[name], options[f"{name}_sha256"] = _file_options(item)
    return options | {f"data.{name}": value for name, value in request.settings.data.model_dump().items()}


def _file_options(item: Any) -> tuple[str | None, str | None]:
    if item is None or _is_frame(item):
        return None if item is None else "DataFrame", None
    return str(item), storage.file_fingerprint(Path(item))


def _fingerprint(names: Sequence[str], splits: Mapping[str, Split]) -> str:
    def parts() -> Iterator[str]:
        yield str(len(names))
        yield from names
        for name in SPLIT_NAMES:
            yield name
            for example in splits[name]:
                yield from (example.id, example.text, str(example.label))

    return storage.fingerprint(parts())


def _measure(
    info: DatasetInfo, splits: Mapping[str, Split], counter: TokenCounter | None, ledger: _Ledger
) -> DatasetInfo:
    """Add how long the texts are in tokens."""
    if counter is None:
        return info
    texts = [text for split in splits.values() for text in split.texts]
    counts: list[int] = []
    for start in range(0, len(texts), _BATCH):
        counts += counter.count(texts[start : start + _BATCH])
        ledger.progress("count tokens", len(counts), len(texts))
    lengths = _token_lengths(np.asarray(counts, dtype=np.int64), counter)
    return replace(info, token_lengths=lengths, findings=(*info.findings, checks.length_finding(lengths, len(texts))))


def _token_lengths(counts: np.ndarray[Any, np.dtype[np.int64]], counter: TokenCounter) -> TokenLengths:
    cut = np.minimum(counts, counter.max_length)
    # Twice the limit: enough to see the tail, and the same bins for all data of one encoder.
    bins = max(1, 2 * counter.max_length // HISTOGRAM_BIN)
    histogram = np.bincount(np.minimum(counts // HISTOGRAM_BIN, bins - 1), minlength=bins)
    return TokenLengths(
        base_model=counter.base_model,
        max_length=counter.max_length,
        quantiles=tuple(int(value) for value in np.quantile(counts, QUANTILES, method="inverted_cdf")),
        mean=float(counts.mean()),
        mean_cut=float(cut.mean()),
        rows_cut=int((counts > counter.max_length).sum()),
        tokens_cut_share=float(1 - cut.sum() / max(1, counts.sum())),
        histogram=tuple(int(value) for value in histogram),
    )


# -- writing -------------------------------------------------------------------------------------


def _write(folder: Path, info: DatasetInfo, splits: Mapping[str, Split], ledger: _Ledger) -> Dataset:
    for done, (name, split) in enumerate(splits.items(), start=1):
        _write_split(folder / f"{name}.parquet", split)
        ledger.progress("write", done, len(splits))
    _write_quarantine(folder / storage.QUARANTINE, ledger.rejected)
    # Last, so that its presence says that all the others are whole.
    storage.write_noun(folder / storage.DATASET, info)
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def _write_split(path: Path, split: Split) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": pa.array(split.ids, pa.string()),
        "text": pa.array(split.texts, pa.string()),
        "label": pa.array(split.labels, pa.int32()),
    }
    with storage.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _read_split(path: Path) -> Split:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise UsageError(f"{path} does not exist.", hint="`textlora prepare` writes it: run that first.")
    try:
        table = pq.read_table(path, columns=["id", "text", "label"])
        return Split(*(tuple(table.column(name).to_pylist()) for name in ("id", "text", "label")))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UsageError(
            f"{path} is damaged: {str(error).splitlines()[0]}", hint="Run `textlora prepare` again."
        ) from error


def _write_quarantine(path: Path, rejected: Iterable[_Rejected]) -> None:
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("line", "row", "reason", "text", "label", "raw"))
        for item in sorted(rejected, key=lambda item: (item.origin, item.line)):
            writer.writerow((item.line, item.row, item.reason, *map(_safe_cell, (item.text, item.label, item.raw))))


def _safe_cell(cell: str) -> str:
    """Return a cell that every program can read and no spreadsheet takes for a formula."""
    cell = checks.replace_surrogates(cell[:CELL_LIMIT]).replace("\0", "\u2400")
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell[:1] else cell
