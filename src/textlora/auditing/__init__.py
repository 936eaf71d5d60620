"""``audit``: which rows of a labelled file have a wrong label, most likely; and ``apply_review``, its other half.

    preparation.whole: all rows, folds -> representing: a frozen encoder's states, once for all folds
        -> members, crossing (running): linear classifiers out of fold, pooled -> doubting | conflicts -> suspecting -> review

``review`` is the file that a person fills in, ``decisions`` what may stand in it, and ``applying`` turns it into a
corrected copy of the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.auditing.nouns import KINDS, Audit, Correction, Kind, Suspect
from textlora.errors import ResourceError, UsageError
from textlora.extras import AUDIT
from textlora.preparation.request import Request, is_frame, options_of, source_name
from textlora.readers import check_file

__all__ = ["AUDIT_JSON", "KINDS", "REVIEW", "Audit", "Correction", "Kind", "Suspect", "audit", "load_audit"]

AUDIT_JSON = "audit.json"
REVIEW = "audit.csv"
WORK = "work"
FOLDS = 5
MOST_FOLDS = 20
VERSION = 1
"""Raise it when the same rows would give another audit."""
Progress = Callable[[str, int, int, str], None]


def audit(
    request: Request,
    out: Path,
    *,
    folds: int = FOLDS,
    assignments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Look for wrong labels; write ``audit.csv`` for a review, and ``audit.json``.

    An audit that was stopped goes on where it was; one that is there already is returned as it is.

    Args:
        request: what is audited, and how it is read.
        out: the folder.
        folds: classifiers of each kind that are trained, each without one part of the rows.
        assignments: settings by dotted name; those of the base model, the texts and the arithmetic count.
        overwrite: replace another audit in the folder, with the decisions in its review.
        progress: called with stage, units done, units in all (0 when unknown) and a note.

    Raises:
        UsageError: the folder holds another audit, or an option that makes no sense.
        DataError: the file cannot become labelled rows, or a label has too few of them.
        ResourceError: cleanlab or the base model is missing, or the disk or memory is too small.
    """
    _check_call(request, folds)
    key = _key(request, folds, assignments or {})
    done = _finished(out, request, key, overwrite=overwrite)
    if done is not None:
        return done
    from textlora.auditing.running import run

    found = run(request, out, folds=folds, assignments=assignments or {}, key=key, progress=progress or _silent)
    storage.write_noun(out / AUDIT_JSON, found)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return found


def _silent(stage: str, done: int, total: int, note: str) -> None:
    """Report nothing."""


def load_audit(folder: Path) -> Audit:
    """Read ``audit.json`` of a folder.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    return storage.read_noun(folder / AUDIT_JSON, Audit, made_by="audit")


def _check_call(request: Request, folds: int) -> None:
    if not 2 <= folds <= MOST_FOLDS:  # noqa: PLR2004 - with one there is nothing to train on
        raise UsageError(
            f"There shall be {folds} folds; 2 to {MOST_FOLDS} are possible.", hint="Usual are --folds 5 or 10."
        )
    if AUDIT.obstacle:
        raise ResourceError(
            f"textlora audit needs cleanlab, and {AUDIT.obstacle}.", hint=f"Install it: {AUDIT.command}"
        )
    if not is_frame(request.source):
        check_file(Path(request.source))


def _key(request: Request, folds: int, assignments: Mapping[str, Any]) -> str:
    """Return the fingerprint of all that decides an audit; a data frame is never the same twice."""
    if is_frame(request.source):
        return ""
    source = {"source": str(Path(request.source).resolve())}
    options = sorted({**options_of(request), **source, **assignments, "folds": folds, "version": VERSION}.items())
    return storage.fingerprint(map(repr, options))


def _finished(out: Path, request: Request, key: str, *, overwrite: bool) -> Audit | None:
    """Return the audit in the folder if it is the one that is asked for; clear away another one if that is allowed."""
    if not (out / AUDIT_JSON).exists() and not (out / REVIEW).exists():
        return None
    if not overwrite:
        known = load_audit(out) if (out / AUDIT_JSON).exists() else None
        if known is not None and key and known.key == key and (out / REVIEW).exists():
            return known
        raise UsageError(
            f"{out} holds another audit, perhaps with decisions in its {REVIEW}, than that of {source_name(request.source)} with these options.",
            hint="Choose another folder with --out, or replace the audit in it with --overwrite.",
        )
    for name in (AUDIT_JSON, REVIEW):
        (out / name).unlink(missing_ok=True)
    return None
