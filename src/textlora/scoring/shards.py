"""What is done of a job, in shards on the disk, so that a killed job goes on where it was.

The shards of one job lie in a hidden folder beside its output::

    .scored.csv.textlora-parts/
      lock                      held while somebody works on it
      manifest.jsonl            a line that says what the model is, then one for each shard
      00000000.csv              a block of rows with its predictions, as it will stand in the output
      00000000.quarantine.csv   its broken lines, where it has any

A shard is written atomically, and only then its line in the manifest: what has a line is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from textlora import storage
from textlora.errors import UsageError

MANIFEST, LOCK = "manifest.jsonl", "lock"
NOUN = "Shards"


@dataclass(frozen=True, slots=True)
class Entry:
    """The manifest's line of one shard.

    Attributes:
        source: index of the file that its rows are from.
        stamp: fingerprint of how that file is read and written.
        digest: SHA-256 of its records as they were read.
        size: bytes of the shard.
        suffix: of the shard's file.
        scored: rows with a prediction.
        without_text: rows whose text is missing.
        quarantined: broken lines.
        truncated: scored rows whose text was cut.
        not_sure: scored rows that the classifier abstains from.
        labels: how often each label was given.
    """

    source: int
    stamp: str
    digest: str
    size: int
    suffix: str
    scored: int
    without_text: int
    quarantined: int
    truncated: int
    not_sure: int
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Rows and broken lines together."""
        return self.scored + self.without_text + self.quarantined


class Shards:
    """The shards of one job; made by ``open_shards``.

    Attributes:
        folder: where they are.
        entries: one for each shard, in order.
        refused: why what an earlier call has left cannot be used, or ``""``.
    """

    def __init__(self, folder: Path, model: Mapping[str, str]) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.refused = ""
        self._model = dict(model)
        # The manifest is written anew before the first shard of a call, and grows by a line with each.
        self._stale = True

    def load(self) -> None:
        """Take over what an earlier call has left; ``refused`` tells why nothing could be, if there was something."""
        lines = _whole_lines(self.folder / MANIFEST)
        if lines and lines[0] == self._head:
            self.entries = [Entry(**line) for line in lines[1:]]
        elif len(lines) > 1:
            self.refused = "another model" if _versions(lines[0]) == _versions(self._head) else "another version"
        self.cut(self._whole())

    @property
    def _head(self) -> dict[str, Any]:
        return {"schema": {"noun": NOUN, "version": storage.SCHEMA_VERSION}, **self._model}

    def _whole(self) -> int:
        """Return how many shards from the first on are there as they were written."""
        for number, entry in enumerate(self.entries):
            path = self.path(number, entry.suffix)
            if not path.exists() or path.stat().st_size != entry.size:
                return number
        return len(self.entries)

    def path(self, number: int, suffix: str) -> Path:
        """Return where a shard is."""
        return self.folder / f"{number:08}{suffix}"

    def quarantine(self, number: int) -> Path:
        """Return where the broken lines of a shard are."""
        return self.path(number, ".quarantine.csv")

    def cut(self, number: int) -> None:
        """Forget the shards from ``number`` on; they stay on the disk until another one is written."""
        del self.entries[number:]
        self._stale = True

    def _write_manifest(self) -> None:
        lines = [self._head, *map(asdict, self.entries)]
        storage.write_text(self.folder / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines))
        self._stale = False

    def add(
        self, suffix: str, write: Callable[[Path], None], write_broken: Callable[[Path], None] | None, **fields: Any
    ) -> None:
        """Write the next shard.

        Args:
            suffix: of its file.
            write: writes it to a path.
            write_broken: writes its broken lines to a path; None where there are none.
            fields: all of its ``Entry`` but ``size`` and ``suffix``.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        number = len(self.entries)
        if self._stale:  # before a shard takes the place of one that is in the manifest
            self._write_manifest()
        if write_broken:
            with storage.atomic_path(self.quarantine(number)) as temporary:
                write_broken(temporary)
        path = self.path(number, suffix)
        with storage.atomic_path(path) as temporary:
            write(temporary)
        entry = Entry(size=path.stat().st_size, suffix=suffix, **fields)
        with storage.disk_errors(self.folder), (self.folder / MANIFEST).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(entry)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.entries.append(entry)

    def remove(self) -> None:
        """Delete the folder; without a manifest, what a kill leaves of it is nobody's."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _versions(head: Mapping[str, Any]) -> tuple[Any, Any]:
    return head.get("schema"), head.get("textlora")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a manifest up to the first that is torn."""
    found: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
    for line in lines[:-1]:  # what follows the last line end is torn
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


@contextmanager
def open_shards(folder: Path, model: Mapping[str, str]) -> Iterator[Shards]:
    """Yield the shards in a folder, which nobody else works on meanwhile; an empty folder is not left behind.

    Args:
        folder: is made where it is missing.
        model: what all shards depend on; those of another one are forgotten.

    Raises:
        UsageError: somebody else works on them.
        ResourceError: the folder cannot be written.
    """
    lock = FileLock(storage.make_folder(folder) / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            "Another textlora is writing the same output.", hint="Wait for it, or choose another --out."
        ) from error
    shards = Shards(folder, model)
    try:
        shards.load()
        yield shards
    finally:
        if not (shards.entries or shards.refused):
            shards.remove()
        lock.release()
