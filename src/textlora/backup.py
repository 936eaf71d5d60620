"""A copy of a run folder on another disk, for machines that may disappear in mid-training.

The copy is a run folder itself. Every sealed checkpoint goes there as soon as it is written, under
its own name only when it has been read back whole; older ones are deleted after that. A copy that
fails costs a warning and never the training.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textlora import checkpoints, storage
from textlora.checkpoints import Checkpoint
from textlora.errors import ResourceError, TextloraWarning, UsageError

# Large; checkpoints are copied one by one, the others made again when they are needed.
LEFT_OUT = (storage.CHECKPOINTS, storage.EXPORT, storage.TOKENS)
# What an atomic write leaves behind when it is killed.
TEMPORARY = re.compile(r"\.(?P<stem>.+?)(-old)?-[0-9a-f]{8}(\.\w+)?")


class Backup:
    """The copy of one run folder.

    Args:
        folder: where the copy is or will be.
        run: the run folder.

    Raises:
        UsageError: one of the two folders lies in the other.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        inner, outer = folder.absolute(), run.absolute()
        if inner == outer or outer in inner.parents or inner in outer.parents:
            raise UsageError(
                f"The backup {folder} and the run folder {run} lie in each other.",
                hint="Choose another folder with --backup, best on another disk.",
            )
        self.folder = folder
        self.run = run
        self._warned = False

    @property
    def checkpoint_root(self) -> Path:
        """Where the copied checkpoints are."""
        return self.folder / storage.CHECKPOINTS

    # -- to the backup ---------------------------------------------------------------------------

    def save_files(self) -> None:
        """Copy all but the checkpoints; what is there already in the same form stays."""
        with self._warning():
            storage.make_folder(self.folder)
            self._sweep(self.folder, [Path(name).stem for name in _names(self.run)])
            _copy_files(self.run, self.folder)

    def save_checkpoints(self) -> None:
        """Copy the history and the checkpoints that are missing, then delete those that the run has no more.

        Older checkpoints go first: the best one is never missing beside a newer one.
        """
        with self._warning():
            kept = checkpoints.list_folders(self.run / storage.CHECKPOINTS)
            storage.make_folder(self.checkpoint_root)
            self._sweep(self.checkpoint_root, [folder.name for folder in kept])
            # Entries after the newest checkpoint do no harm; a resume cuts them off.
            _copy(self.run / storage.HISTORY, self.folder / storage.HISTORY)
            for folder in reversed(kept):
                if not checkpoints.same(folder, self.checkpoint_root / folder.name):
                    checkpoints.copy(folder, self.checkpoint_root)
            for folder in checkpoints.list_folders(self.checkpoint_root):
                if folder.name not in {path.name for path in kept}:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn the first failure into a warning and pass over the others: the disk may have room later."""
        try:
            yield
        except (ResourceError, OSError) as error:
            if not self._warned:
                reason = error.message if isinstance(error, ResourceError) else str(error)
                warnings.warn(
                    f"The backup could not be written: {reason} Training goes on without it; what is in {self.folder} already is whole.",
                    TextloraWarning,
                    stacklevel=4,
                )
            self._warned = True

    def _sweep(self, folder: Path, stems: Sequence[str]) -> None:
        """Delete what copies left behind that were killed."""
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if (match and match["stem"] in stems) or path.name.startswith(f".{checkpoints.PREFIX}"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    # -- from the backup -------------------------------------------------------------------------

    def newest(self, *, plan: str, dataset: str) -> Checkpoint | None:
        """Return the newest whole checkpoint of this plan and data in the backup, or ``None``."""
        return checkpoints.newest(self.checkpoint_root, plan=plan, dataset=dataset)

    def check(self, *, plan: str, dataset: str, resume: bool) -> None:
        """Refuse to write over what is worth keeping.

        Raises:
            UsageError: the backup is of another training, or it is of this one and ``resume`` is off.
        """
        hint = "Choose another folder with --backup."
        if self._dataset() not in (None, dataset):
            raise UsageError(f"{self.folder} holds a run on other data.", hint=hint)
        for folder in checkpoints.list_folders(self.checkpoint_root):
            found = checkpoints.read(folder)
            if found and (found.seal.plan, found.seal.dataset) != (plan, dataset):
                raise UsageError(f"{folder} is of another plan.", hint=hint)
            if found and not resume:
                raise UsageError(
                    f"{self.folder} holds this training up to step {found.step}.",
                    hint=f"Go on from there with --resume. To start anew: {hint[0].lower()}{hint[1:]}",
                )

    def _dataset(self) -> str | None:
        """Return the fingerprint of the data in the backup, or None when there is none to read."""
        found = _json(self.folder / storage.DATASET)
        return found.get("fingerprint") if isinstance(found, dict) else None

    def restore_files(self, request: str) -> bool:
        """Copy all but the checkpoints into the run folder, where nothing can be lost by it.

        That is when the run folder has no data yet, or when only the backup has begun to train and
        both were asked for the same (``request`` is the file that says what): automatic values of a
        plan may differ from machine to machine.

        Returns:
            Whether anything was copied.

        Raises:
            ResourceError: the run folder cannot be written.
        """
        if not (self.folder / storage.DATASET).exists() or not self._is_untouched(request):
            return False
        storage.make_folder(self.run)
        _copy_files(self.folder, self.run)
        return True

    def _is_untouched(self, request: str) -> bool:
        if not (self.run / storage.DATASET).exists():
            return True
        asked = _json(self.run / request)
        same = asked is not None and asked == _json(self.folder / request)
        return same and _has_trained(self.folder) and not _has_trained(self.run)

    def restore_checkpoints(self, *, plan: str, dataset: str) -> None:
        """Copy history and checkpoints of this plan and data into the run folder if they are further on.

        Raises:
            ResourceError: the run folder cannot be written.
        """
        root = self.run / storage.CHECKPOINTS
        here, there = checkpoints.newest(root, plan=plan, dataset=dataset), self.newest(plan=plan, dataset=dataset)
        if there is None or (here and here.step >= there.step):
            return
        storage.make_folder(root)
        _copy(self.folder / storage.HISTORY, self.run / storage.HISTORY)
        for folder in reversed(checkpoints.list_folders(self.checkpoint_root)):
            if checkpoints.read(folder) and not checkpoints.same(folder, root / folder.name):
                checkpoints.copy(folder, root)


def _has_trained(folder: Path) -> bool:
    return (folder / storage.RUN).exists() or bool(checkpoints.list_folders(folder / storage.CHECKPOINTS))


def _names(folder: Path) -> list[str]:
    """Return what belongs to a copy, ``dataset.json`` last: its presence says that the rest is whole."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LEFT_OUT]
    return sorted(names, key=lambda name: (name == storage.DATASET, name))


def _copy_files(source: Path, target: Path) -> None:
    for name in _names(source):
        _copy(source / name, target / name)


def _copy(source: Path, target: Path) -> None:
    if not source.exists() or _content(source) == _content(target):
        return
    if source.is_dir():
        with storage.atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True, copy_function=shutil.copyfile)
    else:
        with storage.atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): storage.file_fingerprint(file) for file in files}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
