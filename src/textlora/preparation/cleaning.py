"""Texts cleaned, labels in one spelling; rows without a text or a known label are set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from textlora import checks
from textlora.errors import DataError
from textlora.preparation.ledger import Entry, Ledger
from textlora.preparation.request import Request, source_name


def usable(entries: list[Entry], request: Request, ledger: Ledger) -> tuple[tuple[str, ...], list[Entry]]:
    """Return the label names and the cleaned rows that have a text and a known label."""
    entries = _filled(entries, ledger, markup=request.settings.data.clean_html)
    counts = Counter(entry.label for entry in entries if not entry.origin)
    if not counts:
        raise DataError(
            f"No row of {source_name(request.source)} is left.",
            problems=ledger.summary(),
            hint="Look at the reasons above.",
        )
    spelling = _known_spelling(counts, request.labels, ledger)
    typos = {} if request.labels else checks.label_typos(_merged(counts, spelling))
    names = request.labels or checks.natural_order(set(spelling.values()) - set(typos))
    if len(names) == 1:
        raise DataError(
            f"{source_name(request.source)} has one label only, {names[0]!r}; at least two are needed.",
            problems=ledger.summary(),
            hint="Name another label column with --label.",
        )
    return names, _known(entries, names, spelling, typos, ledger)


def _filled(entries: list[Entry], ledger: Ledger, *, markup: bool) -> list[Entry]:
    filled: list[Entry] = []
    marked = 0
    for entry in entries:
        text = checks.clean_text(entry.text, markup=markup)
        fault = entry.fault or ("missing text" if not text else "missing label" if not entry.label else "")
        if fault:
            ledger.set_aside(entry, fault)
            continue
        marked += markup and checks.has_markup(entry.text)
        filled.append(replace(entry, text=text))
    if marked:
        ledger.note("markup", "info", f"HTML line breaks and entities were cleaned in {marked:,} texts.", marked)
    return filled


def _known_spelling(counts: Mapping[str, int], labels: tuple[str, ...] | None, ledger: Ledger) -> dict[str, str]:
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


def _merged(counts: Mapping[str, int], spelling: Mapping[str, str]) -> dict[str, int]:
    merged: Counter[str] = Counter()
    for label, count in counts.items():
        merged[spelling[label]] += count
    return dict(merged)


def _known(
    entries: list[Entry], names: Sequence[str], spelling: Mapping[str, str], typos: Mapping[str, str], ledger: Ledger
) -> list[Entry]:
    """Return the rows with a label of ``names``, in its spelling."""
    folded = {name.casefold(): name for name in names}
    known: list[Entry] = []
    for entry in entries:
        label = spelling.get(entry.label, entry.label)
        name = label if label in names else folded.get(label.casefold())
        if name is not None:
            known.append(replace(entry, label=name))
        elif label in typos and not entry.origin:
            ledger.set_aside(entry, f"label looks like a typo of {typos[label]!r}")
        else:
            ledger.set_aside(entry, "unknown label")
    return known
