"""Three splits in the wanted shares, every label in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textlora.errors import DataError
from textlora.preparation.ledger import Entry, Ledger
from textlora.preparation.request import Request, source_name
from textlora.types import SPLIT_NAMES, Split

_SHOWN_PROBLEMS = 10


def check_classes(entries: Sequence[Entry], names: Sequence[str], request: Request, ledger: Ledger) -> None:
    """Refuse labels with too few rows to stand in every split, all of them together."""
    _check_given(entries, names, request, ledger)
    needed = 3 - len(request.given)
    rows: dict[str, list[Entry]] = {name: [] for name in names}
    for entry in entries:
        if not entry.origin:
            rows[entry.label].append(entry)
    short = {name: found for name, found in rows.items() if len(found) < needed}
    if not short:
        return
    if not any(rows.values()):
        raise DataError(
            f"No row of {source_name(request.source)} is left.",
            problems=ledger.summary(),
            hint="Look at the reasons above.",
        )
    problems = [_short_label(name, found, ledger) for name, found in short.items()]
    more = [f"{len(problems) - _SHOWN_PROBLEMS:,} more labels"] if len(problems) > _SHOWN_PROBLEMS else []
    raise DataError(
        f"Every label needs at least {needed} different texts, one for each split to be made; in {source_name(request.source)} some have fewer:",
        problems=[*problems[:_SHOWN_PROBLEMS], *more, *ledger.summary()],
        hint="Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside.",
    )


def _short_label(name: str, found: Sequence[Entry], ledger: Ledger) -> str:
    if not found:
        return f"the label {name!r} has no row left"
    if len(found) == 1:
        return f"the label {name!r} has one text only ({ledger.places(found)})"
    return f"the label {name!r} has {len(found)} texts ({ledger.places(found)})"


def _check_given(entries: Sequence[Entry], names: Sequence[str], request: Request, ledger: Ledger) -> None:
    for origin, item in request.given.items():
        seen = {entry.label for entry in entries if entry.origin == origin}
        if not seen:
            raise DataError(
                f"No row of the {origin} file {source_name(item)} is left.",
                problems=ledger.summary(),
                hint=f"Known labels: {', '.join(names)}.",
            )
        absent = [name for name in names if name not in seen]
        if absent:
            ledger.note(
                "absent_label",
                "warning",
                f"The {origin} file has no row with the label {', '.join(map(repr, absent))}.",
                len(absent),
            )


def split_rows(entries: Sequence[Entry], names: Sequence[str], request: Request) -> dict[str, Split]:
    """Divide the main rows by class in the wanted shares; given files are splits already."""
    index = {name: place for place, name in enumerate(names)}
    main = [entry for entry in entries if not entry.origin]
    parts = _assign([index[entry.label] for entry in main], request)
    groups: dict[str, list[Entry]] = {name: [] for name in SPLIT_NAMES}
    for entry, part in zip(main, parts, strict=True):
        groups[part].append(entry)
    for entry in entries:
        if entry.origin:
            groups[entry.origin].append(entry)
    return {name: _as_split(group, index) for name, group in groups.items()}


def _as_split(entries: Sequence[Entry], index: Mapping[str, int]) -> Split:
    return Split(
        tuple(entry.id for entry in entries),
        tuple(entry.text for entry in entries),
        tuple(index[entry.label] for entry in entries),
    )


def _assign(labels: Sequence[int], request: Request) -> list[str]:
    """Return the split of each row: shuffled within its class, then cut."""
    settings = request.settings
    array = np.asarray(labels)
    classes, counts = np.unique(array, return_counts=True)
    wanted: dict[str, float] = {"test": settings.data.test_share, "validation": settings.data.validation_share}
    made = {name: share for name, share in wanted.items() if name not in request.given}
    sizes = {name: _sizes(counts.tolist(), share) for name, share in made.items()}
    parts = np.full(len(array), "train", dtype=object)
    generator = np.random.default_rng(settings.seed)
    for place, label in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(array == label))
        start = 0
        for position, name in enumerate(made):
            # One row at least stays for each of the splits that come after, train among them.
            size = min(sizes[name][place], len(rows) - start - (len(made) - position))
            parts[rows[start : start + size]] = name
            start += size
    return [str(part) for part in parts]


def _sizes(counts: Sequence[int], share: float) -> list[int]:
    """Return the rows of each class in a split: largest remainders, at least one."""
    exact = [count * share for count in counts]
    sizes = [int(value) for value in exact]
    missing = round(sum(exact)) - sum(sizes)
    # Ties go to the earlier class.
    for place in sorted(range(len(counts)), key=lambda i: sizes[i] - exact[i])[:missing]:
        sizes[place] += 1
    return [max(1, size) for size in sizes]
