"""Exports of a classifier and how they answer beside it. Nouns, as in ``types``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from textlora.types import Drift, Interval

FORMATS = {
    "hf": "merged Hugging Face folder, fp32",
    "onnx": "ONNX, fp32",
    "onnx-int8": "ONNX, weights and inputs of the products in 8 bits",
}


@dataclass(frozen=True, slots=True)
class Parity:
    """How an export answers beside the classifier that it was made from, on the same texts.

    Attributes:
        split: where the texts come from.
        rows: how many there were; 0 where a run has no data and only a few made-up texts were compared.
        cut: of them longer than the encoder sees.
        largest: largest absolute difference of a logit. For formats in fp32 beside the same adapters in
            fp32, in whatever precision the classifier predicts: the difference is the export's alone.
        flipped: rows that get other labels than the classifier gives them.
        before: share of rows that the classifier has right, all labels of them.
        after: the same of the export.
        accuracy: what the export gains, with its 95 % interval (Tango's, rows in pairs); below 0 it loses.
        before_ms: processor time of the classifier for a text, in milliseconds.
        after_ms: the same of the export.
        tolerance: loss of accuracy that was allowed, as a share; None for formats that are held to the logits.
        refusals: why the export was not written; empty where it was.
    """

    split: str
    rows: int
    cut: int
    largest: float
    flipped: int = 0
    before: float = 0.0
    after: float = 0.0
    accuracy: Interval | None = None
    before_ms: float = field(default=0.0, compare=False)
    after_ms: float = field(default=0.0, compare=False)
    tolerance: float | None = None
    refusals: tuple[str, ...] = ()

    @property
    def speed(self) -> float:
        """How many times as fast as the classifier the export is, in processor time."""
        return self.before_ms / self.after_ms if self.after_ms else 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """A written export.

    Attributes:
        folder: where it lies.
        format: one of ``FORMATS``.
        difference: largest difference of logits between the export and the adapter.
        drift: what merging into full-precision weights changed, where training had quantized ones.
        parity: how it answers beside the classifier.
        size: bytes of its files.
    """

    folder: Path
    format: str
    difference: float
    drift: Drift | None = None
    parity: Parity | None = None
    size: int = 0

    @property
    def refused(self) -> bool:
        """Whether it did not answer as the classifier does, and was not written."""
        return self.parity is not None and bool(self.parity.refusals)


@dataclass(frozen=True, slots=True)
class Exports:
    """The last export of each format that was written, or else was refused; ``exports.json``.

    Attributes:
        source: fingerprint of the classifier's files.
        made: one of each format at most.
    """

    source: str
    made: tuple[Exported, ...] = ()

    def with_one(self, export: Exported) -> Exports:
        """Return the same with one more, in place of an older one of its format.

        A refused one leaves what was written before where it lies, and so the record of it.
        """
        found = {one.format: one for one in self.made}
        if not (export.refused and export.format in found and not found[export.format].refused):
            found[export.format] = export
        return Exports(self.source, tuple(found[name] for name in FORMATS if name in found))
