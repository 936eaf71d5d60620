"""Rows on their way from the source to a split, on disk: only a block of them is ever in memory."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from textlora import hardware, readers, storage
from textlora.errors import ResourceError
from textlora.preparation.ledger import Entry
from textlora.preparation.request import Request, is_frame

BLOCK_ROWS = 8_192
BLOCK_BYTES = 1 << 22
"""A block ends with the row that fills either."""

DISK_SHARE = 1.5
"""Disk that a preparation takes at its height, for each byte of text: the rows on their way and the splits."""
SAMPLE_SHARE = 0.75
"""More of it while a sample is drawn."""
UNPACKED = 4.0
"""Bytes of text in one of a compressed file."""


def check_disk(folder: Path, request: Request) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        ResourceError: says how much is needed and how much there is.
    """
    files = [Path(item) for item in (request.source, *request.given.values()) if not is_frame(item)]
    share = DISK_SHARE + (SAMPLE_SHARE if request.settings.data.sample else 0.0)
    needed = sum(share * path.stat().st_size * (UNPACKED if readers.is_compressed(path) else 1.0) for path in files)
    free = hardware.free_disk_gb(folder)
    if needed / 1e9 > free:
        raise ResourceError(
            f"Preparing {' and '.join(map(str, files))} may take {needed / 1e9:.1f} GB of disk, and {folder} has {free:.1f} GB free.",
            hint="Free some space, or choose a folder on another disk with --out.",
        )


class Spill:
    """Rows in the order they were added, compressed, in a file without a name.

    The system deletes the file with the process, even a killed one. Rows that fill no more than
    one block never reach the disk. After the first look at the rows, none can be added.

    Args:
        folder: on whose disk the file lies.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: list[tuple[str, int, bytes, str, str, Sequence[str]]] = []
        self._pending_bytes = 0
        self._starts = [0]
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._reader: Any = None
        self._last: Any = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1] + len(self._pending)

    def append(  # noqa: PLR0917 - one column each
        self, row: str, line: int, text: bytes, label: str = "", fault: str = "", extra: Sequence[str] = ()
    ) -> None:
        """Add a row; ``text`` is UTF-8, in which lone surrogates may stand."""
        self._pending.append((row, line, text, label, fault, extra))
        self._pending_bytes += len(text) + len(label)
        if len(self._pending) >= BLOCK_ROWS or self._pending_bytes >= BLOCK_BYTES:
            self._write()

    def add(self, entry: Entry) -> None:
        """Add a row as it was read."""
        self.append(
            entry.id, entry.line, entry.text.encode("utf-8", "surrogatepass"), entry.label, entry.fault, entry.extra
        )

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the place of its first row and the Arrow record batch of each block that holds rows of a range.

        The columns are ``row`` (the id), ``line``, ``text`` (bytes), ``label``, ``fault`` and ``extra`` (a list).
        """
        for number, first, _ in self._between(start, stop):
            yield first, self._block(number)

    def chosen(
        self, mask: NDArray[np.bool_], start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[NDArray[np.intp], Any]]:
        """Yield places (n,) and columns of the rows with a true ``mask`` (N,), block by block; see ``blocks``."""
        import pyarrow as pa

        for number, first, after in self._between(start, stop):
            places = np.flatnonzero(mask[first:after])
            if len(places):
                yield places + first, self._block(number).take(pa.array(places))

    def _between(self, start: int, stop: int | None) -> Iterator[tuple[int, int, int]]:
        """Yield number, first row and end of the blocks that hold rows of a range."""
        self._seal()
        end = len(self) if stop is None else stop
        for number, (first, after) in enumerate(itertools.pairwise(self._starts)):
            if first < end and start < after:
                yield number, first, after

    def close(self) -> None:
        """Give the disk space back."""
        self._writer = self._reader = self._last = None
        if self._file is not None:
            self._file.close()

    def _seal(self) -> None:
        if self._pending:
            self._last = self._as_block()
        if self._writer is not None:
            with storage.disk_errors(self.folder):
                self._writer.close()
            self._writer = None

    def _block(self, number: int) -> Any:
        import pyarrow as pa

        if self._last is not None and number == len(self._starts) - 2:
            return self._last
        if self._reader is None:
            self._reader = pa.ipc.open_file(self._file)
        return self._reader.get_batch(number)

    def _as_block(self) -> Any:
        """Return the pending rows as a record batch and count them as done."""
        import pyarrow as pa

        columns = zip(*self._pending, strict=True)
        kinds = (pa.string(), pa.int64(), pa.binary(), pa.string(), pa.string(), pa.list_(pa.string()))
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        self._starts.append(len(self))
        self._pending, self._pending_bytes = [], 0
        return pa.record_batch(arrays, names=["row", "line", "text", "label", "fault", "extra"])

    def _write(self) -> None:
        import pyarrow as pa

        block = self._as_block()
        with storage.disk_errors(self.folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed by close()
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_file(self._file, block.schema, options=options)
            self._writer.write_batch(block)
