"""From rows to splits that share nothing: what must stay together does, and what that came to is said.

near-duplicates -> clusters -> with groups: units -> splits, by label or by time -> checks, findings
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.preparation import likeness as likeness_module
from textlora.preparation import telling
from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.likeness import Likeness
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import Rows
from textlora.preparation.splitting import NOWHERE, made_shares, split_rows
from textlora.preparation.timed import newer_copies
from textlora.preparation.times import Times
from textlora.preparation.units import find_units
from textlora.types import SPLIT_NAMES

OLDER_TEXT = "near-duplicate of an older row"
OLDER_GROUP = "its group has older rows"


@dataclass(frozen=True, slots=True)
class Separated:
    """Where each row (N,) goes, and what is known of it besides.

    Attributes:
        parts: its split, as a place in ``SPLIT_NAMES`` or ``NOWHERE``.
        near_duplicates: whether it has a near-duplicate; None where no row has.
        leaked: whether it is a row of a given file with a near-duplicate in training; None where no row is.
        clusters: the first row of its cluster of near-duplicates, which may be itself; None where there are none.
    """

    parts: NDArray[np.int8]
    near_duplicates: NDArray[np.bool_] | None = None
    leaked: NDArray[np.bool_] | None = None
    clusters: NDArray[np.int32] | None = None


def separate(  # noqa: PLR0917 - what the stages before made
    rows: Rows,
    names: Sequence[str],
    times: Times | None,
    request: Request,
    folder: Path,
    ledger: Ledger,
) -> Separated:
    """Divide the rows so that neither a group nor near-duplicates stand on two sides.

    Raises:
        DataError: there are too few groups or times, or a split would hold one label only.
        ResourceError: the disk has no room for the search.
    """
    likeness = _likeness(rows, request, folder, ledger)
    units = find_units(rows, likeness)
    if times is None:
        _check_units(rows, units, request)
    parts = split_rows(rows, units, times, request)
    if times is not None:
        telling.note_times(rows, parts, times, ledger)
        _set_newer_aside(rows, parts, units, likeness, ledger)
    _check_splits(rows, parts, names, request, ledger)
    leaked = likeness.leaked(parts == SPLIT_NAMES.index("train")) if likeness is not None else None
    telling.note_likeness(rows, likeness, leaked, request, ledger)
    telling.note_groups(rows, parts, units, request, ledger)
    alike = likeness.alike if likeness is not None else None
    clusters = likeness.clusters if likeness is not None and likeness.clustered.any() else None
    return Separated(parts, _if_any(alike), _if_any(leaked), clusters)


def _likeness(rows: Rows, request: Request, folder: Path, ledger: Ledger) -> Likeness | None:
    """Return the near-duplicates, or None where they are not looked for."""
    threshold, left = request.settings.data.near_duplicates, int((rows.reasons == 0).sum())
    if not threshold:
        return None
    if left > likeness_module.MOST_ROWS:
        ledger.note(
            "near_duplicates_missed",
            "warning",
            f"Near-duplicates were not looked for: {left:,} rows are more than the {likeness_module.MOST_ROWS:,} that this is made for. "
            "They may stand in two splits; --sample draws fewer rows.",
            left,
        )
        return None
    return likeness_module.find_likeness(rows, threshold, folder, ledger)


def _if_any(marks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return marks if marks is not None and marks.any() else None


def _check_units(rows: Rows, units: NDArray[np.int32] | None, request: Request) -> None:
    """Refuse groups that are too few for the splits."""
    if rows.groups is None or units is None:
        return
    main = rows.kept(MAIN)
    groups, whole = (len(np.unique(found[main])) for found in (rows.groups, units))
    needed = 1 + len(made_shares(request))
    if whole >= needed:
        return
    column = request.settings.data.group_column
    linked = f", which near-duplicates join to {whole}" if whole < groups else ""
    raise DataError(
        f"The rows of {source_name(request.source)} belong to {groups} group{'s' if groups > 1 else ''} of the column {column!r}{linked}; "
        f"{needed} splits need {needed} at least, since a group stays whole.",
        hint="Name a finer column with --group, or leave --group out.",
    )


def _set_newer_aside(
    rows: Rows, parts: NDArray[np.int8], units: NDArray[np.int32] | None, likeness: Likeness | None, ledger: Ledger
) -> None:
    """Set rows of later splits aside that belong together with a row of an earlier one."""
    if units is None:
        return
    main = rows.kept(MAIN)
    marks = np.zeros(len(rows), np.uint16)
    marks[main] = np.where(newer_copies(parts[main], units[main]), 2, 0)
    if likeness is not None:
        copies = newer_copies(parts[main], likeness.clusters[main])
        marks[np.flatnonzero(main)[copies]] = 1
    rows.set_aside(marks, (OLDER_TEXT, OLDER_GROUP), ledger)
    parts[marks > 0] = NOWHERE


def _check_splits(rows: Rows, parts: NDArray[np.int8], names: Sequence[str], request: Request, ledger: Ledger) -> None:
    """Refuse splits that cannot teach or test anything; say which labels are missing from the others."""
    chosen = {name: parts == SPLIT_NAMES.index(name) for name in _made(request)}
    counts = {name: rows.label_counts(mask, len(names)) for name, mask in chosen.items()}
    problems = [f"the {name} split has no row left" for name, mask in chosen.items() if not mask.any()]
    # With several labels a row, each label is a question of its own, and some rows have none.
    problems += [] if rows.several else list(_one_sided(counts, names))
    if problems:
        by, column = _divided_by(request)
        raise DataError(
            f"Splitting by {by}, some splits cannot be used:",
            problems=[*problems, *ledger.summary()],
            hint=f"Name another column with {column}, take larger shares (--set data.test_share=0.2), or add rows.",
        )
    for name, found in counts.items():
        absent = [label for label, count in zip(names, found.tolist(), strict=True) if not count]
        if absent:
            message = f"The {name} split has no row with the label {', '.join(map(repr, absent))}."
            ledger.note("absent_label", "warning", message, len(absent))


def _made(request: Request) -> Iterator[str]:
    return (name for name in SPLIT_NAMES if name == "train" or name in made_shares(request))


def _one_sided(counts: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> Iterator[str]:
    for name, found in counts.items():
        present = np.flatnonzero(found).tolist()
        if len(present) == 1:
            yield f"the {name} split has rows of one label only, {names[present[0]]!r} ({int(found.sum()):,})"


def _divided_by(request: Request) -> tuple[str, str]:
    """Return in words what decides the splits, and its option."""
    data = request.settings.data
    if data.time_column is not None:
        return f"the time {data.time_column!r}", "--time"
    return (f"groups of {data.group_column!r}", "--group") if data.group_column else ("label", "--label")
