"""The parity gate: an export answers as the classifier does, or it is not written.

fp32 formats   the logits differ from those of the same adapters in fp32 by no more than ``MOST_DIFFERENCE``
onnx-int8      less accuracy than the tolerance is lost for certain: the lower end of the 95 % interval of the
               difference, rows in pairs, lies above it; and hardly a row gets another label

It is the lower end that counts and not the difference: on few rows a difference of 0 proves nothing.
N rows, C classes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textlora import storage
from textlora.classifier import Classifier
from textlora.exports import Parity
from textlora.paired import accuracy_difference
from textlora.preparation import load_dataset
from textlora.resampling import Units
from textlora.tasks import label_matrix
from textlora.types import Interval, Label, Run, Split

# fp32 rounding of W + B A against W x + B (A x), and of sums in another order.
MOST_DIFFERENCE = 1e-3
# Accuracy that 8 bits may cost, as a share: 0.3 points.
TOLERANCE = 0.003
# Share of rows that may get another label; more change when training has another seed.
MOST_FLIPPED = 0.02
# Rows compared at most. Any text shows a fault of a format in fp32; a small loss of accuracy needs many.
ROWS = {"hf": 256, "onnx": 256, "onnx-int8": 5_000}
# Of them the longest texts there are.
LONGEST = 32
MADE_UP = ("A quiet, moving film.", "Two hours I will not get back, though the music was fine.", "no " * 400)

Tell = Callable[[str, int, int, str], None]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts to compare on.

    Attributes:
        split: where they come from.
        texts: N of them.
        labels: the labels that they have; empty for made-up texts.
        units: which of them resemble each other.
    """

    split: str
    texts: Sequence[str]
    labels: Sequence[Label]
    units: Units


def sample(run: Path, *, most: int) -> Sample:
    """Return ``most`` test and validation rows of a run at most: spread evenly, the longest among them.

    Where the data are not there, or are others than in training, a few made-up texts are returned.

    Raises:
        UsageError: the files of the data do not belong together.
    """
    made_up = Sample("made-up", MADE_UP, (), Units(len(MADE_UP)))
    if not ((run / storage.DATASET).exists() and (run / storage.RUN).exists()):
        return made_up
    dataset = load_dataset(run)
    if storage.read_noun(run / storage.RUN, Run, made_by="train").dataset_fingerprint != dataset.fingerprint:
        return made_up
    parts = {"test": (dataset.test, _places(dataset.test, most))}
    if (room := most - len(parts["test"][1])) > 0:
        parts["validation"] = (dataset.validation, _places(dataset.validation, room))
    return _joined({name: part for name, part in parts.items() if len(part[1])})


def _places(split: Split, most: int) -> Places:
    """Return which rows of a split to compare on, in order."""
    if len(split) <= most:
        return np.arange(len(split))
    longest = heapq.nlargest(min(LONGEST, most // 2), range(len(split)), key=lambda row: len(split.texts[row]))
    spread = np.linspace(0, len(split) - 1, most - len(longest)).astype(np.intp)
    return np.union1d(spread, longest)


def _joined(parts: dict[str, tuple[Split, Places]]) -> Sample:
    numbers: list[Places] = []
    for split, places in parts.values():
        own = Units.of_split(split).numbers
        # Units of one split have nothing to do with those of another.
        start = int(numbers[-1].max()) + 1 if numbers else 0
        numbers.append(start + (np.arange(len(split)) if own is None else own)[places])
    texts = [split.texts[row] for split, places in parts.values() for row in places]
    labels = [split.labels[row] for split, places in parts.values() for row in places]
    return Sample(" and ".join(parts), texts, labels, Units.of(np.concatenate(numbers), len(texts)))


def judge(
    original: Classifier, export: Classifier, found: Sample, *, exact: Classifier | None, tell: Tell | None
) -> Parity:
    """Compare an export with the classifier that it was made from.

    Args:
        original: as it predicts.
        export: the export, opened.
        found: the texts.
        exact: the original in the export's precision, where that is another one; its logits are compared then.
        tell: progress.
    """
    before, before_ms = _timed(original, found.texts, "compare: classifier", tell)
    after, after_ms = _timed(export, found.texts, f"compare: {export.bundle.format}", tell)
    reference = exact.logits(found.texts) if exact else before
    given = [one.decide(one.probabilities(logits)) for one, logits in ((original, before), (export, after))]
    lengths = np.array(original.count_tokens(found.texts))
    parity = Parity(
        split=found.split,
        rows=len(found.labels),
        cut=int((lengths > original.max_length).sum()),
        largest=float(np.abs(after - reference).max(initial=0.0)),
        flipped=int((given[0] != given[1]).any(axis=1).sum()),
        before_ms=before_ms,
        after_ms=after_ms,
    )
    return _with_accuracy(parity, given, found, len(original.label_names)) if found.labels else parity


def _timed(
    classifier: Classifier, texts: Sequence[str], stage: str, tell: Tell | None
) -> tuple[NDArray[np.float64], float]:
    """Return the logits (N, C), and the milliseconds of processor time for a text."""
    # What is set up once shall not count.
    classifier.logits(texts[:1])
    start = time.process_time()
    logits = classifier.logits(texts, progress=(lambda done, total: tell(stage, done, total, "")) if tell else None)
    return logits, 1_000 * (time.process_time() - start) / len(texts)


def _with_accuracy(parity: Parity, given: Sequence[NDArray[np.bool_]], found: Sample, classes: int) -> Parity:
    truth = label_matrix(found.labels, classes)
    before, after = ((labels == truth).all(axis=1) for labels in given)
    gained = accuracy_difference(after, before, found.units).interval
    return replace(parity, before=float(before.mean()), after=float(after.mean()), accuracy=gained)


def refusals(parity: Parity, to: str, *, tolerance: float) -> tuple[str, ...]:
    """Return why an export must not be written; nothing where it may.

    Args:
        parity: how it answers.
        to: its format.
        tolerance: of ``onnx-int8``: loss of accuracy that is allowed, as a share.
    """
    if to != "onnx-int8":
        exact = parity.largest <= MOST_DIFFERENCE  # not a number is no small one
        return () if exact else (f"logits differ by {parity.largest:.2g}, allowed {MOST_DIFFERENCE:g}",)
    found = [_loss(parity, tolerance), _flips(parity, tolerance)]
    return tuple(refusal for refusal in found if refusal)


def _loss(parity: Parity, tolerance: float) -> str:
    gained = parity.accuracy or Interval(0.0, -1.0, 1.0)
    if gained.low >= -tolerance:
        return ""
    allowed = f"allowed {100 * tolerance:.2g}"
    if gained.value < -tolerance:
        return (
            f"accuracy falls from {parity.before:.2%} to {parity.after:.2%}, by {_points(gained.value)} points "
            f"(95 % interval {_points(gained.high)} to {_points(gained.low)}), {allowed}"
        )
    return (
        f"{parity.rows:,} rows cannot show that so little is lost: the loss is {_points(gained.value)} points, "
        f"but may be as large as {_points(gained.low)} (95 % interval), {allowed}"
    )


def _flips(parity: Parity, tolerance: float) -> str:
    # Whoever allows more accuracy to be lost allows labels to change for it.
    allowed = max(MOST_FLIPPED, 2 * tolerance)
    share = parity.flipped / max(1, parity.rows)
    return (
        ""
        if share <= allowed
        else f"{parity.flipped:,} of {parity.rows:,} rows get another label, allowed {allowed:.2%}"
    )


def _points(gained: float) -> str:
    """Return a loss in points; a gain has a minus."""
    return f"{-100 * gained + 0.0:.2f}".replace("-", "−")


def least_tolerance(parity: Parity) -> float:
    """Return the tolerance in points, rounded up to a tenth, that the same comparison would pass."""
    loss = -(parity.accuracy.low if parity.accuracy else -1.0)
    flips = parity.flipped / max(1, parity.rows) / 2 if parity.flipped > MOST_FLIPPED * parity.rows else 0.0
    return float(np.ceil(1_000 * max(loss, flips, 0.0) - 1e-9) / 10)
