"""Checkpoints that are known to be whole.

Trainer writes a checkpoint file by file. A manifest with the size and SHA-256 of every file is
written last, so that a resume takes the newest checkpoint that is complete and unchanged, and
never one that a full disk or a killed process left half-written.
"""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from textlora import storage

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
SCHEMA = {"noun": "Checkpoint", "version": storage.SCHEMA_VERSION}


@dataclass(frozen=True, slots=True)
class Seal:
    """What a checkpoint belongs to.

    Attributes:
        plan: fingerprint of the plan's settings.
        dataset: fingerprint of the data.
        seconds: wall time trained so far.
        cpu_seconds: processor time used so far.
    """

    plan: str
    dataset: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    step: int
    seal: Seal


def seal(folder: Path, mark: Seal) -> None:
    """Write the manifest of a finished checkpoint."""
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, storage.file_fingerprint(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    document = {
        "schema": SCHEMA,
        "plan": mark.plan,
        "dataset": mark.dataset,
        "seconds": mark.seconds,
        "cpu_seconds": mark.cpu_seconds,
        "files": files,
    }
    storage.write_text(folder / MANIFEST, json.dumps(document, indent=1))


def read(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in ``folder`` if every file is as the manifest says, else ``None``."""
    try:
        return Checkpoint(folder, int(folder.name.removeprefix(PREFIX)), _check(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check(folder: Path) -> Seal:
    """Return the seal; raise one of many errors if the manifest or a file is not as it should be."""
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if document["schema"] != SCHEMA:
        raise ValueError(document["schema"])
    for name, (size, digest) in document["files"].items():
        file = folder / name
        if file.stat().st_size != size or storage.file_fingerprint(file) != digest:
            raise ValueError(name)
    return Seal(document["plan"], document["dataset"], document["seconds"], document["cpu_seconds"])


def copy(folder: Path, root: Path) -> None:
    """Copy a checkpoint into ``root``, under its own name once the copy has been read back whole.

    Raises:
        ResourceError: ``root`` cannot be written or its disk is full; what was there stays.
    """
    target = root / folder.name
    with storage.atomic_folder(target) as temporary:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            place = temporary / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        try:
            _check(temporary)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(errno.EIO, "what was written reads back otherwise") from error


def same(first: Path, second: Path) -> bool:
    """Return whether two sealed checkpoints have equal manifests; their files are not read."""
    try:
        return (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes()
    except OSError:
        return False


def list_folders(root: Path) -> list[Path]:
    """Return all checkpoint folders under ``root``, newest step first."""
    folders = [path for path in root.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def newest(root: Path, *, plan: str, dataset: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of this plan and data, or ``None``."""
    for folder in list_folders(root):
        found = read(folder)
        if found and found.seal.plan == plan and found.seal.dataset == dataset:
            return found
    return None


def rotate(root: Path, *, keep: int, best: str | None) -> None:
    """Delete old checkpoints: the ``keep`` newest and the best one stay."""
    spared = list_folders(root)[:keep]
    for folder in list_folders(root)[keep:]:
        if folder not in spared and folder.name != (Path(best).name if best else ""):
            shutil.rmtree(folder, ignore_errors=True)


def clear(root: Path) -> None:
    """Delete all checkpoints under ``root``."""
    for folder in list_folders(root):
        shutil.rmtree(folder, ignore_errors=True)
