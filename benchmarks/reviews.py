"""Labelled reviews to measure with: from a file, tokenized, in samples of like length."""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import textlora
from textlora import api, embedded, planning, training
from textlora.tokenization import LengthPolicy, TextTokenizer, TokenIds

MAX_LENGTH = 512
SEED = 7
# Fraction of the golden section: shifts of its multiples fill a step evenly, however many there are.
GOLDEN = 0.6180339887
# Rows of the validation and the test file that a data set for training needs.
SIDE_ROWS = 8


@dataclass(frozen=True)
class Reviews:
    """Texts with label names and token ids, in parallel."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    ids: tuple[TokenIds, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each review, (N,)."""
        return np.array([len(ids) for ids in self.ids])

    @property
    def mean_length(self) -> int:
        """Mean tokens of a review, rounded."""
        return round(float(self.lengths.mean()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The label names, sorted."""
        return tuple(sorted(set(self.labels)))

    @cached_property
    def label_indices(self) -> list[int]:
        """The labels as indices into ``names``."""
        return [self.names.index(label) for label in self.labels]

    def take(self, rows: Sequence[int]) -> Reviews:
        """Return some reviews, in the order of ``rows``."""
        columns = ([column[row] for row in rows] for column in (self.texts, self.labels, self.ids))
        return Reviews(*map(tuple, columns))

    def spread(self, count: int, number: int) -> Reviews:
        """Return ``count`` reviews whose lengths are distributed as those of all, in random order.

        Samples of other ``number`` hold other reviews of nearly the same lengths, so that rounds can
        be compared and still meet new texts.
        """
        order = np.argsort(self.lengths, kind="stable")
        step = len(self) / count
        rows = [int(order[int((index + number * GOLDEN % 1) * step)]) for index in range(count)]
        random.Random(SEED + number).shuffle(rows)
        return self.take(rows)


def load(path: Path, rows: int) -> Reviews:
    """Read a data file, clean it as ``textlora prepare`` does, and draw ``rows`` reviews at random.

    A file with fewer reviews gives them several times, each time with another last word.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = textlora.prepare(path, out=folder)
    pairs = [
        (text, dataset.label_names[label])
        for split in dataset.splits().values()
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    random.Random(SEED).shuffle(pairs)
    copies = -(-rows // len(pairs))
    repeated = [(f"{text} {copy}" if copy else text, label) for copy in range(copies) for text, label in pairs][:rows]
    texts, labels = zip(*repeated, strict=True)
    return Reviews(texts, labels, tokenizer().encode(texts).ids)


def tokenizer() -> TextTokenizer:
    """Return the tokenizer of all benchmarks: the embedded model's, both ends of long texts kept."""
    policy = LengthPolicy("head+tail", MAX_LENGTH)
    return TextTokenizer.load(embedded.embedded_folder(), policy, base_model="embedded")


def write_csv(path: Path, reviews: Reviews) -> Path:
    """Write texts and labels."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(zip(reviews.texts, reviews.labels, strict=True))
    return path


def data_set(reviews: Reviews, folder: Path) -> Any:
    """Return a data set whose training split is exactly these reviews, prepared in ``folder``."""
    side = [_marked(reviews, name) for name in ("validation", "test")]
    paths = [
        write_csv(folder / f"{name}.csv", part)
        for name, part in zip(("train", "validation", "test"), (reviews, *side), strict=True)
    ]
    options = api.DataOptions(text="text", label="label", validation=paths[1], test=paths[2])
    made = api.prepare_folder(paths[0], folder / "run", options, api.PlanOptions("embedded"))
    if len(made.train) != len(reviews):
        raise ValueError(f"{len(made.train)} of {len(reviews)} reviews are left in the training split")
    return made


def trained(reviews: Reviews, folder: Path) -> Path:
    """Return the run folder of a classifier trained on these reviews for one epoch."""
    data = data_set(reviews, folder)
    # By its folder's name the run would depend on this machine's cache; by this one it does not.
    plan = planning.plan(data, base_model=embedded.NAME, assignments={"training.epochs": 1})
    return training.train(plan, data).folder


def _marked(reviews: Reviews, name: str) -> Reviews:
    """Return a few reviews of every label, made different from the originals."""
    rows = [
        row
        for label in reviews.names
        for row in [row for row, own in enumerate(reviews.labels) if own == label][: SIDE_ROWS // len(reviews.names)]
    ]
    few = reviews.take(rows)
    return Reviews(tuple(f"{name}: {text}" for text in few.texts), few.labels, few.ids)
