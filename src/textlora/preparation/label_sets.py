"""Rows with several labels each: every combination of labels has a number, as a single label has one.

So a row of multi-label data takes as many bytes as any other, and equal combinations are seen at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import checks
from textlora.errors import DataError
from textlora.label_cells import JOINT
from textlora.preparation.cleaning import known_spelling, merged, set_unknown_aside
from textlora.preparation.ledger import MAIN, Ledger
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import LABEL_LIMIT, Rows, occurrences

_SHOWN = 10


class LabelSets:
    """Combinations of labels by number.

    Args:
        members: the class indices of each combination, in order.
    """

    def __init__(self, members: Sequence[tuple[int, ...]]) -> None:
        self.members = list(members)
        self.sizes = np.array([len(labels) for labels in members], np.int64)
        self._flat = np.array([label for labels in members for label in labels], np.int32)

    def label_counts(self, numbers: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
        """Return how many of the rows (N,) have each of ``classes`` labels."""
        rows = occurrences(numbers, len(self.members))
        counts = np.zeros(classes, np.int64)
        np.add.at(counts, self._flat, np.repeat(rows, self.sizes))
        return counts

    def having(self, numbers: NDArray[np.int32], label: int) -> NDArray[np.bool_]:
        """Return which rows (N,) have a label; a negative number has none."""
        holds = np.array([label in labels for labels in self.members] + [False])
        return np.asarray(holds[numbers])

    def arrow(self, numbers: NDArray[np.int32]) -> Any:
        """Return the rows' class indices as an Arrow array of lists."""
        import pyarrow as pa

        return pa.array([self.members[number] for number in numbers.tolist()], pa.list_(pa.int32()))


def name_label_sets(rows: Rows, request: Request, ledger: Ledger) -> tuple[str, ...]:
    """Return the label names and set ``rows.sets`` and ``rows.classes``; rows with an unknown label are set aside.

    With ``--labels``, other labels are taken off their rows, which stay: each label is a question of its own.

    Raises:
        DataError: no row is left, none has a label, or there is only one label.
    """
    texts = [tuple(text.split(JOINT)) if text else () for text in rows.label_texts]
    counts = _label_counts(rows, texts)
    if not counts:
        _refuse_unlabelled(rows, request, ledger)
    spelling = known_spelling(counts, request.labels, ledger)
    typos = {} if request.labels else checks.label_typos(merged(counts, spelling))
    names = request.labels or checks.natural_order(set(spelling.values()) - set(typos))
    _check_names(names, request, ledger)
    places = _places(names)
    if request.labels:
        texts = _without_others(texts, places, counts, ledger)
    numbers: dict[tuple[int, ...], int] = {}
    by_text = np.array([_number(labels, spelling, places, numbers) for labels in texts], np.int32)
    rows.sets = LabelSets(list(numbers))
    rows.classes = np.where(rows.reasons == 0, by_text[rows.labels], np.int32(-1))
    likely = [
        next((typos[spelling[label]] for label in labels if spelling.get(label) in typos), None) for labels in texts
    ]
    set_unknown_aside(rows, likely, ledger)
    return names


def _label_counts(rows: Rows, texts: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Return how many kept rows of the main source have each label, in the order of the first rows."""
    found = occurrences(rows.labels[rows.kept(MAIN)], len(texts)).tolist()
    counts: Counter[str] = Counter()
    for labels, times in zip(texts, found, strict=True):
        if times:
            counts.update(dict.fromkeys(labels, times))
    return dict(counts)


def _refuse_unlabelled(rows: Rows, request: Request, ledger: Ledger) -> None:
    left = int(rows.kept(MAIN).sum())
    source = source_name(request.source)
    what = f"None of the {left:,} rows of {source} has a label" if left else f"No row of {source} is left"
    hint = "Name another label column with --label." if left else "Look at the reasons above."
    raise DataError(f"{what}.", problems=ledger.summary(), hint=hint)


def _check_names(names: Sequence[str], request: Request, ledger: Ledger) -> None:
    source = source_name(request.source)
    if len(names) == 1:
        raise DataError(
            f"{source} has one label only, {names[0]!r}; at least two are needed.",
            problems=ledger.summary(),
            hint="For a yes-or-no question give each row one of two labels instead, for instance yes and no.",
        )
    if len(names) > LABEL_LIMIT:
        raise DataError(
            f"The labels of {source} are {len(names):,}, more than {LABEL_LIMIT:,}.",
            hint="Name another label column with --label, or the labels that count with --labels.",
        )


def _places(names: Sequence[str]) -> dict[str, int]:
    """Return the class of each name, in its own spelling and in small letters."""
    folded = {name.casefold(): place for place, name in enumerate(names)}
    return folded | {name: place for place, name in enumerate(names)}


def _number(
    labels: tuple[str, ...], spelling: Mapping[str, str], places: Mapping[str, int], numbers: dict[tuple[int, ...], int]
) -> int:
    """Return the number of a combination, a new one if need be; -1 if one of its labels is no class."""
    spelt = [spelling.get(label, label) for label in labels]
    found = [places.get(label, places.get(label.casefold(), -1)) for label in spelt]
    if -1 in found:
        return -1
    return numbers.setdefault(tuple(sorted(set(found))), len(numbers))


def _without_others(
    texts: Sequence[tuple[str, ...]], places: Mapping[str, int], counts: Mapping[str, int], ledger: Ledger
) -> list[tuple[str, ...]]:
    """Return the combinations without the labels that the user has not named."""
    others = {label: times for label, times in counts.items() if label not in places and label.casefold() not in places}
    if others:
        often = sorted(others, key=lambda label: -others[label])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        shown = ", ".join(f"{label!r} ({others[label]:,})" for label in often[:_SHOWN])
        message = f"Labels that --labels does not name were taken off their rows, which stay: {shown}{more}."
        ledger.note("other_labels", "info", message, len(others))
    return [tuple(label for label in labels if label in places or label.casefold() in places) for labels in texts]
