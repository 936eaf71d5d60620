"""Time, memory and disk of an adaptation, from a few passes of the model itself over some of its pieces."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from textlora import encoder
from textlora.adaptation import model as masked_model
from textlora.adaptation.corpus import OpenCorpus, first_pieces
from textlora.adaptation.nouns import AdaptationEstimate
from textlora.adaptation.settings import AdaptationSettings
from textlora.adaptation.steps import Passes, tokens_of
from textlora.batching import ROW_STEP
from textlora.planning.durations import ADAMW_SECONDS, ROW_KERNEL_SECONDS, STEP_SECONDS, TEXT_KERNEL_SECONDS
from textlora.planning.estimating import TOKEN_BYTES
from textlora.planning.rough import GROUP_KERNEL_BYTES, ROW_KERNEL_BYTES, TEXT_KERNEL_BYTES
from textlora.rehearsal import LiveBytes
from textlora.trainer import KEPT_CHECKPOINTS

GB = 1e9
# Micro-batches that are passed over.
PASSES = 2
# Groups of pieces that attention works on together, of different lengths.
TEXT_GROUPS = 16
SAVE_SECONDS_PER_BYTE = 2e-9
FINISH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What passes took: seconds by token and bytes alive at once at most.

    Attributes:
        train: seconds of a token, forward and backward.
        head: the same with the encoder frozen.
        validate: forward only.
        peak_bytes: what a pass needs beside the weights and their gradients: tensors, work space, kernels.
        resident: bytes of the process with the model loaded, before any pass.
    """

    train: float
    head: float
    validate: float
    peak_bytes: float
    resident: float


def measure(model: Any, corpus: OpenCorpus, passes: Passes, settings: AdaptationSettings) -> Measured:
    """Take some passes over pieces of the corpus; weights and gradients are left as they were."""
    resident = float(psutil.Process().memory_info().rss)
    budget = settings.compute.tokens_per_micro_batch or 0
    ids = first_pieces(corpus.train, max(2, PASSES * budget // max(1, int(corpus.train.lengths.mean()))))
    pieces = passes.masking.mask_all(ids, (settings.seed,))
    batches = [_moved(batch, model.device) for batch in passes.cut(pieces, budget)][:PASSES]
    if not batches:
        return Measured(0.0, 0.0, 0.0, 0.0, resident)
    with encoder.arithmetic(settings.compute.precision or "fp32"):
        for batch in batches:  # builds the kernels
            _pass(model, passes, batch, backward=True)
        model.zero_grad(set_to_none=False)
        live = LiveBytes()
        with live:
            _pass(model, passes, max(batches, key=tokens_of), backward=True)
        train = _seconds(model, passes, batches, backward=True)
        grown = float(psutil.Process().memory_info().rss) - resident
        masked_model.freeze_trunk(model, frozen=True)
        head = _seconds(model, passes, batches, backward=True)
        masked_model.freeze_trunk(model, frozen=False)
        validate = _seconds(model, passes, batches, backward=False)
    model.zero_grad(set_to_none=True)
    gradients = sum(weight.nbytes for weight in model.parameters())
    # The tensors alone where they are not in this memory, or where freed memory was given back at once.
    return Measured(train, head, validate, max(live.peak, grown - gradients), resident)


def _moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def _pass(model: Any, passes: Passes, batch: Mapping[str, Any], *, backward: bool) -> None:
    model.train(backward)
    with torch.set_grad_enabled(backward):
        loss = passes.summed_loss(model, batch)
        if backward:
            loss.backward()


def _seconds(model: Any, passes: Passes, batches: list[dict[str, Any]], *, backward: bool) -> float:
    """Return the seconds by token of the faster of two rounds."""
    rounds = []
    for _ in range(2):
        start = time.perf_counter()
        for batch in batches:
            _pass(model, passes, batch, backward=backward)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        rounds.append(time.perf_counter() - start)
    return min(rounds) / sum(map(tokens_of, batches))


def planned_steps(settings: AdaptationSettings, corpus: OpenCorpus, head_steps: int) -> int:
    """Return the optimiser steps in all."""
    return head_steps + math.ceil(steps_per_epoch(settings, corpus) * settings.training.epochs)


def steps_per_epoch(settings: AdaptationSettings, corpus: OpenCorpus) -> int:
    """Return the optimiser steps of a pass over the pieces."""
    return math.ceil(corpus.facts.pieces / settings.training.batch_size)


@dataclass(frozen=True)
class Costs:
    """Time, memory and disk of an adaptation by its number of steps.

    Attributes:
        measured: what passes took here.
        parameters: of encoder and head.
        head_steps: steps that train the head alone.
    """

    settings: AdaptationSettings
    corpus: OpenCorpus
    measured: Measured
    parameters: int
    head_steps: int

    def estimate(self, steps: int) -> AdaptationEstimate:
        """Return what ``steps`` optimiser steps take, those of the head included."""
        seconds, memory, disk = self._seconds(steps), self._memory(), self._disk()
        return AdaptationEstimate(
            seconds=sum(seconds.values()),
            memory_gb=sum(memory.values()),
            disk_gb=sum(disk.values()),
            tokens_per_second=1 / self.measured.train if self.measured.train else 0.0,
            seconds_by_term=seconds,
            memory_by_term=memory,
            disk_by_term=disk,
        )

    def _seconds(self, steps: int) -> dict[str, float]:
        facts, rest = self.corpus.facts, steps - self.head_steps
        tokens = min(self.settings.training.batch_size, facts.pieces) * facts.tokens / facts.pieces
        validations = min(self.settings.training.evaluations, rest) + 1 + (self.head_steps > 0)
        return {
            "head": self.head_steps * (tokens * self.measured.head + STEP_SECONDS),
            "encoder": rest * (tokens * self.measured.train + STEP_SECONDS + ADAMW_SECONDS * self.parameters),
            "kernels": (ROW_KERNEL_SECONDS + TEXT_KERNEL_SECONDS) * self._row_counts if self._on_cpu else 0.0,
            "validation": validations * facts.held_out_tokens * self.measured.validate,
            "saving": validations * self._checkpoint_bytes * SAVE_SECONDS_PER_BYTE + FINISH_SECONDS,
        }

    @property
    def _on_cpu(self) -> bool:
        return self.settings.compute.device == "cpu"

    @property
    def _checkpoint_bytes(self) -> int:
        # Weights and AdamW's two moments.
        return 3 * 4 * self.parameters

    @property
    def _row_counts(self) -> int:
        """How many different numbers of rows micro-batches have: they are cut into equal shares near the budget."""
        return max(1, (self.settings.compute.tokens_per_micro_batch or 0) // ROW_STEP // 4)

    def _memory(self) -> dict[str, float]:
        weights = 4 * self.parameters
        terms = {
            "libraries and texts": max(0.0, self.measured.resident - weights),
            "weights": weights,
            "gradients": weights,
            "optimiser state": 2 * weights,
            "passes": self.measured.peak_bytes,
        }
        if self._on_cpu:
            terms["kernels"] = (
                self._row_counts * (ROW_KERNEL_BYTES + TEXT_KERNEL_BYTES) + TEXT_GROUPS * GROUP_KERNEL_BYTES
            )
        return {name: value / GB for name, value in terms.items()}

    def _disk(self) -> dict[str, float]:
        terms = {
            "token ids": TOKEN_BYTES * (self.corpus.facts.tokens + self.corpus.facts.held_out_tokens),
            # The newest, the best, and one that is being written.
            "checkpoints": (KEPT_CHECKPOINTS + 2) * self._checkpoint_bytes,
            "encoder": 4 * self.parameters,
        }
        return {name: value / GB for name, value in terms.items()}
