"""What became of a scored file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What became of the rows of an output's sources: ``read == scored + without_text + quarantined``.

    Attributes:
        out: the written file.
        scored: rows with a prediction.
        without_text: rows kept with an empty prediction, since their text is missing.
        quarantined: broken lines, which are in ``quarantine`` instead.
        truncated: scored rows whose text was cut.
        not_sure: scored rows that the classifier abstains from; None where it never does.
        quarantine: where the broken lines are, if there were any.
        sources: files that were read.
        resumed: rows and broken lines that an earlier call had done.
        labels: how often each label was given, in the order of the label names.
    """

    out: Path
    text_column: str
    scored: int
    without_text: int
    quarantined: int
    truncated: int
    quarantine: Path | None
    not_sure: int | None = None
    sources: int = 1
    resumed: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
