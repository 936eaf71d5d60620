"""Masked-language-model training through Trainer: masks by step, micro-batches by tokens, the head first.

A training batch is the pieces of one optimiser step. Their masks follow from the seed and the step's number
alone: neither the micro-batches nor a resume change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from textlora import checkpoints
from textlora.adaptation import model as masked_model
from textlora.adaptation.masking import MaskedPiece, Masking
from textlora.adaptation.nouns import perplexity
from textlora.batching import micro_batches, packed_batches
from textlora.callbacks import Clock
from textlora.errors import TrainingError
from textlora.memory import Budget, Pass
from textlora.tokenization import TokenIds
from textlora.trainer import BudgetTrainer, Uncut

# What the seed of masks is followed by: held-out pieces always meet the same.
TRAINING, VALIDATION = 2, 3
# Pieces whose masks are drawn and held at a time in a validation.
BLOCK = 256
# The word of what is no token to be guessed.
FILLER = -100


class PieceSet(torch.utils.data.Dataset[TokenIds]):
    """The pieces to train on."""

    def __init__(self, pieces: Sequence[TokenIds]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> TokenIds:
        return self._pieces[index]


def uncut(pieces: Sequence[Any]) -> dict[str, Any]:
    """Hand over the pieces of one step; they are masked and cut when their turn comes."""
    return {"samples": Uncut(pieces)}


@dataclass(frozen=True)
class Passes:
    """How pieces become forward passes.

    Attributes:
        masking: which tokens are to be guessed.
        pad_id: fills short pieces.
        limit: tokens of the longest piece.
        packed: lay pieces end to end instead of padding them.
        dtype: arithmetic of a pass.
    """

    masking: Masking
    pad_id: int
    limit: int
    packed: bool
    dtype: torch.dtype

    def cut(self, pieces: Sequence[MaskedPiece], budget: int) -> Iterator[dict[str, Any]]:
        """Yield inputs with ``labels`` (M',) for micro-batches within the budget; pieces without a mask are left out."""
        asked = [piece for piece in pieces if len(piece.places)]
        lengths = [len(piece.ids) for piece in asked]
        cut = packed_batches if self.packed else partial(micro_batches, limit=self.limit)
        for rows in cut(lengths, budget):
            taken = [asked[row] for row in rows]
            inputs = masked_model.collate(
                [piece.ids for piece in taken], [piece.places.tolist() for piece in taken], self.pad_id,
                limit=self.limit, packed_rows=self.packed,
            )  # fmt: skip
            words = np.concatenate([piece.words for piece in taken])
            labels = torch.full((len(inputs["rows"]),), FILLER)
            labels[: len(words)] = torch.from_numpy(words)
            yield {**inputs, "labels": labels, "pieces": len(taken)}

    def summed_loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the sum of the cross-entropies of the tokens to be guessed."""
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "pieces")}
        logits = masked_model.logits(model, inputs, self.dtype)
        return cross_entropy(logits.float(), batch["labels"], reduction="sum", ignore_index=FILLER)


def tokens_of(batch: Mapping[str, Any]) -> int:
    """Return the tokens that a pass computes, padding counted."""
    return sum(batch["lengths"]) if "lengths" in batch else int(batch["input_ids"].numel())


@dataclass(frozen=True)
class Rates:
    """Learning rates by step.

    The head alone trains in the first ``head_steps``; then everything, with a warm-up and a linear decay to 0.
    """

    peak: float
    steps: int
    warmup: int
    head_peak: float
    head_steps: int
    weight_decay: float

    def encoder_share(self, step: int) -> float:
        """Return the share of the peak that the encoder trains with in a step, 0 while it is frozen."""
        done, whole = step - self.head_steps, max(1, self.steps - self.head_steps)
        if done < 0:
            return 0.0
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        return max(0.0, (whole - done) / max(1, whole - self.warmup))

    def head_share(self, step: int) -> float:
        """Return the head's learning rate in a step, as a share of the peak."""
        return self.head_peak / self.peak if step < self.head_steps else self.encoder_share(step)


class MaskedTrainer(BudgetTrainer):
    """Trainer of a masked language model; all weights of the encoder train.

    Args:
        passes: how pieces become forward passes.
        budget: tokens per micro-batch.
        rates: learning rates.
        held_out: pieces that measure the perplexity, under masks that stay the same.
        named: what Trainer takes.
    """

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self, *, passes: Passes, budget: Budget, rates: Rates, held_out: Sequence[TokenIds], **named: Any
    ) -> None:
        super().__init__(data_collator=uncut, **named)
        self.passes = passes
        self.budget = budget
        self._rates = rates
        self._held_out = held_out

    # -- optimiser ---------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """Return AdamW over encoder and head; norms and biases do not decay."""
        if self.optimizer is None:
            trunk = {id(weight) for weight in masked_model.trunk_parameters(self.model)}
            # Norms, biases and embeddings of one row are vectors.
            groups = [
                {
                    "params": [
                        w for w in self.model.parameters() if (id(w) in trunk) == inside and (w.ndim > 1) == decays
                    ],
                    "weight_decay": self._rates.weight_decay if decays else 0.0,
                }
                for inside in (True, False)
                for decays in (True, False)
            ]
            fused = self.args.device.type in ("cpu", "cuda")
            self.optimizer = torch.optim.AdamW(groups, lr=self._rates.peak, fused=fused)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule that ``Rates`` describes."""
        if self.lr_scheduler is None:
            shares = [
                self._rates.encoder_share,
                self._rates.encoder_share,
                self._rates.head_share,
                self._rates.head_share,
            ]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, shares)
        return self.lr_scheduler

    # -- steps -------------------------------------------------------------------------------------

    def _step(self, model: Any, inputs: dict[str, Any], items: Any, under_way: Pass) -> torch.Tensor:
        model.train()
        seed = (self.args.seed, TRAINING, self.state.global_step)
        pieces = self.passes.masking.mask_all(inputs["samples"].samples, seed)
        # Of the whole step: a micro-batch's own divisor would let its tokens count by how the step was cut.
        asked = max(1, sum(len(piece.places) for piece in pieces))

        def loss_of(batch: dict[str, Any]) -> torch.Tensor:
            under_way.holds(batch["pieces"], tokens_of(batch))
            return self.passes.summed_loss(model, self._prepare_inputs(batch)) / asked

        return self._add_up(model, list(self.passes.cut(pieces, self.budget.tokens)), loss_of)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the mean cross-entropy of the held-out tokens and its perplexity, logged as Trainer does."""
        loss = self.held_out_loss()
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": perplexity(loss)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out_loss(self) -> float:
        """Return the mean cross-entropy of the tokens to be guessed in the held-out pieces."""
        self.model.eval()
        total, asked = 0.0, 0
        for start in range(0, len(self._held_out), BLOCK):
            stop = min(start + BLOCK, len(self._held_out))
            block = [self._held_out[place] for place in range(start, stop)]
            pieces = self.passes.masking.mask_all(block, (self.args.seed, VALIDATION, start))
            asked += sum(len(piece.places) for piece in pieces)
            total += self.budget.run(
                partial(self._block_loss, pieces), stage="validation", step=self.state.global_step,
                hint=self.shortage_hint,
            )  # fmt: skip
        return total / max(1, asked)

    def _block_loss(self, pieces: Sequence[MaskedPiece], under_way: Pass) -> float:
        total = 0.0
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in self.passes.cut(pieces, self.budget.tokens):
                under_way.holds(batch["pieces"], tokens_of(batch))
                total += float(self.passes.summed_loss(self.model, self._prepare_inputs(batch)))
        return total

    # -- checkpoints -------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            masked_model.save_weights(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        masked_model.load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if checkpoints.read(best) is None:
            raise TrainingError(
                f"The best checkpoint, {best}, is damaged.", hint="Run the same command again with --overwrite."
            )
        masked_model.load_weights(self.model, best)


class Milestones(TrainerCallback):
    """Freezes the encoder while the head trains alone, and asks for validations and checkpoints.

    The first is at the end of the head's own steps: what a trained head makes of the encoder as it was.

    Args:
        rates: with the steps in all and those of the head.
        evaluations: validations, evenly spread over the steps after those of the head.
    """

    def __init__(self, rates: Rates, evaluations: int) -> None:
        self._head_steps = rates.head_steps
        rest = rates.steps - rates.head_steps
        number = min(evaluations, rest)
        marks = {rates.head_steps + rest * place // number for place in range(1, number + 1)}
        self._marks = marks | ({rates.head_steps} if rates.head_steps else set())

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Freeze the encoder, or let it train."""
        if self._head_steps:
            masked_model.freeze_trunk(model, frozen=state.global_step < self._head_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a validation and a checkpoint at the steps for it."""
        control.should_evaluate = control.should_save = state.global_step in self._marks


class TimeLimit(TrainerCallback):
    """Ends training after so many seconds, with a validation and a checkpoint."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self.reached = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock."""
        if self._clock.seconds > self._seconds and state.global_step < state.max_steps:
            self.reached = True
            control.should_log = control.should_evaluate = control.should_save = control.should_training_stop = True
