"""Where unlabelled texts come from: files, folders of files, data frames, prepared run folders.

A run folder of ``prepare`` gives its training split alone, so that no test text is seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textlora import checks, preparation, storage
from textlora.errors import DataError, TextloraError
from textlora.readers import BadRow, Table, data_files, find_text_column, kind_of, open_lines, open_table, read_frame
from textlora.types import Dataset

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")


@dataclass(frozen=True, slots=True)
class Source:
    """One place that texts come from.

    Attributes:
        name: what a message calls it.
        read: gives the texts in order, empty where one is missing, None for a broken row.
        key: changes when the content does; None where that cannot be told.
        given: the folder that the user named, where it is one of its files.
        prepared: whether it is the training split of a run folder.
        share: how much of it the last reading has gone through, 0 to 1; 0 where that is not known.
    """

    name: str
    read: Callable[[], Iterator[str | None]]
    key: str | None
    given: str = ""
    prepared: bool = False
    share: Callable[[], float] = lambda: 0.0


def open_sources(data: Any, *, text: str | None, encoding: str | None) -> list[Source]:
    """Open everything that texts are to be read from, folders in the order of their files' names.

    Args:
        data: a path, a data frame, a ``Dataset``, or several of these.
        text: name of the text column; found in each file when not given. A file of plain text has none.
        encoding: of the files, when neither UTF-8 nor UTF-16.

    Raises:
        DataError: nothing to read, or files that cannot be read, all together.
        UsageError: a single wrong column or encoding.
    """
    given = list(data) if isinstance(data, list | tuple) else [data]
    found: list[Source] = []
    errors: list[TextloraError] = []
    for item, folder in _expanded(given):
        try:
            found.append(replace(_open(item, text, encoding), given=folder))
        except TextloraError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [f"{error.message} {error.hint}".strip() for error in errors[:20]]
        raise DataError(f"{len(errors)} of the sources cannot be read:", problems=problems)
    if not found:
        raise DataError(
            f"There are no files of texts in {', '.join(map(str, given)) or 'an empty list'}.",
            hint=f"Files are expected whose names end in {', '.join(SUFFIXES)}, compressed or not.",
        )
    return found


def given_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return what the user named, folders with the number of their files."""
    counts = Counter(source.given for source in sources)
    named = (f"{one.given} ({counts[one.given]:,} files)" if counts[one.given] > 1 else one.name for one in sources)
    return tuple(
        dict.fromkeys(name if source.given else source.name for name, source in zip(named, sources, strict=True))
    )


def _expanded(given: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yield what to open, and the folder that was named for it or ``""``."""
    for item in given:
        path = Path(item) if isinstance(item, str | Path) else None
        if path is None:
            yield item, ""
        else:
            folder = str(path) if path.is_dir() and not _is_run(path) else ""
            yield from ((file, folder) for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, a run folder, or the data files below a folder; hidden ones are left out."""
    if path.is_dir() and not _is_run(path):
        yield from data_files(path, SUFFIXES, unit=_is_run)
    else:
        yield path


def _is_run(folder: Path) -> bool:
    return (folder / storage.DATASET).exists()


def _open(item: Any, text: str | None, encoding: str | None) -> Source:
    if isinstance(item, Dataset):
        return _training_split(item)
    if not isinstance(item, Path):
        return _from_table(read_frame(item), text, None)
    if item.is_dir():
        return _training_split(preparation.load_dataset(item))
    plain = text is None and kind_of(item) == ".txt"
    table = open_lines(item, encoding=encoding) if plain else open_table(item, encoding=encoding)
    state = item.stat()
    return _from_table(table, text, f"{item.resolve()} {state.st_size} {state.st_mtime_ns}")


def _training_split(dataset: Dataset) -> Source:
    texts = dataset.train.texts
    return Source(f"{dataset.folder} (training split)", lambda: iter(texts), dataset.fingerprint, prepared=True)


def _from_table(table: Table, text: str | None, key: str | None) -> Source:
    column = find_text_column(table.head(), table.columns, text=text, where=table.name)
    place = table.columns.index(column)

    def read() -> Iterator[str | None]:
        for row in table:
            yield None if isinstance(row, BadRow) else checks.as_text(row.values[place])

    return Source(table.name, read, None if key is None else f"{key} {column}", share=lambda: table.meter.share)
