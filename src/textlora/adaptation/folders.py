"""Where an adaptation is written: the encoder's folder, and beside it the folder of what is unfinished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from textlora import checkpoints, storage
from textlora.adaptation.settings import AdaptationSettings, flatten
from textlora.adaptation.sources import Source
from textlora.errors import ResourceError, TextloraError, UsageError
from textlora.models import BaseInfo

ADAPTATION = "adaptation.json"
REQUEST, PLAN, CORPUS, LOCK = "request.json", "plan.json", "corpus", "lock"
UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one adaptation.

    Attributes:
        out: the encoder, there only when it is whole.
        work: texts as token ids, checkpoints and plan while it is made.
    """

    out: Path
    work: Path

    @classmethod
    def beside(cls, out: Path) -> Place:
        """Return the place of an encoder folder; what is unfinished lies beside it."""
        # The parent may be ".", whose name is nowhere in the path.
        whole = out.absolute()
        return cls(out, whole.with_name(f"{whole.name}{UNFINISHED}"))

    @property
    def checkpoints(self) -> Path:
        """Trainer's folder."""
        return self.work / storage.CHECKPOINTS

    @property
    def history(self) -> Path:
        """Trainer's log entries."""
        return self.work / storage.HISTORY

    @property
    def plan(self) -> Path:
        """The plan that was begun with."""
        return self.work / PLAN

    def clear(self) -> None:
        """Delete what is unfinished, but for the lock."""
        checkpoints.clear(self.checkpoints)
        for path in (self.work / CORPUS, self.checkpoints):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.history, self.plan, self.work / REQUEST):
            path.unlink(missing_ok=True)


def check_out(out: Path, info: BaseInfo, *, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced.

    Raises:
        UsageError: it holds other files, an encoder without ``overwrite``, or is the base model itself.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; a folder for the encoder is expected.", hint="Choose another --out.")
    if out.resolve() == info.folder.resolve():
        raise UsageError(f"{out} is the base model itself.", hint="Choose another --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / ADAPTATION).exists():
        raise UsageError(f"{out} holds other files, which would be replaced.", hint="Choose a new or an empty folder.")
    if not overwrite:
        raise UsageError(
            f"{out} holds an adapted encoder already.",
            hint="Choose another --out, or replace it with --overwrite: it stays until the new one is whole.",
        )


@contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Keep other processes from the same place while inside.

    Raises:
        ResourceError: one is at work there, or the folder cannot be written.
    """
    lock = FileLock(storage.make_folder(place.work) / LOCK, timeout=0)
    try:
        with lock:
            try:
                yield
            except TextloraError:
                # Nothing is lost where nothing was trained.
                if not checkpoints.list_folders(place.checkpoints):
                    shutil.rmtree(place.work, ignore_errors=True)
                raise
    except Timeout as error:
        raise ResourceError(
            f"Another process is adapting into {place.out}.", hint="Wait for it, or choose another --out."
        ) from error


def take_up(place: Place, request: Mapping[str, Any], *, overwrite: bool) -> None:
    """Keep what is unfinished if the same was asked for, else clear it away.

    Raises:
        UsageError: it was begun with other texts or settings, and ``overwrite`` is off.
    """
    path = place.work / REQUEST
    asked = json.loads(json.dumps(request))
    if _read(path) == asked:
        return
    if path.exists() and checkpoints.list_folders(place.checkpoints) and not overwrite:
        raise UsageError(
            f"{place.work} holds an adaptation that was begun with other texts or settings.",
            hint="Repeat its command to go on with it, or discard it with --overwrite.",
        )
    place.clear()
    storage.write_text(path, json.dumps(asked, indent=1))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def request_of(
    info: BaseInfo, base_fingerprint: str, settings: AdaptationSettings, sources: Sequence[Source]
) -> dict[str, Any]:
    """Return all that decides what is trained; a source that cannot tell its content is compared later."""
    return {
        "base_model": info.name,
        "base_fingerprint": base_fingerprint,
        "settings": flatten(settings),
        "sources": [[source.name, source.key] for source in sources],
    }
