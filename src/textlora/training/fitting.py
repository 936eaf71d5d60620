"""From a job to trained weights: tokens, cache, Trainer, callbacks."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from textlora import (
    encoder,
    history,
    memory,
    metrics,
    multilabel_metrics,
    prefix,
    storage,
    token_store,
)
from textlora.bundles import base_fingerprint
from textlora.callbacks import Clock, MovedFolder, MovementCheck, Recorder, StopRequest, stopping_at_signals
from textlora.checkpoints import Checkpoint, Seal
from textlora.errors import Interrupted
from textlora.losses import make_loss
from textlora.memory import Budget
from textlora.prefix import PrefixCache
from textlora.sampling import BalancedSampler
from textlora.tokenization import TextTokenizer, TokenIds, Tokenized
from textlora.trainer import (
    Collator,
    MicroBatchTrainer,
    Samples,
    scores_from,
)
from textlora.training.job import CACHED_SPLITS, Job
from textlora.types import MemoryEvent

LOG_ENTRIES = 50


class Trained:
    """What a finished training leaves in memory."""

    def __init__(
        self,
        trainer: MicroBatchTrainer,
        tokenizer: TextTokenizer,
        history: list[dict[str, float]],
        memory_events: list[MemoryEvent],
        clock: Clock,
    ) -> None:
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.history = history
        self.clock = clock
        self.memory_events = memory_events
        self.mean_loss = 0.0
        self.tokens = 0


def fit(job: Job, start: Checkpoint | None) -> Trained:
    """Train, from a checkpoint if one is given.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state was saved.
        ResourceError: memory ran out, and smaller micro-batches did not help.
    """
    tokenizer = job.tokenizer()
    train, validation = (_tokenize(job, tokenizer, name) for name in ("train", "validation"))
    torch.manual_seed(job.settings.seed)
    model = encoder.build_model(job.spec(), job.settings.lora, seed=job.settings.seed)
    clock = Clock(start.seal.seconds, start.seal.cpu_seconds) if start else Clock()
    entries, shortages = history.read_until(job.history, start.step) if start else ([], [])
    budget = _budget(job, shortages)
    cache = (
        _prefix_cache(job, model, _cached_texts(job, tokenizer, train, validation), window=tokenizer.max_length)
        if job.settings.compute.prefix_cache
        else None
    )
    trainer = _make_trainer(job, model, _Data(tokenizer, train, validation, cache), budget)
    trainer.make_seal = lambda: Seal(job.plan_fingerprint, job.dataset.fingerprint, clock.seconds, clock.cpu_seconds)
    trainer.on_sealed = job.backup.save_checkpoints if job.backup else None
    trainer.shortage_hint = f"{memory.LESS} {_resume_hint(job)}"
    stop = StopRequest()

    def record(entry: dict[str, float]) -> None:
        entries.append(entry)
        history.append(job.history, entry)
        if "eval_loss" in entry:
            job.passing.watch(entry)

    trainer.add_callback(Recorder(record, _steps(job)))
    trainer.add_callback(stop)
    arithmetic = encoder.arithmetic(job.settings.compute.precision or "fp32")
    shortage = memory.explained("training", hint=trainer.shortage_hint)
    with stopping_at_signals(stop), storage.disk_errors(job.checkpoint_root), arithmetic, shortage:
        output = trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    _raise_if_stopped(stop, job)
    trained = Trained(trainer, tokenizer, entries, shortages, clock)
    trained.mean_loss = history.mean_loss(entries, fallback=output.training_loss)
    trained.tokens = int(train.lengths.sum() * trainer.state.epoch)
    return trained


def _budget(job: Job, shortages: list[MemoryEvent]) -> Budget:
    """Return the plan's budget, or what earlier parts of this run were left with."""

    def note(event: MemoryEvent) -> None:
        shortages.append(event)
        history.append_shortage(job.history, event)

    planned = job.settings.compute.tokens_per_micro_batch or 0
    left = memory.persisted(shortages)
    return Budget(planned if left is None else left, processes=int(os.environ.get("WORLD_SIZE", "1")), on_event=note)


def _resume_hint(job: Job) -> str:
    return f"From the last checkpoint, if there is one: {job.passing.again}"


def _cached_texts(job: Job, tokenizer: TextTokenizer, train: Tokenized, validation: Tokenized) -> Sequence[TokenIds]:
    """Return the ids of all texts that the cache of the frozen layers shall hold."""
    texts: Sequence[TokenIds] = token_store.Joined(train.ids, validation.ids)
    for name in job.passing.cached_splits:
        if name not in CACHED_SPLITS:
            texts = token_store.Joined(texts, _tokenize(job, tokenizer, name).ids)
    return texts


def _prefix_cache(job: Job, model: Any, texts: Sequence[TokenIds], *, window: int) -> PrefixCache:
    settings, device = job.settings, job.settings.compute.device or "cpu"
    key = prefix.PrefixKey(
        base_fingerprint=base_fingerprint(job.base.folder),
        layers=job.base.layers - (settings.lora.top_layers or job.base.layers),
        precision=settings.compute.precision or "fp32",
        attention=settings.compute.attention or "eager",
        device=device,
        bits=settings.quantization.bits,
    )
    model.to(device)
    with encoder.arithmetic(key.precision):
        return prefix.open_or_build(
            model,
            texts,
            key,
            window=window,
            progress=lambda done, total, note: job.progress("frozen layers", done, total, note),
        )


def _steps(job: Job) -> Callable[[int, int, str], None]:
    return lambda done, total, note: job.progress("train", done, total, note)


class _Data:
    """Tokenized splits and how to cut them."""

    def __init__(
        self, tokenizer: TextTokenizer, train: Tokenized, validation: Tokenized, cache: PrefixCache | None
    ) -> None:
        self.tokenizer = tokenizer
        self.train = train
        self.validation = validation
        self.cache = cache


def _tokenize(job: Job, tokenizer: TextTokenizer, name: str) -> Tokenized:
    return token_store.open_or_build(
        job.folder / storage.TOKENS / name,
        job.dataset.splits()[name].texts,
        tokenizer,
        data=f"{job.dataset.fingerprint} {name}",
        progress=lambda done, total: job.progress(f"tokenize {name}", done, total, ""),
    )


def _make_trainer(job: Job, model: Any, data: _Data, budget: Budget) -> MicroBatchTrainer:
    settings = job.settings
    collator = Collator(
        pad_id=data.tokenizer.pad_id,
        limit=data.tokenizer.max_length,
        budget=budget,
        fixed=settings.text.padding == "max_length",
        packed=settings.compute.engine == "packed",
        start=data.cache.layers if data.cache else 0,
        task=job.dataset.task,
        classes=len(job.dataset.label_names),
    )
    score = multilabel_metrics.validation_scores if job.dataset.task == "multi_label" else metrics.validation_scores
    trainer = MicroBatchTrainer(
        model=model,
        args=_arguments(job, steps_per_epoch=math.ceil(len(data.train.ids) / settings.training.batch_size)),
        train_dataset=Samples(data.train.ids, job.dataset.train.labels, data.cache),
        eval_dataset=Samples(data.validation.ids, job.dataset.validation.labels, data.cache),
        data_collator=collator,
        compute_metrics=lambda result: scores_from(result.predictions, result.label_ids, score, task=job.dataset.task),
        callbacks=[MovedFolder(), MovementCheck(), *_early_stopping(settings.training.early_stopping_patience)],
    )
    trainer.loss = make_loss(settings.loss, job.dataset.task, job.dataset.label_names)
    if settings.loss.sampling == "balanced":
        trainer.sampler = BalancedSampler(np.asarray(job.dataset.train.labels), settings.seed)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _early_stopping(patience: int) -> list[Any]:
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []


def _arguments(job: Job, *, steps_per_epoch: int) -> TrainingArguments:
    training = job.settings.training
    device = job.settings.compute.device
    every = max(1, steps_per_epoch // training.evaluations_per_epoch)
    by_epoch = training.evaluations_per_epoch == 1
    total = math.ceil(steps_per_epoch * training.epochs)
    arguments = TrainingArguments(
        output_dir=str(job.checkpoint_root),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=_per_process(training.batch_size),
        per_device_eval_batch_size=training.eval_batch_size,
        learning_rate=training.learning_rate,
        # A whole number of steps from 1 on, a share of all steps below.
        warmup_steps=training.warmup_steps if training.warmup_steps < 1 else int(training.warmup_steps),
        weight_decay=training.weight_decay,
        lr_scheduler_type=training.lr_scheduler_type,
        max_grad_norm=training.max_grad_norm,
        seed=job.settings.seed,
        data_seed=job.settings.seed,
        eval_strategy="epoch" if by_epoch else "steps",
        save_strategy="epoch" if by_epoch else "steps",
        eval_steps=None if by_epoch else every,
        save_steps=every,
        save_total_limit=None,
        logging_steps=max(1, total // LOG_ENTRIES),
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model={"loss": "eval_loss", "accuracy": "eval_accuracy", "f1_macro": "eval_f1_macro"}[
            training.best_metric
        ],
        greater_is_better=training.best_metric != "loss",
        report_to=list(job.settings.tracking) or "none",
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=device == "cpu",
        fp16=device == "cuda" and job.settings.compute.precision == "fp16",
        dataloader_pin_memory=device == "cuda",
        # The patience of early stopping counts on after a resume.
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
    )
    # Several visible GPUs without a launcher would silently switch to DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _per_process(batch_size: int) -> int:
    return max(1, batch_size // int(os.environ.get("WORLD_SIZE", "1")))


def _raise_if_stopped(stop: StopRequest, job: Job) -> None:
    if stop.signal is None:
        return
    name = signal.Signals(stop.signal).name
    raise Interrupted(
        f"Stopped by {name}; the state of training is saved in {job.checkpoint_root}.",
        hint=f"Go on with: {job.passing.again}",
        exit_code=128 + stop.signal,
    )
