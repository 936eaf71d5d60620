"""What is said about the data set: counts, findings, fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from textlora import checks, storage
from textlora.preparation.label_sets import LabelSets
from textlora.preparation.ledger import SHOWN_PLACES, Group, Ledger
from textlora.preparation.request import Request, is_frame, options_of
from textlora.preparation.rows import Rows
from textlora.preparation.separating import OLDER_GROUP, OLDER_TEXT
from textlora.preparation.splitting import NOWHERE
from textlora.readers import Columns
from textlora.thresholds import LEAST_POSITIVES, USUAL
from textlora.types import SPLIT_NAMES, DatasetInfo, RowCounts, Split

_DETAILS = {
    "duplicate": ", the first of each kept",
    "conflicting labels": ", all rows of a text that has several labels",
    "also in the test file": ", the test file itself is kept whole",
    "also in the validation file": ", the validation file itself is kept",
    OLDER_TEXT: ", which is in an earlier split",
    OLDER_GROUP: ", which are in an earlier split",
}


def describe(  # noqa: PLR0917 - all that the stages before found out
    rows: Rows, parts: NDArray[np.int8], names: tuple[str, ...], columns: Columns, request: Request, ledger: Ledger
) -> DatasetInfo:
    """Return all that is known before the splits are written; what was set aside becomes findings."""
    counts = {
        name: tuple(rows.label_counts(parts == place, len(names)).tolist()) for place, name in enumerate(SPLIT_NAMES)
    }
    sizes = {name: int((parts == place).sum()) for place, name in enumerate(SPLIT_NAMES)}
    _note_rejected(ledger)
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    ledger.findings.append(checks.balance_finding(names, totals, rows=sum(sizes.values())))
    if rows.sets:
        _note_sets(rows.sets, rows.classes[parts != NOWHERE], ledger)
        _note_few(names, counts, ledger)
    return DatasetInfo(
        source="DataFrame" if is_frame(request.source) else str(request.source),
        text_column=columns.text,
        label_column=columns.label,
        task="multi_label" if rows.sets else "single_label",
        label_names=names,
        seed=request.settings.seed,
        counts=RowCounts(ledger.read, ledger.unsampled, sum(sizes.values()), ledger.reasons()),
        split_counts=counts,
        findings=tuple(ledger.findings),
        token_lengths=None,
        fingerprint="",
        options=options_of(request),
        split_rows=sizes if rows.sets else {},
    )


def _note_sets(sets: LabelSets, numbers: NDArray[np.int32], ledger: Ledger) -> None:
    """Say how many labels the rows have."""
    sizes = sets.sizes[numbers]
    without = int((sizes == 0).sum())
    message = f"The rows have {sizes.mean():.2f} labels on average and {sizes.max()} at most, in {len(np.unique(numbers)):,} combinations"
    none = f"; {without:,} ({without / len(sizes):.1%}) have none, which is an answer like any other" if without else ""
    ledger.note("labels_per_row", "info", f"{message}{none}.", without)
    if sizes.max() == 1 and not without:
        ledger.note(
            "one_label_each",
            "warning",
            "Every row has exactly one label: as a column of single labels the classifier would give exactly one, too.",
            len(sizes),
        )


def _note_few(names: Sequence[str], counts: Mapping[str, Sequence[int]], ledger: Ledger) -> None:
    """Say which labels a split lacks, and whose threshold cannot be fitted."""
    for split in ("validation", "test"):
        absent = [name for name, count in zip(names, counts[split], strict=True) if not count]
        if absent and not any(finding.kind == "absent_label" for finding in ledger.findings):
            message = f"The {split} split has no row with the label {', '.join(map(repr, absent))}."
            ledger.note("absent_label", "warning", message, len(absent))
    few = [name for name, count in zip(names, counts["validation"], strict=True) if count < LEAST_POSITIVES]
    if few:
        message = (
            f"Fewer than {LEAST_POSITIVES} validation rows have the label {', '.join(map(repr, few))}: too few to fit "
            f"{'its threshold, which stays' if len(few) == 1 else 'their thresholds, which stay'} at {USUAL:g}."
        )
        ledger.note("few_validation_rows", "warning", message, len(few))


def _note_rejected(ledger: Ledger) -> None:
    """Add one finding per reason."""
    for reason, group in ledger.groups.items():
        rows = f"{group.count:,} row{'s' if group.count > 1 else ''}"
        detail = _DETAILS.get(reason, "") or _label_detail(group)
        places = ledger.places(group.places, group.count)
        message = f"{reason[0].upper()}{reason[1:]}: {rows} set aside{detail} ({places})."
        ledger.note(_kind(reason), "info" if reason == "duplicate" else "warning", message, group.count)


def _kind(reason: str) -> str:
    if reason.startswith("also in"):
        return "overlap"
    return "label_typo" if reason.startswith("label looks") else reason.replace(" ", "_").lower()


def _label_detail(group: Group) -> str:
    labels = [repr(label) for label, _ in group.labels.most_common(SHOWN_PLACES)]
    return f", label{'s' if len(labels) > 1 else ''} {', '.join(labels)}" if labels else ""


def dataset_fingerprint(names: Sequence[str], splits: Mapping[str, Split]) -> str:
    """Return the SHA-256 over label names, rows and their annotations, by which plans and runs know the data."""

    def parts() -> Iterator[str]:
        yield str(len(names))
        yield from names
        for name in SPLIT_NAMES:
            yield name
            split = splits[name]
            for row in zip(split.ids, split.texts, map(str, split.labels), strict=True):
                yield from row
            for column, values in split.annotations().items():
                yield column
                yield from map(str, values)

    return storage.fingerprint(parts())
