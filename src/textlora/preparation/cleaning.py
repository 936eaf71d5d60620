"""Texts cleaned, labels in one spelling; rows without a text or a known label are set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from textlora import checks
from textlora.errors import DataError
from textlora.preparation.attributes import TIME
from textlora.preparation.ledger import CELL_LIMIT, MAIN, Entry, Ledger
from textlora.preparation.request import Request, source_name
from textlora.preparation.rows import Rows, occurrences
from textlora.preparation.times import MISSING, Clock


def collect(entries: Iterable[Entry], rows: Rows, ledger: Ledger, *, markup: bool, clock: Clock | None = None) -> None:
    """Clean the texts and put all rows into ``rows``; those without text, label or time are set aside."""
    marked = 0

    def unlabelled(entry: Entry) -> bool:
        # Where rows may have several labels, none is an answer, too.
        return not entry.label and not rows.several

    for entry in entries:
        text = checks.clean_text(entry.text, markup=markup)
        fault = entry.fault or ("missing text" if not text else "missing label" if unlabelled(entry) else "")
        if clock is not None:
            fault = fault or (MISSING if entry.origin == MAIN and not entry.extra[TIME] else "")
            clock.read(entry, "" if fault else entry.extra[TIME])
        if fault:
            rows.add_faulty(entry, checks.replace_surrogates(entry.text[:CELL_LIMIT]), fault)
            continue
        marked += markup and checks.has_markup(entry.text)
        rows.add(entry, text)
    rows.seal()
    rows.report_faulty(ledger)
    if marked:
        ledger.note("markup", "info", f"HTML line breaks and entities were cleaned in {marked:,} texts.", marked)


def name_labels(rows: Rows, request: Request, ledger: Ledger) -> tuple[str, ...]:
    """Return the label names and set ``rows.classes``; rows with another label are set aside."""
    found = occurrences(rows.labels[rows.kept(MAIN)], len(rows.label_texts)).tolist()
    # Labels are numbered in the order of their first rows, and so they are counted.
    counts = {label: times for label, times in zip(rows.label_texts, found, strict=True) if times}
    if not counts:
        raise DataError(
            f"No row of {source_name(request.source)} is left.",
            problems=ledger.summary(),
            hint="Look at the reasons above.",
        )
    spelling = known_spelling(counts, request.labels, ledger)
    typos = {} if request.labels else checks.label_typos(merged(counts, spelling))
    names = request.labels or checks.natural_order(set(spelling.values()) - set(typos))
    if len(names) == 1:
        raise DataError(
            f"{source_name(request.source)} has one label only, {names[0]!r}; at least two are needed.",
            problems=ledger.summary(),
            hint="Name another label column with --label.",
        )
    spelt = [spelling.get(label, label) for label in rows.label_texts]
    rows.classes = np.where(rows.reasons == 0, _classes(spelt, names)[rows.labels], np.int32(-1))
    set_unknown_aside(rows, [typos.get(label) for label in spelt], ledger)
    return names


def known_spelling(counts: Mapping[str, int], labels: tuple[str, ...] | None, ledger: Ledger) -> dict[str, str]:
    """Map every label that occurs to the spelling that is used for it; capitals do not matter."""
    if labels is None:
        changed = checks.spelling_variants(counts)
    else:
        main = {name.casefold(): name for name in labels}
        changed = {
            label: main[label.casefold()] for label in counts if label not in labels and label.casefold() in main
        }
    for label, name in changed.items():
        ledger.note(
            "label_spelling",
            "warning",
            f"The label {label!r} was read as {name!r}: {counts[label]:,} of the rows.",
            counts[label],
        )
    return {label: changed.get(label, label) for label in counts}


def merged(counts: Mapping[str, int], spelling: Mapping[str, str]) -> dict[str, int]:
    """Return the counts of the spellings that are used."""
    together: Counter[str] = Counter()
    for label, count in counts.items():
        together[spelling[label]] += count
    return dict(together)


def _classes(labels: Sequence[str], names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return the class of each label, and -1 for a label that is none of ``names``."""
    exact = {name: place for place, name in enumerate(names)}
    folded = {name.casefold(): place for place, name in enumerate(names)}
    return np.array([exact.get(label, folded.get(label.casefold(), -1)) for label in labels], dtype=np.int32)


def typo_reason(name: str) -> str:
    """Return why a row is set aside whose label is a likely misspelling of ``name``."""
    return f"label looks like a typo of {name!r}"


def set_unknown_aside(rows: Rows, typos: Sequence[str | None], ledger: Ledger) -> None:
    """Set aside the rows without a class; in the main source a likely misspelling is named, ``typos`` by label."""
    reasons = ["unknown label", *dict.fromkeys(typo_reason(name) for name in typos if name)]
    by_label = np.array([reasons.index(typo_reason(name)) + 1 if name else 1 for name in typos], np.uint16)
    unknown = (rows.reasons == 0) & (rows.classes < 0)
    marks = unknown.astype(np.uint16)
    main = rows.bounds(MAIN)
    marks[main] *= by_label[rows.labels[main]]
    rows.set_aside(marks, reasons, ledger, for_label=True)
