"""What is to be scored: files, folders and globs, and which output each file goes to."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from textlora import storage
from textlora.errors import DataError, TextloraError, UsageError
from textlora.readers import Table, data_files, find_text_column, kind_of, open_table
from textlora.scoring.columns import SOURCE_FILE, SOURCE_ROW
from textlora.scoring.scorer import check_added

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet")
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be scored.

    Attributes:
        path: where it is.
        table: its rows.
        text: name of its text column.
        below: its path below the folder that was named, or its name.
    """

    path: Path
    table: Table
    text: str
    below: Path

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Target:
    """One file to be written.

    Attributes:
        out: the file.
        sources: what goes into it, in order.
        columns: input columns that it keeps.
        located: whether it says where each row came from.
    """

    out: Path
    sources: tuple[Source, ...]
    columns: tuple[str, ...]
    located: bool

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of all columns before those of the prediction."""
        return (*self.columns, *((SOURCE_FILE, SOURCE_ROW) if self.located else ()))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user named, and how it is to be read.

    Attributes:
        given: files, folders and globs.
        out: the file to write, or the folder for a file each.
        text: the text column, when it was named.
        known: the text column of the training file.
        encoding: of the files, when neither UTF-8 nor UTF-16.
    """

    given: tuple[str, ...]
    out: str
    text: str | None = None
    known: str = ""
    encoding: str | None = None

    @property
    def into_folder(self) -> bool:
        """Whether each file gets an output of its own."""
        return self.out.endswith("/") or Path(self.out).is_dir()


def find_targets(asked: Asked, added: Sequence[str]) -> tuple[Target, ...]:
    """Open everything that was named and return what is to be written, in order.

    Args:
        asked: what the user wants.
        added: names of the columns of the prediction.

    Raises:
        UsageError: an unknown output format, an output that is a source, outputs of one name, columns that are
            there already.
        DataError: nothing to read, files that cannot be read (all together), or files with different columns.
    """
    if not asked.into_folder:
        _check_suffix(
            Path(asked.out), several=len(asked.given) > 1 or any(Path(given).is_dir() for given in asked.given)
        )
    found = list(_expanded(asked))
    if not found:
        raise DataError(
            f"There are no data files in {', '.join(asked.given)}.",
            hint=f"Files are expected whose names end in {', '.join(SUFFIXES)}, compressed or not.",
        )
    sources = _opened(found, asked)
    single = len(asked.given) == 1 and Path(asked.given[0]).is_file()
    targets = _each(sources, Path(asked.out)) if asked.into_folder else [_together(sources, asked, located=not single)]
    _check(targets, added)
    return tuple(targets)


def _check_suffix(out: Path, *, several: bool) -> None:
    if out.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{out.name} ends in {out.suffix or 'nothing'!r}, expected one of {' '.join(FORMATS)}.",
            hint="The suffix of --out chooses the format."
            + (" For a file each, name a folder with / at its end." if several else ""),
        )


def _expanded(asked: Asked) -> Iterator[tuple[Path, Path]]:
    """Yield each file once, with its path below what was named; what an earlier call wrote is left out."""
    seen: set[Path] = set()
    for given in asked.given:
        for path, below in _files(given):
            whole = path.resolve()
            if whole not in seen and not (path != Path(given) and _written(whole, asked)):
                seen.add(whole)
                yield path, below


def _files(given: str) -> Iterator[tuple[Path, Path]]:
    path = Path(given)
    if path.is_dir():
        for file in data_files(path, SUFFIXES, unit=_is_run):
            if not file.is_dir():
                yield file, file.relative_to(path)
    elif path.exists() or not glob.has_magic(given):
        yield path, Path(path.name)
    else:
        matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not matches:
            raise DataError(
                f"No file matches {given}.", hint="Check the pattern: * within a folder, ** across folders."
            )
        for match in matches:
            yield from _files(match)


def _is_run(folder: Path) -> bool:
    return (folder / storage.DATASET).exists()


def _written(path: Path, asked: Asked) -> bool:
    out = Path(asked.out).resolve()
    if asked.into_folder:
        return path.is_relative_to(out)
    return path in (out, out.with_name(f"{out.name}.quarantine.csv"))


def _opened(found: Sequence[tuple[Path, Path]], asked: Asked) -> list[Source]:
    sources: list[Source] = []
    errors: list[TextloraError] = []
    for path, below in found:
        # The text column of the first file is that of all which go into one file with it.
        named = sources[0].text if sources and not asked.into_folder else asked.text
        try:
            table = open_table(path, encoding=asked.encoding)
            sources.append(Source(path, table, _text_column(table, asked.known, named), below))
        except TextloraError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [f"{error.message} {error.hint}".strip() for error in errors[:SHOWN]]
        raise DataError(f"{len(errors)} of the files cannot be read:", problems=problems)
    return sources


def _text_column(table: Table, known: str, text: str | None) -> str:
    if text is None and known in table.columns:
        return known
    return find_text_column(table.head(), table.columns, text=text, where=table.name)


def _together(sources: Sequence[Source], asked: Asked, *, located: bool) -> Target:
    """Return the one output of all files; JSON lines may lack columns, other files may not."""
    columns = tuple(dict.fromkeys(name for source in sources for name in source.table.columns))
    strict = [source.table for source in sources if source.table.format != "jsonl"]
    if strict:
        _check_columns([source.table for source in sources], strict[0])
    return Target(Path(asked.out), tuple(sources), columns, located)


def _check_columns(tables: Sequence[Table], model: Table) -> None:
    problems = []
    for table in tables:
        more = [name for name in table.columns if name not in model.columns]
        missing = [name for name in model.columns if name not in table.columns and table.format != "jsonl"]
        told = [f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("has", more)) if names]
        if told:
            problems.append(f"{table.name} {' and '.join(told)}")
    if problems:
        raise DataError(
            f"The files have different columns, and cannot become one. Those of {model.name}: {', '.join(model.columns)}.",
            problems=problems[:SHOWN],
            hint="For a file each, name a folder with / at its end: --out scored/",
        )


def _each(sources: Sequence[Source], folder: Path) -> list[Target]:
    """Return an output for each file, with its name and in its format."""
    targets = [
        Target(folder / source.below.with_name(_name(source)), (source,), source.table.columns, located=False)
        for source in sources
    ]
    owners: dict[Path, list[str]] = {}
    for target in targets:
        owners.setdefault(target.out, []).append(target.sources[0].table.name)
    problems = [f"{out}: {', '.join(names)}" for out, names in owners.items() if len(names) > 1]
    if problems:
        raise UsageError("Several files would be written to one:", problems=problems, hint="Score them one by one.")
    return targets


def _name(source: Source) -> str:
    """Return ``reviews.csv`` for ``reviews.csv.gz``."""
    table, name, suffix = source.table, source.below.name, kind_of(source.below)
    whole = name[: name.lower().rindex(suffix)] if suffix in SUFFIXES else name
    written = ".tsv" if table.delimiter == "\t" else ".csv"
    return whole + {"jsonl": ".jsonl", "parquet": ".parquet"}.get(table.format, written)


def _check(targets: Sequence[Target], added: Sequence[str]) -> None:
    paths = {source.path.resolve() for target in targets for source in target.sources}
    own = [str(target.out) for target in targets if target.out.resolve() in paths]
    if own:
        raise UsageError(
            f"{', '.join(own[:SHOWN])} would be replaced by its own predictions.", hint="Choose another --out."
        )
    for target in targets:
        located = (SOURCE_FILE, SOURCE_ROW) if target.located else ()
        for source in target.sources:
            check_added(source.table.name, source.table.columns, (*located, *added))
