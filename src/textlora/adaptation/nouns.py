"""What ``adapt`` plans and what came of it: frozen, JSON-able, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from textlora.adaptation.settings import AdaptationSettings
from textlora.types import MemoryEvent

Ending = Literal["planned", "no gain", "time limit"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Unlabelled texts as pieces of token ids: ``read == texts + duplicates + without_text + broken``.

    Attributes:
        sources: where the texts come from, as a person would name it.
        texts: texts that are used, those held out among them.
        long_texts: texts of more than one piece.
        pieces: pieces to train on; ``held_out`` more measure the perplexity.
        tokens: of the pieces to train on, special tokens included; ``held_out_tokens`` of the others.
        only_training_splits: whether all texts come from training splits of run folders.
        fingerprint: SHA-256 over texts, tokenizer and the way they are cut.
    """

    sources: tuple[str, ...]
    read: int
    texts: int
    duplicates: int
    without_text: int
    broken: int
    long_texts: int
    pieces: int
    tokens: int
    held_out: int
    held_out_texts: int
    held_out_tokens: int
    only_training_splits: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class AdaptationEstimate:
    """What an adaptation will take: seconds, GB (10**9 bytes), each figure the sum of its terms.

    ``tokens_per_second`` is what was measured in a few passes.
    """

    seconds: float
    memory_gb: float
    disk_gb: float
    tokens_per_second: float
    seconds_by_term: Mapping[str, float] = field(default_factory=dict)
    memory_by_term: Mapping[str, float] = field(default_factory=dict)
    disk_by_term: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdaptationPlan:
    """An adaptation before it starts: every setting resolved, with a reason for what was decided.

    Attributes:
        base_model: as the user gave it.
        base_fingerprint: of the base model's weights.
        architecture: Hugging Face's class of the model that is trained.
        parameters: of the encoder and the head.
        fresh_head: whether the base model has no head for masked words.
        packed: whether pieces lie end to end instead of being padded.
        steps: optimiser steps in all; the first ``head_steps`` train the head alone.
        epochs: passes over the pieces in the steps after those.
    """

    base_model: str
    base_fingerprint: str
    architecture: str
    parameters: int
    fresh_head: bool
    packed: bool
    corpus: Corpus
    settings: AdaptationSettings
    reasons: Mapping[str, str]
    steps: int
    head_steps: int
    epochs: float
    estimate: AdaptationEstimate


@dataclass(frozen=True, slots=True)
class Adaptation:
    """An encoder that was trained on, and how that went.

    Attributes:
        folder: the encoder, to be given as ``--base-model``.
        loss_before: mean cross-entropy of the held-out masked tokens before the encoder was trained: after the
            steps of the head alone where the base model had none.
        loss_after: the same for what was saved, under the same masks.
        steps: optimiser steps that were taken, those of the head alone included.
        best_step: the step whose weights were saved.
        ending: why it ended.
        history: Trainer's log entries.
        memory_events: what was done where memory ran out.
    """

    folder: Path
    base_model: str
    architecture: str
    plan: AdaptationPlan
    loss_before: float
    loss_after: float
    steps: int
    best_step: int
    ending: Ending
    seconds: float
    cpu_seconds: float
    peak_memory_gb: float
    tokens_per_second: float
    history: tuple[Mapping[str, float], ...]
    memory_events: tuple[MemoryEvent, ...]
    versions: Mapping[str, str]

    @property
    def perplexity_before(self) -> float:
        """The exponential of ``loss_before``."""
        return perplexity(self.loss_before)

    @property
    def perplexity_after(self) -> float:
        """The exponential of ``loss_after``."""
        return perplexity(self.loss_after)

    @property
    def improved(self) -> bool:
        """Whether the held-out words are guessed better than before."""
        return self.loss_after < self.loss_before


def perplexity(loss: float) -> float:
    """Return the number of words among which a model of this cross-entropy is as unsure as by a fair draw."""
    return math.exp(min(loss, 700.0))
