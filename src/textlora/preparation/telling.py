"""What was done to keep the splits apart, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.preparation.ledger import MAIN, Ledger, Place
from textlora.preparation.likeness import Likeness, sizes_of
from textlora.preparation.request import Origin, Request
from textlora.preparation.rows import Rows
from textlora.preparation.splitting import made_shares
from textlora.preparation.times import Times
from textlora.preparation.units import count_groups
from textlora.types import SPLIT_NAMES

EXAMPLES = 3
"""Clusters that are shown."""
EXCERPT = 60
SKEWED = 0.25
"""Share of its wanted rows that a split may be off before it is a warning."""


# -- near-duplicates -----------------------------------------------------------------------------


def note_likeness(
    rows: Rows, likeness: Likeness | None, leaked: NDArray[np.bool_] | None, request: Request, ledger: Ledger
) -> None:
    """Say how many near-duplicates there are, with examples, and which of them leak from given files."""
    if likeness is None:
        return
    _note_clusters(rows, likeness, request, ledger)
    if likeness.tightened:
        ledger.note(
            "near_duplicate_templates",
            "warning",
            f"{likeness.tightened:,} rows are too much alike to be kept together, as texts made from a template are; "
            "among them only those that are more similar stay in one split.",
            likeness.tightened,
        )
    if likeness.exhausted:
        ledger.note(
            "near_duplicates_missed",
            "warning",
            "So many texts are alike that not all pairs were compared: some near-duplicates may stand in two splits.",
        )
    if leaked is not None:
        for origin in request.given:
            _note_leaked(rows, leaked, origin, ledger)


def _note_clusters(rows: Rows, likeness: Likeness, request: Request, ledger: Ledger) -> None:
    members = np.flatnonzero(likeness.clustered & rows.kept(MAIN))
    if not len(members):
        return
    sizes = sizes_of(likeness.clusters)
    roots = np.unique(likeness.clusters[members])
    largest = roots[np.argsort(-sizes[roots], kind="stable")]
    examples = "; ".join(_examples(rows, likeness, largest[:EXAMPLES].tolist(), ledger))
    timed = request.settings.data.time_column is not None
    fate = "what is newer than the split of its first row is set aside" if timed else "each stays in one split"
    ledger.note(
        "near_duplicates",
        "info",
        f"{len(members):,} rows are near-duplicates, in {len(roots):,} cluster{'s' if len(roots) > 1 else ''} of texts that share at least "
        f"{request.settings.data.near_duplicates:.0%} of their character 5-grams; {fate}. For instance {examples}.",
        len(members),
    )


def _examples(rows: Rows, likeness: Likeness, roots: Sequence[int], ledger: Ledger) -> Iterator[str]:
    """Yield the rows of some clusters with the text of their first."""
    mask = np.zeros(len(rows), np.bool_)
    mask[roots] = True
    texts = {
        int(place): text.decode()
        for places, block in rows.spill.chosen(mask)
        for place, text in zip(places, block["text"].to_pylist(), strict=True)
    }
    for root in roots:
        members = np.flatnonzero(likeness.clusters == root)
        text = texts[root]
        shown = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
        yield f"{ledger.places(rows.places(members), len(members))} ({shown!r})"


def _note_leaked(rows: Rows, leaked: NDArray[np.bool_], origin: Origin, ledger: Ledger) -> None:
    found = np.flatnonzero(leaked & rows.kept(origin))
    if not len(found):
        return
    share = len(found) / int(rows.kept(origin).sum())
    one = len(found) == 1
    what, fate = ("row", "is a near-duplicate") if one else ("rows", "are near-duplicates")
    stay, without = ("it stays there and is", "it") if one else ("they stay there and are", "them")
    ledger.note(
        "leaked",
        "warning",
        f"{len(found):,} {what} of the {origin} file ({share:.1%}) {fate} of training rows ({_places(rows, found, ledger)}); "
        f"{stay} marked, and evaluate shows the score with and without {without}.",
        len(found),
    )


def _places(rows: Rows, found: NDArray[np.intp], ledger: Ledger) -> str:
    shown: list[Place] = rows.places(found)
    return ledger.places(shown, len(found))


# -- groups --------------------------------------------------------------------------------------


def note_groups(
    rows: Rows, parts: NDArray[np.int8], units: NDArray[np.int32] | None, request: Request, ledger: Ledger
) -> None:
    """Say how the groups spread over the splits, and what is wrong with them."""
    if rows.groups is None:
        return
    column = request.settings.data.group_column
    main = rows.kept(MAIN)
    groups = count_groups(rows)
    made = [name for name in SPLIT_NAMES if name == "train" or name in made_shares(request)]
    counts = [len(np.unique(rows.groups[main & (parts == SPLIT_NAMES.index(name))])) for name in made]
    shown = ", ".join(f"{count:,} in {name}" for count, name in zip(counts, made, strict=True))
    if groups == int(main.sum()):
        message = f"Every row is a group of its own in the column {column!r}: it changes nothing."
        ledger.note("groups", "warning", message, groups)
    else:
        ledger.note("groups", "info", f"The {groups:,} groups of {column!r} stay whole: {shown}.", groups)
    _note_skew(rows, parts, request, ledger)
    _note_joined(rows, units, request, ledger)
    for origin in request.given:
        _note_shared_groups(rows, parts, origin, ledger)


def _note_skew(rows: Rows, parts: NDArray[np.int8], request: Request, ledger: Ledger) -> None:
    """Warn where the splits are far from the wanted size, because groups cannot be divided."""
    total = int(rows.kept(MAIN).sum())
    off = {
        name: (int((parts == SPLIT_NAMES.index(name)).sum()) / total, share)
        for name, share in made_shares(request).items()
    }
    far = {name: pair for name, pair in off.items() if abs(pair[0] - pair[1]) > SKEWED * pair[1]}
    if far:
        shown = ", ".join(f"{name} {found:.1%} instead of {share:.1%}" for name, (found, share) in far.items())
        ledger.note("uneven_splits", "warning", f"Groups that stay whole make uneven splits: {shown} of the rows.")


def _note_joined(rows: Rows, units: NDArray[np.int32] | None, request: Request, ledger: Ledger) -> None:
    """Warn where near-duplicates tie groups to each other."""
    if units is None or rows.groups is None or request.settings.data.time_column is not None:
        return
    main = rows.kept(MAIN)
    groups, whole = count_groups(rows), len(np.unique(units[main]))
    if whole < groups:
        largest = int(np.bincount(units[main]).max()) / int(main.sum())
        ledger.note(
            "joined_groups",
            "warning" if largest > SKEWED else "info",
            f"Near-duplicates in different groups keep these together: {groups:,} groups make {whole:,} units, the largest with {largest:.1%} of the rows.",
            groups - whole,
        )


def _note_shared_groups(rows: Rows, parts: NDArray[np.int8], origin: Origin, ledger: Ledger) -> None:
    if rows.groups is None:
        return
    given = rows.kept(origin)
    if not rows.groups[given].any():
        message = f"The {origin} file has no column for the group: its rows have none."
        ledger.note("no_groups", "info", message, int(given.sum()))
        return
    training = np.unique(rows.groups[parts == SPLIT_NAMES.index("train")])
    shared = np.flatnonzero(given & np.isin(rows.groups, training))
    if len(shared):
        ledger.note(
            "shared_groups",
            "warning",
            f"{len(shared):,} rows of the {origin} file belong to groups that have training rows, too ({_places(rows, shared, ledger)}).",
            len(shared),
        )


# -- time ----------------------------------------------------------------------------------------


def note_times(rows: Rows, parts: NDArray[np.int8], times: Times, ledger: Ledger) -> None:
    """Say from when to when each split that is made goes."""
    main = rows.kept(MAIN)
    spans = []
    for place, name in enumerate(SPLIT_NAMES):
        found = times.values[main & (parts == place)]
        if len(found):
            spans.append(f"{name} {times.show(found.min())} to {times.show(found.max())}")
    ledger.note("time", "info", f"Split by the time {times.column!r}: {', '.join(spans)}.", int(main.sum()))
