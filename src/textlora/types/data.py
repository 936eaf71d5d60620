"""The nouns of the data: texts, labels, splits, and what became of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Task = Literal["single_label", "multi_label"]
Label = int | tuple[int, ...]
"""The label of a row as an index into the label names; in multi-label data all of its labels, in order."""
SPLIT_NAMES = ("train", "validation", "test")
SLICE = "column:"
"""What stands before the name of a kept column in the files of a split."""


def headline_of(task: Task) -> str:
    """Return the name of the metric by which classifiers of a task are compared."""
    return "f1_macro" if task == "multi_label" else "accuracy"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text; ``label`` is an index into ``Dataset.label_names``, or several in multi-label data."""

    id: str
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split as parallel columns, in the order of the source file.

    The columns of prepared data read from the disk what is asked for: go through them or take
    slices, rather than making lists of them.

    Attributes:
        groups: which group each row belongs to, where ``--group`` named a column; a row without a
            value is a group of its own.
        near_duplicates: which rows have a near-duplicate somewhere in the data, where any row has.
        leaked: which rows of a given file have a near-duplicate in training.
        clusters: the number of each row's cluster of near-duplicates, where any row is in one; a row that is
            in none has a number of its own.
        slices: the columns that ``data.slice_columns`` keeps, by name; empty cells are ``""``.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[Label]
    groups: Sequence[str] | None = None
    near_duplicates: Sequence[bool] | None = None
    leaked: Sequence[bool] | None = None
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clusters: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Refuse columns of different length."""
        columns = (self.ids, self.texts, self.labels, *self.annotations().values())
        if len({len(column) for column in columns}) > 1:
            raise ValueError("the columns of a split differ in length")

    def annotations(self) -> dict[str, Sequence[str] | Sequence[bool] | Sequence[int]]:
        """Return the columns that not every split has, by name, where they are there."""
        found: dict[str, Sequence[str] | Sequence[bool] | Sequence[int] | None] = {
            "group": self.groups,
            "near_duplicate": self.near_duplicates,
            "leaked": self.leaked,
            "cluster": self.clusters,
        }
        kept = {f"{SLICE}{name}": column for name, column in self.slices.items()}
        return {name: column for name, column in found.items() if column is not None} | kept

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Example]:
        """Yield the rows one by one."""
        for row in zip(self.ids, self.texts, self.labels, strict=True):
            yield Example(*row)

    def class_counts(self, classes: int) -> tuple[int, ...]:
        """Return how many rows each of ``classes`` classes has."""
        counts: Counter[int] = Counter()
        for label in self.labels:
            counts.update((label,) if isinstance(label, int) else label)
        return tuple(counts[label] for label in range(classes))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the data stage noticed and the user should know.

    Attributes:
        kind: short stable name, for instance ``"duplicate"`` or ``"label_typo"``.
        level: ``"info"`` for facts, ``"warning"`` for what may hurt the result.
        message: one sentence for a person.
        count: rows concerned.
    """

    kind: str
    level: Literal["info", "warning"]
    message: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Exact accounting of the source rows: ``read == unsampled + quarantined + kept``.

    ``quarantined`` counts the rows by reason; ``unsampled`` are rows a sample left out.
    """

    read: int
    unsampled: int
    kept: int
    quarantined: Mapping[str, int] = field(default_factory=dict)

    @property
    def quarantined_total(self) -> int:
        """Rows that were read and set aside, all reasons together."""
        return sum(self.quarantined.values())


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """How long the kept texts are, in tokens with the special ones, before any cut.

    Attributes:
        base_model: whose tokenizer counted.
        max_length: the encoder's limit in tokens.
        quantiles: tokens at the 0, 10, 25, 50, 75, 90, 95, 99 and 100 percent quantile.
        mean: mean tokens per text, uncut.
        mean_cut: mean tokens per text after the cut to ``max_length``.
        rows_cut: texts longer than ``max_length``.
        tokens_cut_share: share of all tokens that the cut removes, 0 to 1.
        histogram: rows per bin of 32 tokens, the last bin open.
        rows_by_tokens: texts of each length; empty where files of older versions do not have it.
    """

    base_model: str
    max_length: int
    quantiles: tuple[int, ...]
    mean: float
    mean_cut: float
    rows_cut: int
    tokens_cut_share: float
    histogram: tuple[int, ...]
    rows_by_tokens: Mapping[int, int] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What ``dataset.json`` holds: everything about the data but the rows themselves."""

    source: str
    text_column: str
    label_column: str
    task: Task
    label_names: tuple[str, ...]
    seed: int
    counts: RowCounts
    split_counts: Mapping[str, tuple[int, ...]]
    """Rows of each class in each split, ``{"train": (8, 8), ...}``."""
    findings: tuple[Finding, ...]
    token_lengths: TokenLengths | None
    fingerprint: str
    options: Mapping[str, str | int | float | bool | tuple[str, ...] | None] = field(default_factory=dict)
    """The options that ``prepare`` was called with, to repeat it."""
    split_sha256: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each split's file, to see without reading the rows that they are the same."""
    split_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split in multi-label data, where a row counts for several classes or for none."""

    def rows_in(self, split: str) -> int:
        """Return the number of rows of a split."""
        return self.split_rows.get(split, sum(self.split_counts[split]))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Prepared data: three splits without a shared text, and what was found on the way."""

    folder: Path
    info: DatasetInfo
    train: Split
    validation: Split
    test: Split

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label names; their order fixes the class indices."""
        return self.info.label_names

    @property
    def task(self) -> Task:
        """``single_label`` or ``multi_label``; decided once, in ``prepare``."""
        return self.info.task

    @property
    def fingerprint(self) -> str:
        """SHA-256 over splits, texts, labels and label names."""
        return self.info.fingerprint

    def splits(self) -> dict[str, Split]:
        """Return the splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
