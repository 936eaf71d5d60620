"""Data files below a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from textlora.readers.lines import kind_of


def data_files(folder: Path, suffixes: Sequence[str], *, unit: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names; hidden ones are left out.

    Args:
        folder: where to look, at any depth; links to folders are not followed.
        suffixes: what the files' names end in, compressed or not.
        unit: of a folder, whether it is one thing; it is yielded itself then, and not what is in it.
    """
    for child in sorted(folder.iterdir()):
        if child.name.startswith(".") or (child.is_symlink() and child.is_dir()):
            continue
        if not child.is_dir():
            if kind_of(child) in suffixes:
                yield child
        elif unit(child):
            yield child
        else:
            yield from data_files(child, suffixes, unit=unit)
