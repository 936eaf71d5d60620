"""The ways to train that ``benchmarks.train`` compares; each costs what an epoch over some reviews costs.

Building the model, tokenizing, evaluation and saving are in none of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    get_linear_schedule_with_warmup,
)

from benchmarks.measuring import Cost, Watch
from benchmarks.reviews import MAX_LENGTH, Reviews, data_set
from textlora import encoder, planning, training
from textlora.encoder import EncoderSpec
from textlora.memory import Budget
from textlora.settings import Settings
from textlora.tokenization import TokenIds
from textlora.trainer import Collator, MicroBatchTrainer, Samples

BATCH = 32
STOCK_BATCH = 4
TRIES = 2
FAST_EPOCHS = 3
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}


class EpochWatch(TrainerCallback):
    """Measures what lies between an epoch's start and its end: loading, steps, nothing else."""

    def __init__(self) -> None:
        self.watch = Watch()

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.watch.start()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.watch.stop()


def adapted(model: Any, dropout: float, **options: Any) -> Any:
    """Put LoRA adapters of rank 8 on queries and values, as plain PEFT does it."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=dropout, target_modules=["q_lin", "v_lin"]
    )
    return get_peft_model(model, config, **options)


def classifier(folder: Path, names: tuple[str, ...], **options: Any) -> Any:
    """Load a plain Hugging Face classifier."""
    with encoder.quiet_libraries():
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names), **options)


def _arguments(folder: str, **options: Any) -> TrainingArguments:
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_nan_inf_filter": False}
    return TrainingArguments(output_dir=folder, num_train_epochs=1, use_cpu=True, **quiet, **options)


def _epoch(trainer: Trainer, reviews: Reviews) -> Cost:
    trainer.remove_callback(PrinterCallback)
    watch = EpochWatch()
    trainer.add_callback(watch)
    trainer.train()
    return watch.watch.cost(len(reviews))


class StockLeg:
    """Trainer and PEFT with the usual recipe: fp32, padded to 512, batches of 4, dropout everywhere."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        self.model = adapted(classifier(folder, names, dtype=torch.float32, attn_implementation="sdpa"), dropout=0.1)

    def epoch(self, reviews: Reviews) -> Cost:
        """Train on the reviews once."""
        inputs = encoder.pad(reviews.ids, 0, limit=MAX_LENGTH, fixed=True)
        rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(*inputs.values(), reviews.label_indices, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(
                folder, per_device_train_batch_size=STOCK_BATCH, learning_rate=5e-5, warmup_steps=500, weight_decay=0.01
            )
            trainer = Trainer(self.model, arguments, train_dataset=rows, data_collator=default_data_collator)
            return _epoch(trainer, reviews)


def sorted_passes(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Cut texts, longest first, into passes of at most ``tokens`` padded tokens; return their rows."""
    passes: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # The first of a pass is its longest.
        if not passes or (len(passes[-1]) + 1) * lengths[passes[-1][0]] > tokens:
            passes.append([])
        passes[-1].append(row)
    return passes


def padded(ids: Sequence[TokenIds], multiple: int) -> dict[str, torch.Tensor]:
    """Return ``input_ids`` and ``attention_mask`` (B, T), T being a multiple of ``multiple``."""
    width = min(MAX_LENGTH, -(-max(map(len, ids)) // multiple) * multiple)
    return encoder.pad(ids, 0, limit=width, fixed=True)


@dataclass(frozen=True)
class Tuning:
    """What ``TunedLeg`` chooses by trial.

    Attributes:
        kernel: of attention.
        tokens: of one pass, padding counted.
        multiple: padded lengths are multiples of it; few shapes, or little padding.
    """

    kernel: str = "eager"
    tokens: int = 2_048
    multiple: int = 8


TUNINGS: dict[str, tuple[Any, ...]] = {
    "kernel": ("eager", "sdpa"),
    "tokens": (1_024, 2_048, 4_096),
    "multiple": (8, 64),
}


class TunedLeg:
    """The fastest that plain Hugging Face and PEFT get: no dropout, no Trainer, hardly any padding.

    Frozen weights in ``precision``, adapters and head in fp32; under autocast PEFT need not widen
    its inputs. 32 reviews a step, sorted by length and cut into passes of few tokens.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], precision: str) -> None:
        torch.manual_seed(0)
        dtype = encoder.DTYPES[precision]
        base = classifier(folder, names, dtype=dtype, attn_implementation=Tuning().kernel, **STILL)
        self.model = adapted(base, dropout=0.0).train()
        self.precision = precision
        self.tuning = Tuning()
        for name, parameter in self.model.named_parameters():
            if encoder.is_ours(name):
                parameter.data = parameter.data.float()

    def tune(self, reviews: Reviews) -> dict[str, float]:
        """Try one choice after the other on this machine and keep the fastest; return milliseconds per review."""
        tried: dict[Tuning, float] = {}
        for name, values in TUNINGS.items():
            candidates = [replace(self.tuning, **{name: value}) for value in values]
            for tuning in candidates:
                if tuning not in tried:
                    tried[tuning] = min(self._tried(tuning, reviews) for _ in range(TRIES))
            self._use(min(candidates, key=tried.__getitem__))
        return {str(tuning): round(1000 * seconds, 2) for tuning, seconds in tried.items()}

    def _tried(self, tuning: Tuning, reviews: Reviews) -> float:
        self._use(tuning)
        return self.epoch(reviews).each("cpu")

    def _use(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.model.get_base_model().set_attn_implementation(tuning.kernel)

    def epoch(self, reviews: Reviews) -> Cost:
        """Train on the reviews once."""
        from peft.helpers import disable_input_dtype_casting

        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01)
        schedule = get_linear_schedule_with_warmup(optimizer, 1, max(2, len(reviews) // BATCH))
        watch = Watch()
        with watch.running(), disable_input_dtype_casting(self.model), encoder.arithmetic(self.precision):
            for start in range(0, len(reviews), BATCH):
                self._accumulate(reviews.ids[start : start + BATCH], reviews.label_indices[start : start + BATCH])
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return watch.cost(len(reviews))

    def _accumulate(self, ids: Sequence[TokenIds], labels: Sequence[int]) -> None:
        """Add up the gradients of one step's passes."""
        half = self.precision == "bf16"
        for rows in sorted_passes([len(text) for text in ids], self.tuning.tokens):
            inputs = padded([ids[row] for row in rows], self.tuning.multiple)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = self.model(**inputs).logits
            wanted = torch.tensor([labels[row] for row in rows])
            (cross_entropy(logits.float(), wanted, reduction="sum") / len(ids)).backward()


class OurLeg:
    """textlora's engine as a plan sets it up.

    Args:
        folder: the base model.
        names: the labels.
        settings: a plan's, nothing automatic left in them.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], settings: Settings) -> None:
        compute = settings.compute
        spec = EncoderSpec(folder, names, str(compute.precision), str(compute.attention))
        self.model = encoder.build_model(spec, settings.lora, seed=0)
        self.settings = settings
        self.collator = Collator(
            pad_id=0,
            limit=MAX_LENGTH,
            budget=Budget(int(compute.tokens_per_micro_batch or 0)),
            packed=compute.engine == "packed",
        )

    def epoch(self, reviews: Reviews) -> Cost:
        """Train on the reviews once."""
        training = self.settings.training
        with (
            tempfile.TemporaryDirectory() as folder,
            encoder.arithmetic(str(self.settings.compute.precision)),
        ):
            arguments = _arguments(
                folder,
                per_device_train_batch_size=training.batch_size,
                learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
                remove_unused_columns=False,
                label_names=["labels"],
            )
            samples = Samples(reviews.ids, reviews.label_indices)
            trainer = MicroBatchTrainer(self.model, arguments, train_dataset=samples, data_collator=self.collator)
            return _epoch(trainer, reviews)


class FastLeg:
    """textlora's recipe ``fast``: the frozen layers run once, what they give is kept for three epochs.

    This leg is a whole training as ``textlora train`` does it. It costs the pass through the frozen
    layers and the steps; per review and epoch, so a third of the pass is in it. Evaluation and saving
    between the epochs are left out, as in all legs.

    Args:
        folder: the base model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings | None = None

    def epoch(self, reviews: Reviews) -> Cost:
        """Train on the reviews three times; return the cost of one."""
        with tempfile.TemporaryDirectory() as scratch, _cache_in(Path(scratch) / "cache"):
            data = data_set(reviews, Path(scratch))
            # The cache is built whether or not the planner finds it worth it for so few reviews.
            asked = {"training.epochs": FAST_EPOCHS, "training.batch_size": BATCH, "compute.prefix_cache": True}
            plan = planning.plan(data, base_model=str(self.folder), recipe="fast", assignments=asked)
            self.settings = plan.settings
            watch = StageWatch(steps_per_epoch=-(-len(reviews) // BATCH))
            training.train(plan, data, progress=watch)
        if watch.measured != {"frozen layers": 1, "train": FAST_EPOCHS}:
            raise ValueError(f"{len(reviews)} reviews are too few to time: only {watch.measured} was measured")
        return Cost(watch.cpu / FAST_EPOCHS, watch.wall / FAST_EPOCHS, len(reviews))


class StageWatch:
    """Measures a training by what it reports: the pass through the frozen layers, and the steps.

    A stage's beginning is not reported, and the first report comes after its first part. So what is
    measured lies between the first and the last report of an epoch, and counts for the whole.

    Args:
        steps_per_epoch: optimiser steps of an epoch, at least 2.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.cpu = self.wall = 0.0
        self.measured: dict[str, int] = {}
        self._watch: Watch | None = None
        self._first = 0

    def __call__(self, stage: str, done: int, total: int, _: str) -> None:
        """Take a report of progress; see ``textlora.training.train``."""
        if stage == "frozen layers":
            self._between(stage, done, total, first=self._watch is None)
        elif stage == "train":
            step = (done - 1) % self.steps_per_epoch + 1
            self._between(stage, step, self.steps_per_epoch, first=step == 1)

    def _between(self, stage: str, done: int, total: int, *, first: bool) -> None:
        if first and done < total:
            # A step may be reported twice, when its loss is written down: the later one counts.
            self._watch, self._first = Watch(), done
            self._watch.start()
        elif done == total and self._watch:
            self._watch.stop()
            self.cpu += self._watch.cpu * total / (total - self._first)
            self.wall += self._watch.wall * total / (total - self._first)
            self.measured[stage] = self.measured.get(stage, 0) + 1
            self._watch = None


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Give textlora an empty cache, so that no earlier round has done this one's work."""
    before = os.environ.get("TEXTLORA_CACHE")
    os.environ["TEXTLORA_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TEXTLORA_CACHE")
        if before is not None:
            os.environ["TEXTLORA_CACHE"] = before
