"""Cross-validation's data: each fold held out once, beside the rows to learn from and to choose a checkpoint by.

The rows are those of the training and the validation split; the test split takes no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textlora import storage
from textlora.errors import DataError, UsageError
from textlora.preparation.dividing import divide, labelled
from textlora.preparation.grouped import LabelledRows
from textlora.preparation.views import pick
from textlora.resampling import Units
from textlora.types import Dataset, Split

USED = ("train", "validation")
LEAST_UNITS = 3
"""One to hold out, one to choose the checkpoint by, one to learn from."""
UNEVEN = 0.25
"""Share of its wanted rows that a fold may be off before it is said."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Fold:
    """Places among the rows of training and validation split, laid end to end, in order."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    held_out: NDArray[np.intp]

    def parts(self) -> dict[str, NDArray[np.intp]]:
        """Return the places of each part by its name in a message."""
        return {"training part": self.train, "validation part": self.validation, "held-out part": self.held_out}


@dataclass(frozen=True, slots=True)
class Division:
    """All folds of a data set, and what has to be said about them."""

    folds: tuple[Fold, ...]
    notes: tuple[str, ...]


def check_time(dataset: Dataset) -> None:
    """Refuse data that are split by time.

    Raises:
        UsageError: they are.
    """
    column = dataset.info.options.get("data.time_column")
    if column is not None:
        raise UsageError(
            f"The rows are split by the time {column!r}: folds would learn from rows that are newer than those they are scored on.",
            hint="Leave out --folds, or leave out --time to split by label.",
        )


def make_folds(dataset: Dataset, number: int) -> Division:
    """Divide the rows of training and validation into folds, by label, with groups and near-duplicates whole.

    Raises:
        UsageError: the data are split by time.
        DataError: a label has fewer rows than folds, too much belongs together, or a part of a fold would
            hold one label only.
    """
    check_time(dataset)
    splits = [dataset.splits()[name] for name in USED]
    everything = pick(splits, np.arange(sum(map(len, splits))))
    rows = labelled(everything.labels)
    _check_labels(dataset, rows, number)
    units = _units(everything)
    _check_units(dataset, units, number)
    seed, share = dataset.info.seed, len(splits[1]) / len(everything)
    parts = divide(rows, units, [1 / number] * number, seed)
    folds = tuple(_fold(rows, units, parts == place, share, seed + place) for place in range(number))
    _check_folds(dataset, rows, folds)
    return Division(folds, tuple(_notes(dataset, rows, units, folds)))


def fold_dataset(dataset: Dataset, fold: Fold, *, number: int, of: int, folder: Path) -> Dataset:
    """Return a fold as a data set of its own, whose test split is what is held out."""
    splits = [dataset.splits()[name] for name in USED]
    places = dict(zip(("train", "validation", "test"), fold.parts().values(), strict=True))
    chosen = {name: pick(splits, found) for name, found in places.items()}
    classes = len(dataset.label_names)
    info = replace(
        dataset.info,
        split_counts={name: split.class_counts(classes) for name, split in chosen.items()},
        split_rows={name: len(split) for name, split in chosen.items()} if dataset.info.split_rows else {},
        split_sha256={},
        fingerprint=storage.fingerprint([dataset.fingerprint, f"fold {number} of {of}"]),
    )
    return Dataset(folder, info, chosen["train"], chosen["validation"], chosen["test"])


def _units(everything: Split) -> NDArray[np.int64]:
    """Return the number of what each row (N,) must stay together with: its group, and its near-duplicates."""
    units, rows = Units.of_split(everything), len(everything)
    if units.numbers is not None:
        return units.numbers.astype(np.int64)
    return np.zeros(rows, np.int64) if units.single else np.arange(rows)


def _fold(rows: LabelledRows, units: NDArray[np.int64], held: NDArray[np.bool_], share: float, seed: int) -> Fold:
    """Take a validation part from the rows that are not held out."""
    rest = np.flatnonzero(~held)
    parts = divide(LabelledRows(rows.classes[rest], rows.sets), units[rest], [1 - share, share], seed)
    return Fold(rest[parts == 0], rest[parts == 1], np.flatnonzero(held))


# -- what cannot be done ---------------------------------------------------------------------------


def _counts(dataset: Dataset, rows: LabelledRows, places: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return how many of the rows at some places have each label (C,)."""
    classes, size = rows.classes[places], len(dataset.label_names)
    return rows.sets.label_counts(classes, size) if rows.sets else np.bincount(classes, minlength=size)


def _check_labels(dataset: Dataset, rows: LabelledRows, number: int) -> None:
    """Refuse labels with fewer rows than folds; where a row has several, each fold can do without some."""
    if rows.sets is not None:
        return
    counts = _counts(dataset, rows, np.arange(len(rows.classes)))
    short = np.flatnonzero(counts < number).tolist()
    if not short:
        return
    problems = [f"the label {dataset.label_names[place]!r} has {counts[place]}" for place in short[:_SHOWN]]
    more = [f"{len(short) - _SHOWN:,} more labels"] if len(short) > _SHOWN else []
    least = int(counts.min())
    fewer = f"Take --folds {least}, add" if least > 1 else "Add"
    raise DataError(
        f"{number} folds need {number} rows of every label among the training and validation rows; some have fewer:",
        problems=[*problems, *more],
        hint=f"{fewer} rows, or name the labels that count with --labels.",
    )


def _check_units(dataset: Dataset, units: NDArray[np.int64], number: int) -> None:
    """Refuse what hangs together so much that nothing is left to learn from."""
    found, needed = len(np.unique(units)), max(LEAST_UNITS, number)
    if found >= needed:
        return
    raise DataError(
        f"The training and validation rows are {found} unit{'s' if found > 1 else ''} that {'stay' if found > 1 else 'stays'} whole "
        f"({_what_binds(dataset)}); {number} folds need {needed} at least.",
        hint="Name a finer column with --group, leave --group out, or train without --folds.",
    )


def _what_binds(dataset: Dataset) -> str:
    column = dataset.info.options.get("data.group_column")
    return f"groups of {column!r} and near-duplicates" if column else "near-duplicates"


def _check_folds(dataset: Dataset, rows: LabelledRows, folds: Sequence[Fold]) -> None:
    if rows.sets is not None:
        return
    problems = [problem for number, fold in enumerate(folds, 1) for problem in _one_sided(dataset, rows, fold, number)]
    if problems:
        raise DataError(
            "These folds cannot be used:",
            problems=problems[:_SHOWN],
            hint=f"Units that stay whole ({_what_binds(dataset)}) decide the folds: take another number of them, a finer "
            "column with --group, or add rows.",
        )


def _one_sided(dataset: Dataset, rows: LabelledRows, fold: Fold, number: int) -> Iterator[str]:
    for name, places in fold.parts().items():
        counts = _counts(dataset, rows, places)
        present = np.flatnonzero(counts).tolist()
        if not present:
            yield f"fold {number}: the {name} has no row"
        elif len(present) == 1:
            yield f"fold {number}: the {name} has rows of one label only, {dataset.label_names[present[0]]!r} ({counts.sum():,})"
    missing = np.flatnonzero(_counts(dataset, rows, fold.train) == 0).tolist()
    if missing and len(missing) < len(dataset.label_names) - 1:
        yield f"fold {number}: the training part has no row of {', '.join(repr(dataset.label_names[one]) for one in missing)}"


# -- what is said ----------------------------------------------------------------------------------


def _notes(dataset: Dataset, rows: LabelledRows, units: NDArray[np.int64], folds: Sequence[Fold]) -> Iterator[str]:
    sizes, wanted = [len(fold.held_out) for fold in folds], len(units) / len(folds)
    largest = max(Counter(units.tolist()).values())
    if largest > wanted:
        yield (
            f"The largest unit that stays whole ({_what_binds(dataset)}) has {largest:,} rows, more than the {wanted:,.0f} of an even "
            f"fold: the folds have {min(sizes):,} to {max(sizes):,} rows."
        )
    elif max(abs(size - wanted) for size in sizes) > max(1.0, UNEVEN * wanted):
        yield f"Units that stay whole ({_what_binds(dataset)}) make uneven folds, of {min(sizes):,} to {max(sizes):,} rows."
    leaked = sum(dataset.validation.leaked or ())
    if leaked:
        yield (
            f"{leaked:,} rows of the given validation file are near-duplicates of training rows; files are not tied to each other, so "
            f"these may be in two folds."
        )
    for number, fold in enumerate(folds, 1):
        absent = np.flatnonzero(_counts(dataset, rows, fold.held_out) == 0).tolist()
        if absent:
            names = ", ".join(repr(dataset.label_names[place]) for place in absent[:_SHOWN])
            yield f"Fold {number} holds no row with the label {names}."
