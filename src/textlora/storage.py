"""The run folder: file names, atomic writes, schema versions.

Every file is written to a temporary neighbour, flushed to disk and renamed, so that a reader
sees the old file or the new one and never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from textlora.errors import ResourceError, UsageError

SCHEMA_VERSION = 1

DATASET = "dataset.json"
QUARANTINE = "quarantine.csv"
PLAN = "plan.toml"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
HISTORY = "history.jsonl"
TOKENS = "tokens"
RUN = "run.json"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.parquet"
REPORT_HTML = "report.html"
REPORT_MARKDOWN = "report.md"
MODEL_CARD = "model_card.md"
EXPORT = "export"
EXPORTS = "exports.json"
SEEDS = "seeds.json"
# Folder with a training for each seed.
SEED_RUNS = "seeds"
FOLDS = "folds.json"
OUT_OF_FOLD = "out_of_fold.parquet"
# Folder with a training for each fold, while they are under way.
FOLD_RUNS = "folds"
TRIALS = "trials.json"
TRIALS_HTML = "trials.html"
TRIALS_MARKDOWN = "trials.md"
BEST_PLAN = "best_plan.toml"
# Folder with the training of the trial that is under way.
TRIAL_RUNS = "trials"
# Folder in the cache.
PREFIX_CACHE = "prefix"

Noun = TypeVar("Noun")
_HASHED_BYTES = 1 << 16
"""Short strings are hashed together, which is faster."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's write errors for ``path`` into a ``ResourceError`` that says what to do."""
    try:
        yield
    except OSError as error:
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: OSError) -> ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"The disk is full: cannot write {path}.",
            hint="Free some space or choose another folder with --out, then run the same command again.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(f"No permission to write {path}.", hint="Choose another folder with --out.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return ResourceError(
            f"{path} cannot be made: a file of that name is in the way.", hint="Choose another folder with --out."
        )
    return ResourceError(f"Cannot write {path}: {error.strerror or error}.", hint="Choose another folder with --out.")


def make_folder(folder: Path) -> Path:
    """Create ``folder`` with its parents and check that it can be written to.

    Raises:
        ResourceError: no permission, a file in the way, a full disk.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    return folder


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``.

    On any error the temporary file is removed and ``path`` stays as it was.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    # The suffix stays last, since some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        with disk_errors(path):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what writers of ``path`` left behind that were killed; only one may write at a time.

    Raises:
        ResourceError: the folder cannot be written.
    """
    with disk_errors(path):
        for leftover in path.parent.glob(f".{path.stem}-{'[0-9a-f]' * 8}{path.suffix}"):
            leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; on success it takes ``folder``'s place.

    The old folder is gone only after the new one is whole.

    Raises:
        ResourceError: the disk is full or the parent cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    old = folder.with_name(f".{folder.name}-old-{secrets.token_hex(4)}")
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            yield temporary
            for item in (temporary, *temporary.rglob("*")):
                if item.is_file() or item.is_dir():
                    _flush(item)
            _exchange(folder, temporary, old)
            _flush(folder.parent)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Move ``folder`` to ``old`` and ``new`` in its place; put it back if that fails."""
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except BaseException:
        if old.exists():
            old.replace(folder)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_noun(path: Path, noun: object) -> None:
    """Write a noun of ``types`` as JSON with its schema version, atomically."""
    body = TypeAdapter(type(noun)).dump_python(noun, mode="json")
    document = {"schema": {"noun": type(noun).__name__, "version": SCHEMA_VERSION}, **body}
    write_text(path, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_noun(path: Path, noun: type[Noun], *, made_by: str) -> Noun:
    """Read what ``write_noun`` wrote.

    Args:
        path: the JSON file.
        noun: the class expected in it.
        made_by: the verb that writes the file, named when it is missing.

    Raises:
        UsageError: the file is missing, damaged, of another kind or another version.
    """
    document = _read_json(path, made_by)
    schema = document.pop("schema", None) if isinstance(document, dict) else None
    check_schema(path, schema, noun.__name__)
    try:
        return TypeAdapter(noun).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path} is damaged: {place}: {first['msg']}.", hint=f"Run `textlora {made_by}` again."
        ) from error


def _read_json(path: Path, made_by: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist.", hint=f"`textlora {made_by}` writes it: run that first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}.", hint=f"Run `textlora {made_by}` again.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def check_schema(path: Path, schema: object, noun: str) -> None:
    """Compare a file's schema entry with what this version of textlora writes.

    Raises:
        UsageError: another kind of file, or another version.
    """
    if not isinstance(schema, Mapping) or schema.get("noun") != noun:
        raise UsageError(f"{path} is not a {noun} file of textlora.")
    version = schema.get("version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        hint = "Update textlora." if newer else "Make the run again with this version."
        raise UsageError(
            f"{path} has schema version {version}; this textlora reads version {SCHEMA_VERSION}.", hint=hint
        )


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 of a sequence of strings, each set off by its length."""
    digest, held = hashlib.sha256(), bytearray()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        held += len(raw).to_bytes(8, "little")
        held += raw
        if len(held) >= _HASHED_BYTES:
            digest.update(held)
            held.clear()
    digest.update(held)
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the folder for what may be made again: ``$TEXTLORA_CACHE`` or ``~/.cache/textlora``."""
    root = os.environ.get("TEXTLORA_CACHE")
    if root:
        return Path(root).expanduser()
    # An empty variable counts as unset, as the XDG specification asks.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textlora"
