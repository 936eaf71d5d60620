"""What is said about the data set: counts, findings, fingerprint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from textlora import checks, storage
from textlora.preparation.ledger import SHOWN_PLACES, Ledger, Rejected
from textlora.preparation.request import Request, is_frame, options_of
from textlora.readers import Columns
from textlora.types import SPLIT_NAMES, DatasetInfo, RowCounts, Split

_DETAILS = {
    "duplicate": ", the first of each kept",
    "conflicting labels": ", all rows of a text that has several labels",
    "also in the test file": ", the test file itself is kept whole",
    "also in the validation file": ", the validation file itself is kept",
}


def describe(
    splits: Mapping[str, Split], names: tuple[str, ...], columns: Columns, request: Request, ledger: Ledger
) -> DatasetInfo:
    """Return all that is known of the splits but their lengths; what was set aside becomes findings."""
    counts = {name: split.class_counts(len(names)) for name, split in splits.items()}
    _note_rejected(ledger)
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    ledger.findings.append(checks.balance_finding(names, totals))
    return DatasetInfo(
        source="DataFrame" if is_frame(request.source) else str(request.source),
        text_column=columns.text,
        label_column=columns.label,
        task="single_label",
        label_names=names,
        seed=request.settings.seed,
        counts=RowCounts(ledger.read, ledger.unsampled, sum(totals), dict(ledger.reasons())),
        split_counts=counts,
        findings=tuple(ledger.findings),
        token_lengths=None,
        fingerprint=dataset_fingerprint(names, splits),
        options=options_of(request),
    )


def _note_rejected(ledger: Ledger) -> None:
    """Add one finding per reason."""
    groups: dict[str, list[Rejected]] = defaultdict(list)
    for item in ledger.rejected:
        groups[item.reason].append(item)
    for reason, items in groups.items():
        rows = f"{len(items):,} row{'s' if len(items) > 1 else ''}"
        detail = _DETAILS.get(reason, "") or _label_detail(reason, items)
        message = f"{reason[0].upper()}{reason[1:]}: {rows} set aside{detail} ({ledger.places(items)})."
        ledger.note(_kind(reason), "info" if reason == "duplicate" else "warning", message, len(items))


def _kind(reason: str) -> str:
    if reason.startswith("also in"):
        return "overlap"
    return "label_typo" if reason.startswith("label looks") else reason.replace(" ", "_").lower()


def _label_detail(reason: str, items: Sequence[Rejected]) -> str:
    if reason != "unknown label" and not reason.startswith("label looks"):
        return ""
    labels = [repr(label) for label, _ in Counter(item.label for item in items).most_common(SHOWN_PLACES)]
    return f", label{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def dataset_fingerprint(names: Sequence[str], splits: Mapping[str, Split]) -> str:
    """Return the SHA-256 over label names and rows, by which plans and runs know the data."""

    def parts() -> Iterator[str]:
        yield str(len(names))
        yield from names
        for name in SPLIT_NAMES:
            yield name
            for example in splits[name]:
                yield from (example.id, example.text, str(example.label))

    return storage.fingerprint(parts())
