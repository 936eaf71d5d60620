"""Three splits in the wanted shares, every label in each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.preparation.label_sets import LabelSets
from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import Rows, occurrences
from textlora.preparation.stratifying import stratify
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


def split_rows(rows: Rows, request: Request) -> NDArray[np.int8]:
    """Return the split of each row (N,), as a place in ``SPLIT_NAMES`` or ``NOWHERE``.

    The main rows are divided by class in the wanted shares; given files are splits already.
    """
    parts = np.full(len(rows), NOWHERE, dtype=np.int8)
    main = rows.kept(MAIN)
    parts[main] = (
        _assign_sets(rows.classes[main], rows.sets, request) if rows.sets else _assign(rows.classes[main], request)
    )
    for origin in request.given:
        parts[rows.kept(origin)] = SPLIT_NAMES.index(origin)
    return parts


def _assign(labels: NDArray[np.int32], request: Request) -> NDArray[np.int8]:
    """Return the split of each row: shuffled within its class, then cut."""
    settings = request.settings
    counts = occurrences(labels, int(labels.max()) + 1)
    classes = np.flatnonzero(counts)
    wanted: dict[str, float] = {"test": settings.data.test_share, "validation": settings.data.validation_share}
    made = {name: share for name, share in wanted.items() if name not in request.given}
    sizes = {name: _sizes(counts[classes].tolist(), share) for name, share in made.items()}
    parts = np.full(len(labels), SPLIT_NAMES.index("train"), dtype=np.int8)
    generator = np.random.default_rng(settings.seed)
    for place, label in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(labels == label))
        start = 0
        for position, name in enumerate(made):
            # One row at least stays for each of the splits that come after, train among them.
            size = min(sizes[name][place], len(rows) - start - (len(made) - position))
            parts[rows[start : start + size]] = SPLIT_NAMES.index(name)
            start += size
    return parts


def _assign_sets(numbers: NDArray[np.int32], sets: LabelSets, request: Request) -> NDArray[np.int8]:
    """Return the split of each row with several labels."""
    settings = request.settings
    wanted: dict[str, float] = {"test": settings.data.test_share, "validation": settings.data.validation_share}
    made = {name: share for name, share in wanted.items() if name not in request.given}
    shares = {**made, "train": 1 - sum(made.values())}
    places = np.array([SPLIT_NAMES.index(name) for name in shares], np.int8)
    return np.asarray(places[stratify(numbers, sets, tuple(shares.values()), settings.seed)])


def _sizes(counts: Sequence[int], share: float) -> list[int]:
    """Return the rows of each class in a split: largest remainders, at least one."""
    exact = [count * share for count in counts]
    sizes = [int(value) for value in exact]
    missing = round(sum(exact)) - sum(sizes)
    # Ties go to the earlier class.
    for place in sorted(range(len(counts)), key=lambda i: sizes[i] - exact[i])[:missing]:
        sizes[place] += 1
    return [max(1, size) for size in sizes]
