"""The nouns of evaluation and prediction: scores, slices, explanations, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from textlora.decision import Trust
from textlora.interval import Interval
from textlora.types.data import Task, headline_of


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class; ``support`` is its number of rows."""

    label: str
    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """How often one label was given rightly, missed, and given wrongly, in multi-label data.

    ``threshold`` is the probability from which it is given.
    """

    label: str
    found: int
    missed: int
    wrong: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve (x false, y true positive rate) or a PR curve (x recall, y precision)."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    area: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The share of right rows in a part of them, held against the rest.

    Attributes:
        name: what the rows have in common: a range of tokens, a label, a group, a value, ``yes`` or ``no``.
        rows: how many they are.
        accuracy: share of them that is right, in multi-label data with all labels.
        kind: ``length``, ``truncated``, ``label``, ``near_duplicate``, ``group``, or ``column:`` and the name of a kept column.
        rest: the same share of the other rows; None where there are none.
        p_value: of the test that the two are equal, corrected for the number of parts.
        verdict: ``worse`` or ``better`` where the test says so; ``unknown`` where the part has too few
            rows to tell; else ``same``. Empty where nothing was tested.
    """

    name: str
    rows: int
    accuracy: Interval
    kind: str = "length"
    rest: float | None = None
    p_value: float | None = None
    verdict: Literal["worse", "better", "same", "unknown", ""] = ""


@dataclass(frozen=True, slots=True)
class Leakage:
    """What near-duplicates of training rows among the scored rows do to the scores.

    Attributes:
        rows: how many of the scored rows are leaked.
        accuracy: on the leaked rows alone.
        others: all metrics on the other rows, by name as in ``Evaluation``; empty where all rows are leaked.
    """

    rows: int
    accuracy: Interval
    others: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text, and what the decision is without it.

    Attributes:
        start: its first character.
        end: the character behind its last.
        weight: log(p / (1 - p)) of the label with the whole text minus the same without the span:
            above zero it spoke for the label, below against it. Weights do not add up: of two words
            that say the same, each can be spared.
        probability: p of the label without the span.
    """

    start: int
    end: int
    weight: float
    probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which parts of a text carried a decision.

    Attributes:
        text: the whole text.
        label: whose probability is explained.
        probability: what the whole text has.
        spans: in the order of the text, without overlap.
        complete: whether each word was left out on its own; in a long text only those of the
            strongest passages are, and the other spans are passages.
    """

    text: str
    label: str
    probability: float
    spans: tuple[Span, ...]
    complete: bool = True

    @property
    def strongest(self) -> tuple[Span, ...]:
        """The spans, those with the largest weights first, whether for or against the label."""
        return tuple(sorted(self.spans, key=lambda span: -abs(span.weight)))

    def words(self, span: Span) -> str:
        """Return the text of a span."""
        return self.text[span.start : span.end]

    def without(self, *spans: Span) -> str:
        """Return the text without some spans, which for one of them has its ``probability``."""
        return without(self.text, [(span.start, span.end) for span in spans])


def without(text: str, places: Sequence[tuple[int, int]]) -> str:
    """Return a text without some parts (start, end); of two spaces around a part, one goes too."""
    for start, end in sorted(places, reverse=True):
        before, after = text[:start], text[end:]
        if after[:1].isspace() and (not before or before[-1].isspace()):
            after = after[1:]
        elif not after and before[-1:].isspace():
            before = before[:-1]
        text = before + after
    return text


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong prediction; ``probability`` is what the model gave to ``predicted``.

    ``spans`` say which parts of the text carried it; they end where ``text`` is cut. In multi-label data
    both are about ``answer``, the surest wrong one (``joy: no``), which is empty otherwise.
    """

    id: str
    text: str
    label: str
    predicted: str
    probability: float
    spans: tuple[Span, ...] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a cheap method reaches on the same split.

    ``advantage`` is the classifier's accuracy minus this method's, compared row by row, and ``p_value``
    that of the test that there is none; in multi-label data both are of the macro F1.
    """

    name: str
    description: str
    metrics: Mapping[str, Interval]
    seconds: float
    advantage: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good the classifier is on rows it has never seen.

    ``metrics`` has ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``,
    ``f1_macro``, ``mcc``, ``roc_auc``, ``average_precision``, ``log_loss``.
    ``confusion[i][j]`` counts rows of class i that were predicted as j.

    In multi-label data ``accuracy`` counts the rows with all labels right, ``precision_micro``,
    ``recall_micro``, ``f1_micro`` and ``hamming_loss`` are there too, ``balanced_accuracy`` and ``mcc``
    are not; ``confusion`` is empty, and ``errors`` holds each label's.
    """

    split: str
    rows: int
    label_names: tuple[str, ...]
    metrics: Mapping[str, Interval]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    roc: tuple[Curve, ...]
    precision_recall: tuple[Curve, ...]
    by_length: tuple[Slice, ...]
    mistakes: tuple[Mistake, ...]
    baselines: tuple[Baseline, ...]
    seconds: float
    dataset_fingerprint: str
    run_fingerprint: str
    leakage: Leakage | None = None
    """With and without leaked rows, where a given file has any."""
    task: Task = "single_label"
    errors: tuple[LabelErrors, ...] = ()
    trust: Trust | None = None
    """What the probabilities are worth, and what was decided by them; files of older versions do not have it."""
    slices: tuple[Slice, ...] = ()
    """Parts of the rows other than by length."""
    groups: int = 0
    """How many groups of rows (``--group``, near-duplicates) counted as one draw each in intervals and tests; 0
    where each row did. 1 where all rows are of one group, which shows nothing of others: then rows counted."""

    @property
    def parts(self) -> tuple[Slice, ...]:
        """All parts of the rows that were looked at."""
        return self.by_length + self.slices

    @property
    def headline(self) -> str:
        """Name of the metric that says most of the classifier, by which it is compared."""
        return headline_of(self.task)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decision for one text. ``probabilities`` is in the order of the label names.

    In multi-label data ``labels`` holds all that were given, the most probable first, possibly none;
    ``label`` is the first of them or ``""``, and ``probability`` that of the most probable label.

    Of a classifier with an error rate ``labels`` holds all that cannot be ruled out, possibly none, and it
    ``abstains`` unless that is ``label`` alone; ``label`` is then its best guess.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]
    truncated: bool = False
    labels: tuple[str, ...] = ()
    abstains: bool = False
