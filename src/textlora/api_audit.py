"""``audit`` over files and folders: from a data file to its suspects, and from a review to a corrected copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textlora import auditing, settings
from textlora.api import Progress, default_folder
from textlora.auditing import FOLDS, Audit, Correction
from textlora.preparation.request import Request, make_request


def audit(  # noqa: PLR0913 - one source, the rest are switches with defaults
    source: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    encoding: str | None = None,
    base_model: str | None = None,
    folds: int = FOLDS,
    assignments: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Find the rows of a labelled file whose label is likely wrong, and write them down for a review.

    Args:
        source: path of a data file, or a pandas data frame.
        text: text column; found when not given.
        label: label column; found when not given.
        labels: label names; rows with another label are set aside.
        encoding: of the file, when neither UTF-8 nor UTF-16.
        base_model: the encoder that sees the texts: hub id, local folder or ``embedded``.
        folds: how many parts the rows are divided into; each is judged by what the others teach.
        assignments: settings by dotted name; those of ``data``, ``text`` and ``compute`` count here.
        out: folder for ``audit.csv`` and ``audit.html``, ``audits/<name of the file>`` by default.
        overwrite: replace another audit in the folder, and the decisions in it.
        progress: called with stage, units done, units in all and a note.

    Raises:
        DataError: the file cannot become labelled rows, or a label has too few of them.
        UsageError: the folder holds another audit, or an option makes no sense.
        ResourceError: cleanlab or the base model is missing, or there is too little room.
    """
    from textlora.reporting.audited import report_audit

    flat = {**(assignments or {}), **({"model.base_model": base_model} if base_model else {})}
    folder = Path(out) if out else default_audit_folder(source)
    found = auditing.audit(
        _request(source, text, label, labels, encoding, flat), folder,
        folds=folds, assignments=flat, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    report_audit(found)
    return found


def apply_review(  # noqa: PLR0913 - the file is read as it was audited
    source: str | Path,
    review: str | Path,
    out: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    encoding: str | None = None,
    assignments: Mapping[str, Any] | None = None,
) -> Correction:
    """Write a copy of an audited file with the labels as its review decided; all else stays as it is.

    Args:
        source: the file that was audited.
        review: the reviewed ``audit.csv``.
        out: the copy, in the format of the source; compressed if its name says so.
        text: text column; found when not given.
        label: label column; found when not given.
        labels: labels that rows may be given, besides those that occur.
        encoding: of the source, when neither UTF-8 nor UTF-16.
        assignments: settings of ``data``, as for the audit.

    Raises:
        UsageError: the review is of another file or says what cannot be, all problems together.
        DataError: a file cannot be read.
        ResourceError: the copy cannot be written.
    """
    from textlora.auditing import applying

    request = _request(source, text, label, labels, encoding, assignments or {})
    return applying.apply_review(request, Path(review), Path(out))


def default_audit_folder(source: Any) -> Path:
    """Return the folder of a file's audit: ``IMDB Dataset.csv`` gives ``audits/imdb``."""
    return Path("audits") / default_folder(source).name


def _request(  # noqa: PLR0917 - as make_request has them
    source: Any,
    text: str | None,
    label: str | None,
    labels: Sequence[str] | None,
    encoding: str | None,
    flat: Mapping[str, Any],
) -> Request:
    return make_request(source, text, label, labels, {}, encoding, settings.build(flat))
