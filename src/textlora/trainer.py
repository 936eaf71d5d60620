"""Trainer, thinly subclassed: micro-batches inside a step, sealed checkpoints.

A training batch is the samples of one optimiser step. ``training_step`` walks over its
micro-batches and adds up their gradients, so that the optimiser's path does not depend on how
the samples were cut. When memory runs out, the step is taken again in smaller ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from transformers import Trainer

from textlora import checkpoints, encoder, windows
from textlora.batching import micro_batches, packed_batches
from textlora.errors import TrainingError
from textlora.losses import Loss, targets
from textlora.memory import LESS, Budget, Pass
from textlora.packed import pack, pack_states
from textlora.prefix import PrefixCache
from textlora.sampling import BalancedSampler
from textlora.tasks import TASKS
from textlora.tokenization import TokenIds
from textlora.types import Label, Task

KEPT_CHECKPOINTS = 2


class Sample(TypedDict):
    """One tokenized training text, its windows end to end; ``states`` (T, H) are its hidden states where cached."""

    ids: TokenIds
    label: Label
    states: NotRequired[torch.Tensor]


class Samples(torch.utils.data.Dataset[Sample]):
    """Tokenized texts with their labels, and their hidden states from a cache if there is one."""

    def __init__(self, ids: Sequence[TokenIds], labels: Sequence[Label], cache: PrefixCache | None = None) -> None:
        self.ids = ids
        self.labels = labels
        self._cache = cache

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {"ids": self.ids[index], "label": self.labels[index]}
        if self._cache:
            sample["states"] = self._cache.states(self.ids[index])
        return sample


class Uncut:
    """The samples of one step, wrapped so that nobody moves or pins what may be cut otherwise later."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples


@dataclass(frozen=True)
class Collator:
    """Samples of one step to tensors.

    Attributes:
        pad_id: fills short texts.
        limit: longest window in tokens; a longer text has several, which stay in one micro-batch.
        budget: tokens per micro-batch; 0 gives plain batches as Trainer expects them. It may shrink
            while batches are on their way, so they are cut when their turn comes.
        fixed: pad everything to ``limit``.
        packed: lay texts end to end instead of padding them.
        start: block that takes the hidden states of samples that have them.
        task: decides the form of ``labels``: (B,) indices, or (B, C) zeros and ones in multi-label data.
        classes: C.
    """

    pad_id: int
    limit: int
    budget: Budget
    fixed: bool = False
    packed: bool = False
    start: int = 0
    task: Task = "single_label"
    classes: int = 0

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        """Return ``labels`` and ``samples`` to be cut, and the inputs too if they shall stay whole."""
        if self.budget.tokens == 0:
            return {**self._tensors(samples), "samples": Uncut(samples)}
        return {"labels": self._labels(samples), "samples": Uncut(samples)}

    def _labels(self, samples: Sequence[Sample]) -> torch.Tensor:
        return targets([sample["label"] for sample in samples], self.task, self.classes)

    def micro_batches(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        """Yield ``labels``, inputs, ``rows`` (b,) and ``windows`` (b,) of each micro-batch within the budget."""
        for rows in self._cut(samples):
            taken = [samples[row] for row in rows]
            counts = windows.split_all([sample["ids"] for sample in taken], self.limit)[1]
            yield {**self._tensors(taken), "rows": torch.tensor(rows), "windows": counts}

    def _cut(self, samples: Sequence[Sample]) -> list[list[int]]:
        lengths = [max(len(sample["ids"]), self.limit if self.fixed else 0) for sample in samples]
        if self.packed:
            return packed_batches(lengths, self.budget.tokens)
        return micro_batches(lengths, self.budget.tokens, limit=self.limit)

    def _tensors(self, samples: Sequence[Sample]) -> dict[str, Any]:
        ids, _ = windows.split_all([sample["ids"] for sample in samples], self.limit)
        if "states" in samples[0]:
            states = [part for sample in samples for part in sample["states"].split(self.limit)]
            inputs = pack_states(states, self.start)
        elif self.packed:
            inputs = pack(ids, self.pad_id)
        else:
            inputs = encoder.pad(ids, self.pad_id, limit=self.limit, fixed=self.fixed)
        return {"labels": self._labels(samples), **inputs}


def _tokens(batch: dict[str, Any]) -> int:
    """Return the tokens that a forward pass over the batch computes, padding counted."""
    return sum(batch["lengths"]) if "lengths" in batch else int(batch["input_ids"].numel())


class SealedTrainer(Trainer):
    """Trainer that seals its checkpoints and stops at a loss that is not a number."""

    make_seal: Callable[[], checkpoints.Seal]
    on_sealed: Callable[[], None] | None = None

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if checkpoints.read(best) is None:
            raise TrainingError(f"The best checkpoint, {best}, is damaged.", hint="Train again without --resume.")
        super()._load_best_model()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Take one forward and backward pass; see ``Trainer.training_step``."""
        return self._finite(super().training_step(model, inputs, num_items_in_batch))

    def _finite(self, loss: torch.Tensor) -> torch.Tensor:
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"The training loss became {loss.item()} at step {self.state.global_step + 1}; training stopped at once.",
                hint="Try a lower --set training.learning_rate, or --set compute.precision=fp32. "
                "Checkpoints from before are whole.",
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Adapter and head only; Trainer would add a pickle of its arguments.
        if self.args.should_save:
            encoder.save_adapter(self.model, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with encoder.write_errors(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            root = Path(self.args.output_dir)
            checkpoints.seal(root / f"{checkpoints.PREFIX}{self.state.global_step}", self.make_seal())
            # Trainer's own rotation would delete the last whole one before this one is sealed.
            checkpoints.rotate(root, keep=KEPT_CHECKPOINTS, best=self.state.best_model_checkpoint)
            if self.on_sealed:
                self.on_sealed()


class BudgetTrainer(SealedTrainer):
    """Trainer whose step adds up the gradients of micro-batches cut by a token budget.

    When memory runs out inside a step, its gradients are discarded and it is taken again from the same
    weights in smaller micro-batches.
    """

    budget: Budget
    shortage_hint: str = LESS

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add up the gradients of the step's micro-batches; return the loss of the whole step."""
        step = self.state.global_step + 1
        self._begin(step, inputs)
        randomness = _Randomness(self.args.device)

        def undo() -> None:
            # No gradient has reached the optimizer or fp16's scaler yet: both look at them after the step.
            model.zero_grad()
            randomness.restore()

        loss = self.budget.run(
            lambda under_way: self._step(model, inputs, num_items_in_batch, under_way),
            stage="training",
            step=step,
            undo=undo,
            hint=self.shortage_hint,
        )
        return self._finite(loss)

    def _begin(self, step: int, inputs: dict[str, Any]) -> None:
        """Do what a step needs once, however often it is taken again."""

    def _step(self, model: Any, inputs: dict[str, Any], items: Any, under_way: Pass) -> torch.Tensor:
        raise NotImplementedError

    def _add_up(
        self, model: Any, batches: Sequence[dict[str, Any]], loss_of: Callable[[dict[str, Any]], torch.Tensor]
    ) -> torch.Tensor:
        """Add up the gradients of the micro-batches' losses, and return the sum of these."""
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, start=1):
            # Several processes exchange gradients once a step, after the last micro-batch.
            last = number == len(batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = loss_of(batch)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total


class MicroBatchTrainer(BudgetTrainer):
    """Trainer of a classifier whose step walks over micro-batches; a ``Collator`` is needed.

    When memory runs out in a validation batch, it is computed again.
    """

    loss = Loss()
    """What is minimised; a validation reports the plain one."""
    sampler: BalancedSampler | None = None
    """Draws the training rows, if they are not simply shuffled."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.collator: Collator = self.data_collator
        self.budget = self.collator.budget
        self._head = HeadDropout(self.model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.sampler or super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a plain batch, and the model's output if asked; see ``Trainer.compute_loss``."""
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = (self.loss if model.training else self.loss.plain).mean(outputs.logits.float(), inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def _begin(self, step: int, inputs: dict[str, Any]) -> None:
        self._head.begin(f"{self.args.seed} {step} {self.args.process_index}", len(inputs["labels"]))

    def _step(self, model: Any, inputs: dict[str, Any], items: Any, under_way: Pass) -> torch.Tensor:
        if self.budget.tokens == 0:
            plain = _without_samples(inputs)
            under_way.holds(len(inputs["labels"]), _tokens(plain))
            with self._head.rows(torch.arange(len(inputs["labels"]))):
                # Trainer's own step, which takes the batch whole.
                return super(BudgetTrainer, self).training_step(model, plain, items)
        model.train()
        # Of the whole step: a micro-batch's own divisor would let its rows count by how the step was cut.
        divisor = self._divisor(inputs["labels"].to(self.args.device))

        def loss_of(batch: dict[str, Any]) -> torch.Tensor:
            under_way.holds(len(batch["labels"]), _tokens(batch))
            with self._head.rows(_row_of_each_window(batch)):
                return _summed_loss(model, self._prepare_inputs(batch), self.loss)[0] / divisor

        return self._add_up(model, list(self.collator.micro_batches(inputs["samples"].samples)), loss_of)

    def _divisor(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the step's weights; its mean over the processes, whose gradients are averaged."""
        local = self.loss.weights(labels).sum()
        return self.accelerator.reduce(local, reduction="mean") if self.args.world_size > 1 else local

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return mean plain loss, logits (B, C) and labels, in the order of the samples."""
        return self.budget.run(
            lambda under_way: self._predicted(model, inputs, prediction_loss_only, ignore_keys, under_way),
            stage="validation",
            step=self.state.global_step,
            hint=self.shortage_hint,
        )

    def _predicted(
        self, model: Any, inputs: dict[str, Any], loss_only: bool, ignore_keys: list[str] | None, under_way: Pass
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.budget.tokens == 0:
            plain = _without_samples(inputs)
            under_way.holds(len(inputs["labels"]), _tokens(plain))
            whole: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
            whole = super().prediction_step(model, plain, loss_only, ignore_keys)
            return whole
        loss, logits = self._scored(model, inputs, under_way)
        return (loss, None, None) if loss_only else (loss, logits, inputs["labels"].to(loss.device))

    def _scored(self, model: Any, inputs: dict[str, Any], under_way: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean plain loss and the logits (B, C) of the samples."""
        plain = self.loss.plain
        total = torch.zeros((), device=self.args.device)
        parts, rows = [], []
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in self.collator.micro_batches(inputs["samples"].samples):
                under_way.holds(len(batch["labels"]), _tokens(batch))
                loss, logits = _summed_loss(model, self._prepare_inputs(batch), plain)
                total += loss
                parts.append(logits)
                rows.append(batch["rows"])
        back = torch.argsort(torch.cat(rows)).to(total.device)
        return total / plain.weights(inputs["labels"]).sum().to(total.device), torch.cat(parts)[back]


def _without_samples(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "samples"}


class _Randomness:
    """The state of the random streams that a step draws from, to draw the same again."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._mps = torch.mps.get_rng_state() if device.type == "mps" else None
        self._device = device

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


class HeadDropout:
    """Dropout in the head, drawn for all samples of a step together.

    So a sample meets the same mask however the step is cut into micro-batches. A step's masks follow
    from its seed alone, and need no state in checkpoints.

    Args:
        model: what ``encoder.build_model`` returned; other models keep the dropout they have.
    """

    def __init__(self, model: Any) -> None:
        self._seed = 0
        self._samples = 0
        self._rows: torch.Tensor | None = None
        self._generator: torch.Generator | None = None
        for module in encoder.head_dropouts(model):
            module.forward = partial(self._drop, module)

    def begin(self, name: str, samples: int) -> None:
        """Begin a step of so many samples; its masks follow from ``name``."""
        self._seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
        self._samples = samples

    @contextlib.contextmanager
    def rows(self, rows: torch.Tensor) -> Iterator[None]:
        """Say which of the step's samples are computed inside, and in which order."""
        self._rows, self._generator = rows, None
        try:
            yield
        finally:
            self._rows = None

    def _drop(self, module: torch.nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        rows = self._rows
        if not module.training or not 0 < module.p < 1 or rows is None or len(rows) != len(x):
            return torch.nn.functional.dropout(x, module.p, module.training)
        if self._generator is None:
            self._generator = torch.Generator(x.device)
            self._generator.manual_seed(self._seed)
        drawn = torch.rand((self._samples, *x.shape[1:]), generator=self._generator, device=x.device)
        kept = drawn[rows.to(x.device)] >= module.p
        return x * kept.to(x.dtype) / (1 - module.p)


def _row_of_each_window(batch: dict[str, Any]) -> torch.Tensor:
    """Return the sample of each window (W,): the windows of a text meet the same mask of the head's dropout."""
    rows: torch.Tensor = batch["rows"]
    return rows.repeat_interleave(torch.tensor(batch["windows"]))


def _summed_loss(model: Any, batch: dict[str, Any], loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the texts' losses, and their logits (B, C): a loss sees texts, never windows."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "rows", "windows")}
    logits = encoder.pool(model(**inputs).logits.float(), batch["windows"])
    return loss.terms(logits, batch["labels"]).sum(), logits


def scores_from(
    logits: np.ndarray,
    labels: np.ndarray,
    score: Callable[..., dict[str, float]],
    *,
    task: Task = "single_label",
) -> dict[str, float]:
    """Turn logits (N, C) into validation scores, without the loss, which Trainer has."""
    scores = score(labels, TASKS[task].probabilities(logits))
    return {name: value for name, value in scores.items() if name != "loss"}
