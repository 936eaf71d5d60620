"""``prepare`` for cross-validation: all rows in one split, and the fold of each.

No row is set aside for what other rows say: equal texts with different labels are what an audit looks for.
What must stay together, near-duplicates and groups, is in one fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textlora.errors import DataError
from textlora.preparation.cleaning import typo_reason
from textlora.preparation.describing import describe
from textlora.preparation.dividing import divide
from textlora.preparation.gathering import Gathered, gathered
from textlora.preparation.grouped import LabelledRows
from textlora.preparation.ledger import MAIN, Progress
from textlora.preparation.likeness import find_likeness
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import Rows, shown_label
from textlora.preparation.separating import Separated
from textlora.preparation.splitting import NOWHERE
from textlora.preparation.units import find_units
from textlora.preparation.writing import write_dataset
from textlora.types import SPLIT_NAMES, Dataset

ALL = SPLIT_NAMES.index("train")
# Findings about splits, which are not made here.
ABOUT_SPLITS = ("absent_label", "few_validation_rows")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Misspelt:
    """A row whose label looks like a misspelling of another one, ``meant``."""

    row: str
    line: int
    text: str
    label: str
    meant: str


@dataclass(frozen=True, slots=True)
class Whole:
    """All usable rows of a source, ready for cross-validation. N rows.

    Attributes:
        dataset: its training split holds all rows, the others none.
        lines: (N,) where each row stands in the source.
        unit: what the lines count: ``line`` or ``row``.
        clusters: (N,) the first row of what each row is a near-duplicate of, possibly itself.
        folds: (N,) the fold of each row, from 0.
        misspelt: rows that cannot be used, since their label looks misspelt.
    """

    dataset: Dataset
    lines: NDArray[np.int64]
    unit: str
    clusters: NDArray[np.int32]
    folds: NDArray[np.int8]
    misspelt: tuple[Misspelt, ...] = ()


def prepare_whole(request: Request, *, out: Path, folds: int, progress: Progress) -> Whole:
    """Read, check and clean labelled texts, and write all of them to a folder as one split.

    Args:
        request: what is read; ``data.*`` and ``seed`` of its settings are used, but for the shares of splits.
        out: the folder; files of an earlier call are replaced.
        folds: how many folds there shall be.
        progress: called with stage, rows done and rows in all (or None).

    Raises:
        DataError: the file cannot become labelled rows, or a label has too few different texts.
        UsageError: a column, label list or encoding that makes no sense.
        ResourceError: the folder cannot be written, or its disk is too small.
    """
    with gathered(request, out, progress) as found:
        rows = found.rows
        # Without a threshold, equal texts alone are held together.
        threshold = request.settings.data.near_duplicates or 1.0
        likeness = find_likeness(rows, threshold, found.folder, found.ledger)
        units = find_units(rows, likeness)
        kept = rows.kept(MAIN)
        _check_labels(found, units, request, folds)
        places = np.flatnonzero(kept)
        labelled = LabelledRows(rows.classes[places], rows.sets)
        together = places if units is None else units[places].astype(np.int64)
        assigned = divide(labelled, together, [1 / folds] * folds, request.settings.seed)
        parts = np.where(kept, np.int8(ALL), np.int8(NOWHERE))
        info = describe(rows, parts, found.names, found.columns, request, found.ledger)
        info = replace(info, findings=tuple(one for one in info.findings if one.kind not in ABOUT_SPLITS))
        dataset = write_dataset(found.folder, info, rows, Separated(parts), found.broken, found.ledger)
        # Places among all rows become places among the kept ones.
        clusters = np.searchsorted(places, likeness.clusters[places]).astype(np.int32)
        misspelt = tuple(_misspelt(rows, found.names))
        return Whole(dataset, rows.lines[places].copy(), found.ledger.units[MAIN], clusters, assigned, misspelt)


def _check_labels(found: Gathered, units: NDArray[np.int32] | None, request: Request, folds: int) -> None:
    """Refuse labels that cannot be in every fold, all of them together."""
    rows, kept = found.rows, found.rows.kept(MAIN)
    numbers = np.arange(len(rows)) if units is None else units
    counts = {name: len(np.unique(numbers[kept & rows.having(place)])) for place, name in enumerate(found.names)}
    short = {name: count for name, count in counts.items() if count < folds}
    if not short:
        return
    what = "group" if rows.groups is not None else "different text"
    problems = [
        f"the label {name!r} has {count or 'no'} {what}{'' if count == 1 else 's'}"
        for name, count in list(short.items())[:_SHOWN]
    ]
    more = [f"{len(short) - _SHOWN:,} more labels"] if len(short) > _SHOWN else []
    least = min(short.values())
    fewer = f"--folds {least} makes fewer folds; " if least >= 2 else ""  # noqa: PLR2004 - a fold less and there is nothing to train on
    raise DataError(
        f"Every label needs at least {folds} {what}s, one for each of {folds} folds; in {source_name(request.source)} some have fewer:",
        problems=[*problems, *more, *found.ledger.summary()],
        hint=f"{fewer}--labels A,B uses these labels only and sets all other rows aside.",
    )


def _misspelt(rows: Rows, names: Sequence[str]) -> Iterator[Misspelt]:
    """Yield the rows of the source that were set aside for a misspelt label."""
    meant = {typo_reason(name): name for name in names}
    numbers = [place + 1 for place, reason in enumerate(rows.reason_texts) if reason in meant]
    chosen = np.isin(rows.reasons, numbers)
    for places, block in rows.spill.chosen(chosen):
        cells = (block[name].to_pylist() for name in ("row", "line", "text", "label"))
        for row, line, text, label, reason in zip(*cells, rows.reasons[places].tolist(), strict=True):
            yield Misspelt(row, line, text.decode(), shown_label(label), meant[rows.reason_texts[reason - 1]])
