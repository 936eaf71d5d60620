"""Three splits in the wanted shares, every label in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.preparation.grouped import LabelledRows, assign_units, spread_labels
from textlora.preparation.label_sets import LabelSets
from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import Rows, occurrences
from textlora.preparation.stratifying import stratify
from textlora.preparation.timed import assign_by_time
from textlora.preparation.times import Times
from textlora.types import SPLIT_NAMES

NOWHERE = -1
"""The part of a row that was set aside."""
_SHOWN_PROBLEMS = 10


def check_classes(rows: Rows, names: Sequence[str], request: Request, ledger: Ledger) -> None:
    """Refuse labels with too few rows to stand in every split, all of them together."""
    _check_given(rows, names, request, ledger)
    needed = 3 - len(request.given)
    main = rows.kept(MAIN)
    counts = rows.label_counts(main, len(names))
    short = np.flatnonzero(counts < needed).tolist()
    if not short:
        return
    if not main.any():
        raise DataError(
            f"No row of {source_name(request.source)} is left.",
            problems=ledger.summary(),
            hint="Look at the reasons above.",
        )
    problems = [
        _short_label(names[place], rows, np.flatnonzero(main & rows.having(place)), ledger)
        for place in short[:_SHOWN_PROBLEMS]
    ]
    more = [f"{len(short) - _SHOWN_PROBLEMS:,} more labels"] if len(short) > _SHOWN_PROBLEMS else []
    raise DataError(
        f"Every label needs at least {needed} different texts, one for each split to be made; in {source_name(request.source)} some have fewer:",
        problems=[*problems, *more, *ledger.summary()],
        hint="Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside.",
    )


def _short_label(name: str, rows: Rows, found: NDArray[np.intp], ledger: Ledger) -> str:
    if not len(found):
        return f"the label {name!r} has no row left"
    places = ledger.places(rows.places(found), len(found))
    if len(found) == 1:
        return f"the label {name!r} has one text only ({places})"
    return f"the label {name!r} has {len(found)} texts ({places})"


def _check_given(rows: Rows, names: Sequence[str], request: Request, ledger: Ledger) -> None:
    for origin, item in request.given.items():
        kept = rows.kept(origin)
        counts = rows.label_counts(kept, len(names))
        if not kept.any():
            raise DataError(
                f"No row of the {origin} file {source_name(item)} is left.",
                problems=ledger.summary(),
                hint=f"Known labels: {', '.join(names)}.",
            )
        absent = [name for name, times in zip(names, counts.tolist(), strict=True) if not times]
        if absent:
            ledger.note(
                "absent_label",
                "warning",
                f"The {origin} file has no row with the label {', '.join(map(repr, absent))}.",
                len(absent),
            )


def split_rows(rows: Rows, units: NDArray[np.int32] | None, times: Times | None, request: Request) -> NDArray[np.int8]:
    """Return the split of each row (N,), as a place in ``SPLIT_NAMES`` or ``NOWHERE``.

    The main rows are divided by class in the wanted shares, or by time; given files are splits already.

    Args:
        rows: all rows.
        units: (N,) the first row of what each row must stay together with, if anything must.
        times: when each row was written, to split by it.
        request: shares, seed and given files.

    Raises:
        DataError: too few different times.
    """
    parts = np.full(len(rows), NOWHERE, dtype=np.int8)
    main = rows.kept(MAIN)
    if times is not None:
        parts[main] = assign_by_time(times.values[main], made_shares(request), times.column)
    elif units is not None:
        parts[main] = _assign_whole(rows.classes[main], rows.sets, units[main], request)
    elif rows.sets:
        parts[main] = _assign_sets(rows.classes[main], rows.sets, request, made_shares(request))
    else:
        parts[main] = _assign(rows.classes[main], request)
    for origin in request.given:
        parts[rows.kept(origin)] = SPLIT_NAMES.index(origin)
    return parts


def made_shares(request: Request) -> dict[str, float]:
    """Return the share of each split that no file is given for, but training; the test comes first."""
    data = request.settings.data
    wanted: dict[str, float] = {"test": data.test_share, "validation": data.validation_share}
    return {name: share for name, share in wanted.items() if name not in request.given}


def _assign(labels: NDArray[np.int32], request: Request) -> NDArray[np.int8]:
    """Return the split of each row: shuffled within its class, then cut."""
    sizes = _wanted(labels, request)
    parts = np.full(len(labels), SPLIT_NAMES.index("train"), dtype=np.int8)
    free = np.ones(len(labels), dtype=np.bool_)
    _fill(parts, labels, free, sizes, request.settings.seed)
    return parts


def _assign_whole(
    classes: NDArray[np.int32], sets: LabelSets | None, units: NDArray[np.int32], request: Request
) -> NDArray[np.int8]:
    """Return the split of each row: units of several rows first, then single rows fill up what is missing."""
    numbers = np.unique(units, return_inverse=True)[1]
    rows, shares = LabelledRows(classes, sets), made_shares(request)
    totals = rows.counts(np.ones(len(classes), np.bool_))
    sizes: Mapping[str, NDArray[Any]]
    sizes = {name: totals * share for name, share in shares.items()} if sets else _wanted(classes, request)
    goals = {"train": totals - sum(sizes.values(), np.zeros_like(totals)), **sizes}
    wanted = {SPLIT_NAMES.index(name): np.asarray(counts, np.float64) for name, counts in goals.items()}
    parts = assign_units(rows, numbers, wanted, request.settings.seed)
    free = np.bincount(numbers)[numbers] == 1
    if sets and free.any():
        parts[free] = _assign_sets(classes[free], sets, request, _left_shares(parts, free, shares))
    elif not sets:
        taken = {name: rows.counts(~free & (parts == SPLIT_NAMES.index(name))) for name in sizes}
        left = {name: np.maximum(counts - taken[name], 0) for name, counts in sizes.items()}
        _fill(parts, classes, free, left, request.settings.seed)
    spread_labels(parts, rows, numbers, np.array(list(wanted), dtype=np.int8))
    return parts


def _left_shares(parts: NDArray[np.int8], free: NDArray[np.bool_], shares: Mapping[str, float]) -> dict[str, float]:
    """Return which share of the free rows (n,) each split still needs, training excepted."""
    lacking = {
        name: max(0.0, share * len(parts) - int((~free & (parts == SPLIT_NAMES.index(name))).sum()))
        for name, share in shares.items()
    }
    return {name: rows / max(1.0, float(free.sum()), sum(lacking.values())) for name, rows in lacking.items()}


def _wanted(labels: NDArray[np.int32], request: Request) -> dict[str, NDArray[np.int64]]:
    """Return how many rows of each class (C,) each split that is made shall have, training excepted."""
    counts = occurrences(labels, int(labels.max()) + 1)
    classes = np.flatnonzero(counts)
    wanted = {}
    for name, share in made_shares(request).items():
        sizes = np.zeros_like(counts)
        sizes[classes] = _sizes(counts[classes].tolist(), share)
        wanted[name] = sizes
    return wanted


def _fill(
    parts: NDArray[np.int8],
    labels: NDArray[np.int32],
    free: NDArray[np.bool_],
    sizes: Mapping[str, NDArray[np.int64]],
    seed: int,
) -> None:
    """Give every split its number of free rows (n,) of each class, drawn at random; the others stay in training."""
    generator = np.random.default_rng(seed)
    for label in np.unique(labels[free]).tolist():
        rows = generator.permutation(np.flatnonzero(free & (labels == label)))
        start = 0
        for position, (name, counts) in enumerate(sizes.items()):
            # One row at least stays for each of the splits that come after, train among them.
            size = max(0, min(int(counts[label]), len(rows) - start - (len(sizes) - position)))
            parts[rows[start : start + size]] = SPLIT_NAMES.index(name)
            start += size


def _assign_sets(
    numbers: NDArray[np.int32], sets: LabelSets, request: Request, made: Mapping[str, float]
) -> NDArray[np.int8]:
    """Return the split of each row with several labels, in the shares of the splits that are made."""
    shares = {**made, "train": 1 - sum(made.values())}
    places = np.array([SPLIT_NAMES.index(name) for name in shares], np.int8)
    return np.asarray(places[stratify(numbers, sets, tuple(shares.values()), request.settings.seed)])


def _sizes(counts: Sequence[int], share: float) -> list[int]:
    """Return the rows of each class in a split: largest remainders, at least one."""
    exact = [count * share for count in counts]
    sizes = [int(value) for value in exact]
    missing = round(sum(exact)) - sum(sizes)
    # Ties go to the earlier class.
    for place in sorted(range(len(counts)), key=lambda i: sizes[i] - exact[i])[:missing]:
        sizes[place] += 1
    return [max(1, size) for size in sizes]
