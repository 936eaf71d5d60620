"""Token ids of a split on disk: two bytes each, or four for a large vocabulary, read text by text.

A training goes through its texts several times and may be stopped and resumed. They are tokenized
once, block by block, into the run folder, and only the text in hand is in memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from textlora import storage
from textlora.tokenization import BLOCK, TextTokenizer, TokenIds, Tokenized

IDS = "ids.bin"
LENGTHS = "lengths.npy"
INDEX = "index.json"
LOCK = "lock"
# Raise it when the same texts would be written in another way.
VERSION = 2


def open_or_build(
    folder: Path,
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    *,
    data: str,
    progress: Callable[[int, int], None] | None = None,
) -> Tokenized:
    """Return the ids of ``texts`` from ``folder``; tokenize them if they are not there yet.

    Args:
        folder: written whole or not at all; replaced when it holds other ids.
        texts: read once, in order.
        tokenizer: with its length policy.
        data: fingerprint of the texts.
        progress: called with the texts done and the number of texts, when there is something to do.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    key = storage.fingerprint([str(VERSION), data, tokenizer.fingerprint])
    # The processes of one training share the folder: the first one tokenizes.
    with FileLock(storage.make_folder(folder.parent) / LOCK):
        if _key_of(folder) != key:
            _build(folder, texts, tokenizer, key, progress)
    return _open(folder)


class StoredIds(Sequence[TokenIds]):
    """The ids (T,) of each text, read from the file when they are asked for.

    Reading rather than mapping: pages of a mapped file count as memory of the process.

    Args:
        path: the ids of all texts, end to end.
        lengths: tokens of each text (N,).
        dtype: how an id is written.
    """

    def __init__(self, path: Path, lengths: NDArray[np.int64], dtype: str) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> TokenIds: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TokenIds, ...]: ...
    def __getitem__(self, index: int | slice) -> TokenIds | tuple[TokenIds, ...]:
        """Return the ids (T,) of a text, or a tuple of them for a slice."""
        rows = range(len(self))[index]
        return tuple(map(self._ids, rows)) if isinstance(rows, range) else self._ids(rows)

    def _ids(self, row: int) -> TokenIds:
        start = int(self._ends[row - 1]) if row else 0
        # Opened anew for each text: nothing is left open, and processes do not share a place in the file.
        count, offset = int(self._ends[row]) - start, start * self._dtype.itemsize
        return np.fromfile(self._path, self._dtype, count=count, offset=offset).astype(np.int32)


class Joined(Sequence[TokenIds]):
    """The ids of one split after those of another."""

    def __init__(self, first: Sequence[TokenIds], second: Sequence[TokenIds]) -> None:
        self._first = first
        self._second = second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, index: int) -> TokenIds: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TokenIds, ...]: ...
    def __getitem__(self, index: int | slice) -> TokenIds | tuple[TokenIds, ...]:
        """Return the ids (T,) of a text, or a tuple of them for a slice."""
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return tuple(self[row] for row in rows)
        return self._first[rows] if rows < len(self._first) else self._second[rows - len(self._first)]


def _build(
    folder: Path,
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtype = "<u2" if tokenizer.largest_id < 1 << 16 else "<u4"
    lengths: list[NDArray[np.int64]] = [np.zeros((3, 0), np.int64)]
    done = 0
    with storage.atomic_folder(folder) as temporary:
        with (temporary / IDS).open("wb") as stream:
            rest = iter(texts)
            while given := list(itertools.islice(rest, BLOCK)):
                block = tokenizer.encode(given)
                stream.write(np.concatenate(block.ids).astype(dtype).tobytes())
                lengths.append(np.stack([block.lengths, block.full_lengths, block.truncated]))
                done += len(given)
                if progress:
                    progress(done, len(texts))
        np.save(temporary / LENGTHS, np.concatenate(lengths, axis=1))
        (temporary / INDEX).write_text(json.dumps({"key": key, "dtype": dtype}), encoding="utf-8")


def _key_of(folder: Path) -> str | None:
    """Return what the ids in a folder were made from, or None without whole ones."""
    try:
        index, lengths = _read_index(folder)
        whole = (folder / IDS).stat().st_size == lengths[0].sum() * np.dtype(index["dtype"]).itemsize
        return index["key"] if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_index(folder: Path) -> tuple[dict[str, str], NDArray[np.int64]]:
    index: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return index, np.load(folder / LENGTHS)


def _open(folder: Path) -> Tokenized:
    index, (lengths, full, truncated) = _read_index(folder)
    return Tokenized(StoredIds(folder / IDS, lengths, index["dtype"]), lengths, full, truncated.astype(np.bool_))
