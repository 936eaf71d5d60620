"""No text twice: overlap with the given files, duplicates, conflicting labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from textlora.preparation.ledger import MAIN, Entry, Ledger
from textlora.preparation.request import Origin


def without_repeats(entries: list[Entry], ledger: Ledger) -> list[Entry]:
    """Return the rows so that no text stands in two splits; given test rows all stay."""
    by_origin: dict[Origin, list[Entry]] = {"": [], "validation": [], "test": []}
    for entry in entries:
        by_origin[entry.origin].append(entry)
    held_back: dict[str, str] = {entry.text: "also in the test file" for entry in by_origin["test"]}
    by_origin["validation"] = _without_overlap(by_origin["validation"], held_back, ledger)
    held_back = {entry.text: "also in the validation file" for entry in by_origin["validation"]} | held_back
    by_origin[MAIN] = _without_duplicates(_without_overlap(by_origin[MAIN], held_back, ledger), ledger)
    for origin in ("validation", "test"):
        _note_repeats(origin, by_origin[origin], ledger)
    return [entry for origin in by_origin for entry in by_origin[origin]]


def _without_overlap(entries: list[Entry], held_back: Mapping[str, str], ledger: Ledger) -> list[Entry]:
    for entry in entries:
        if entry.text in held_back:
            ledger.set_aside(entry, held_back[entry.text])
    return [entry for entry in entries if entry.text not in held_back]


def _without_duplicates(entries: list[Entry], ledger: Ledger) -> list[Entry]:
    """Keep the first of equal rows, and none of a text that has several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        labels[entry.text].add(entry.label)
    kept: list[Entry] = []
    seen: set[str] = set()
    for entry in entries:
        if len(labels[entry.text]) > 1:
            ledger.set_aside(entry, "conflicting labels")
        elif entry.text in seen:
            ledger.set_aside(entry, "duplicate")
        else:
            kept.append(entry)
        seen.add(entry.text)
    return kept


def _note_repeats(origin: str, entries: list[Entry], ledger: Ledger) -> None:
    repeats = len(entries) - len({entry.text for entry in entries})
    if repeats:
        # Without them the scores could not be compared with those of others on the same file.
        ledger.note(
            "given_duplicates",
            "warning",
            f"{repeats:,} rows of the {origin} file repeat a text of it; they were kept.",
            repeats,
        )
