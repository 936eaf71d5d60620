"""What an audit finds, and what a review of it changes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from textlora.auditing.decisions import DROP, KEEP, LabelWords
from textlora.interval import Interval
from textlora.types import Finding, RowCounts, Task

Kind = Literal["spelling", "conflict", "label", "outlier"]
KINDS: Mapping[Kind, str] = {
    "spelling": "the label looks like a misspelling of another one",
    "conflict": "a near-duplicate has another label",
    "label": "the classifiers that did not see the row are sure of another label",
    "outlier": "the text is unlike all others",
}
"""The reasons to look at a row, in words."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row that somebody should look at.

    Attributes:
        row: its number among the whole rows of the source, from 0, as text.
        line: where it stands in the source.
        kind: why it is here.
        label: the label that it has.
        suggested: the label that it seems to deserve; empty where nothing is suggested.
        probability: of its own label, by classifiers trained without it; None where there is none.
        suggested_probability: the same of the suggested label.
        text: the cleaned text.
        key: stands for row and text, to see whether a review belongs to a file.
        similar: the row of the near-duplicate with another label.
        similar_line: where that one stands in the source; 0 where there is none.
    """

    row: str
    line: int
    kind: Kind
    label: str
    suggested: str
    probability: float | None
    suggested_probability: float | None
    text: str
    key: str
    similar: str = ""
    similar_line: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What ``audit.json`` holds.

    Attributes:
        folder: where ``audit.csv`` and ``audit.html`` are.
        source: the audited file.
        unit: what the lines of the suspects count: ``line`` or ``row``.
        counts: the source's rows; those that were audited are ``kept``.
        findings: what was noticed when the rows were read.
        suspects: the worst first.
        errors: estimated share of wrong labels, on the high side, see ``textlora.auditing.noise``; of wrong yes or
            no answers where rows have several labels.
        surest: rows, or answers, that the estimate rests on.
        accuracy: share of the rows whose own label is the most probable one out of fold.
        folds: how many classifiers were trained.
        base_model: their encoder.
        description: how they were trained.
        confidence: rows by the probability of their own label, in equal parts of 0 to 1.
        seconds: what the whole audit took; what an earlier process did is not in it.
        reading: options of the command line by which the source was read; a review is applied with the same.
    """

    folder: Path
    source: str
    text_column: str
    label_column: str
    unit: str
    task: Task
    label_names: tuple[str, ...]
    counts: RowCounts
    findings: tuple[Finding, ...]
    suspects: tuple[Suspect, ...]
    errors: Interval
    surest: int
    accuracy: float
    folds: int
    base_model: str
    description: str
    confidence: tuple[int, ...]
    seed: int
    seconds: float
    dataset_fingerprint: str
    key: str = ""
    """Fingerprint of the call, by which the same one is recognised."""
    versions: Mapping[str, str] = field(default_factory=dict)
    reading: tuple[str, ...] = ()

    @property
    def by_kind(self) -> dict[Kind, int]:
        """How many suspects there are of each kind that occurs."""
        found = Counter(suspect.kind for suspect in self.suspects)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def decisions(self) -> tuple[str, str]:
        """How keeping and dropping a row is written, where a label may have these names."""
        words = LabelWords(self.label_names)
        return words.word(KEEP), words.word(DROP)

    @property
    def next_command(self) -> str:
        """The command that applies a review."""
        name = Path(self.source).name
        stem, dot, rest = name.partition(".")
        review, out = str(self.folder / "audit.csv"), f"{stem}.cleaned{dot}{rest}"
        return shlex.join(["textlora", "audit", self.source, *self.reading, "--apply", review, "--out", out])

    @property
    def told(self) -> str:
        """How many labels are wrong, as far as can be told, in a sentence."""
        what = "answers, yes or no," if self.task == "multi_label" else "rows"
        found = self.errors
        return (
            f"Of the {self.surest:,} {what} that the classifiers are surest of, {_percent(found.value)} ({_percent(found.low)} to "
            f"{_percent(found.high)}) are labelled otherwise: about so many labels are wrong at most, if errors are as frequent "
            "among the harder rows."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True)
class Correction:
    """What became of a file's rows under a review.

    Attributes:
        out: the corrected copy.
        rows: rows in it.
        changed: rows that got another label, by old and new one: ``{"negative -> positive": 3}``.
        dropped: rows that were left out.
        confirmed: rows that the review keeps as they are.
        undecided: rows of the review without a decision, which stay as they are too.
    """

    out: Path | None
    rows: int
    changed: Mapping[str, int]
    dropped: int
    confirmed: int
    undecided: int
