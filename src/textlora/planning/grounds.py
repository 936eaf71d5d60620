"""What the decisions rest on: the choices so far, the data, the base model, the machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from textlora.errors import ResourceError
from textlora.models import BaseInfo
from textlora.types import Dataset, Machine, Task, TokenLengths
from textlora.windows import QUANTILES, LengthPolicy, tally

# transformers has no sdpa kernel for these, of all the architectures that are tested.
EAGER_ONLY = ("deberta", "deberta-v2", "mpnet")
MAX_COUNTED_TEXTS = 20_000

Source = Literal["command line", "plan file", "recipe", "default", "decided"]
USER: tuple[Source, ...] = ("command line", "plan file")


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting's value, why it is so, and who said it."""

    value: Any
    reason: str
    source: Source

    @property
    def told(self) -> str:
        """The value with its origin, for a message about it."""
        return repr(self.value) if self.source in ("default", "decided") else f"{self.value!r} ({self.reason})"


Choices = dict[str, Choice]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the decisions rest on.

    Attributes:
        info: shapes of the base model.
        rows: rows of each split.
        classes: number of labels.
        lengths: tokens per text under the base model's tokenizer.
        longest: tokens of the longest text, or None when not every text was counted.
        prepared: the ``data`` settings that the data were prepared with, by dotted name.
        machine: where training will run.
        task: whether rows have one label or several.
        label_names: the labels in order.
        class_counts: training rows of each label.
        validation_counts: validation rows of each label.
    """

    info: BaseInfo
    rows: Mapping[str, int]
    classes: int
    lengths: TokenLengths
    longest: int | None
    prepared: Mapping[str, Any]
    machine: Machine
    task: Task = "single_label"
    label_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    validation_counts: tuple[int, ...] = ()


def make_grounds(
    dataset: Dataset, info: BaseInfo, machine: Machine, measured: tuple[TokenLengths, int | None]
) -> Grounds:
    """Collect the grounds; ``measured`` is what ``lengths_of`` returned."""
    prepared = {name: value for name, value in dataset.info.options.items() if name.startswith("data.")}
    return Grounds(
        info=info,
        rows={name: len(split) for name, split in dataset.splits().items()},
        classes=len(dataset.label_names),
        lengths=measured[0],
        longest=measured[1],
        prepared=prepared,
        machine=machine,
        task=dataset.task,
        label_names=dataset.label_names,
        class_counts=tuple(dataset.info.split_counts.get("train", ())),
        validation_counts=tuple(dataset.info.split_counts.get("validation", ())),
    )


def lengths_of(dataset: Dataset, info: BaseInfo) -> tuple[TokenLengths, int | None]:
    """Return the data's token lengths; count them if ``prepare`` used another tokenizer."""
    known = dataset.info.token_lengths
    if known is not None and known.base_model == info.name:
        return known, known.quantiles[-1]
    splits = dataset.splits().values()
    stride = -(-sum(map(len, splits)) // MAX_COUNTED_TEXTS) or 1
    texts = itertools.chain.from_iterable(split.texts for split in splits)
    counts = sorted(_count(list(itertools.islice(texts, 0, None, stride)), info))
    return measure_lengths(counts, info), counts[-1] if stride == 1 else None


def _count(texts: Sequence[str], info: BaseInfo) -> list[int]:
    from textlora.tokenization import TextTokenizer

    if info.folder is None:
        raise ResourceError(f"The tokenizer of {info.name} is not on this machine.")
    policy = LengthPolicy("head", info.max_length)
    return TextTokenizer.load(info.folder, policy, base_model=info.name).count(texts)


def measure_lengths(counts: Sequence[int], info: BaseInfo) -> TokenLengths:
    """Summarise token counts as ``prepare`` does; the histogram is left out."""
    ordered, limit = sorted(counts), info.max_length
    kept = sum(min(count, limit) for count in ordered)
    return TokenLengths(
        base_model=info.name,
        max_length=limit,
        quantiles=tuple(ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in QUANTILES),
        mean=sum(ordered) / len(ordered),
        mean_cut=kept / len(ordered),
        rows_cut=sum(count > limit for count in ordered),
        tokens_cut_share=1 - kept / max(1, sum(ordered)),
        histogram=(),
        rows_by_tokens=tally(np.array(ordered)),
    )
