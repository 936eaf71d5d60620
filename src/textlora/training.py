"""``train``: plan + data set to a run, through Trainer, PEFT and accelerate."""

from __future__ import annotations

import heapq
import math
import os
import platform
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from textlora import (
    allocation,
    checkpoints,
    encoder,
    hardware,
    history,
    memory,
    metrics,
    models,
    multilabel_metrics,
    planning,
    prefix,
    storage,
    token_store,
)
from textlora.backup import Backup
from textlora.checkpoints import Checkpoint, Seal
from textlora.classifier import (
    Classifier,
    base_fingerprint,
    make_bundle,
    measure_drift,
    over_full_precision,
    reload_difference,
    reload_difference_here,
)
from textlora.deciding import Unreached, fit_decision
from textlora.encoder import EncoderSpec
from textlora.errors import Interrupted, ResourceError, TextloraWarning, TrainingError, UsageError, did_you_mean
from textlora.losses import make_loss
from textlora.memory import Budget
from textlora.prefix import PrefixCache
from textlora.sampling import BalancedSampler
from textlora.tokenization import TextTokenizer, TokenIds, Tokenized
from textlora.trainer import (
    Clock,
    Collator,
    MicroBatchTrainer,
    MovedFolder,
    MovementCheck,
    Recorder,
    Samples,
    StopRequest,
    scores_from,
    stopping_at_signals,
)
from textlora.types import Bundle, Dataset, Drift, MemoryEvent, Plan, Run
from textlora.windows import LengthPolicy

# progress(stage, done, total, note)
Progress = Callable[[str, int, int, str], None]
LOG_ENTRIES = 50
CACHED_SPLITS = ("train", "validation")
# Texts compared after the reload: the longest and the first of the validation split.
RELOAD_TEXTS = 8
# The fresh process repeats the same arithmetic; on a GPU kernels may be chosen differently.
RELOAD_TOLERANCE = {"cpu": 1e-6, "mps": 1e-3, "cuda": 2e-2}
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "scikit-learn", "pyarrow")


def train(  # noqa: PLR0913 - what, where, from where on, and three ways to tell of it
    plan: Plan,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    resume: bool = False,
    backup: Backup | None = None,
    progress: Progress | None = None,
    command: str = "",
    passing: Passing | None = None,
) -> Run:
    """Fine-tune the plan's base model on the training split.

    Args:
        plan: resolved settings, made for this data set.
        dataset: prepared data; the test split is not looked at.
        folder: where adapter, checkpoints and ``run.json`` go; the data set's folder by default.
        resume: go on from the newest whole checkpoint of this plan and data, in the run folder or the backup.
        backup: gets a copy of the run folder with every checkpoint; a failure there is a
            ``TextloraWarning``.
        progress: called with stage, steps done, steps in all and a short note.
        command: the command line that reproduces the run, for the report.
        passing: for one of several trainings, which has no life of its own.

    Raises:
        UsageError: the plan belongs to other data, there is nothing to resume, or the backup is of
            another training.
        TrainingError: a loss that is not a number, wrong weights moved, or the saved classifier
            does not answer as the trained one.
        ResourceError: memory ran out, and smaller micro-batches did not help.
        Interrupted: Ctrl-C or SIGTERM; the state was saved.
    """
    allocation.keep_freed_memory()
    hardware.watch_gpu_memory()
    planning.check_plan(plan, dataset)
    _check_trackers(plan.settings.tracking)
    job = _Job(plan, dataset, storage.make_folder(folder or dataset.folder), progress or _silent, backup)
    job.passing = passing or job.passing
    job.take_from_backup(resume=resume)
    began = time.perf_counter()
    start = job.checkpoint_to_resume() if resume else None
    if start is None:
        job.clear()
    with _free_of_parallel_tokenizers():
        trained = _fit(job, start)
    bundle, difference = _save(job, trained)
    run = replace(_describe(job, trained, difference, command), bits=bundle.bits, drift=bundle.drift)
    run = replace(
        run,
        stage_seconds=time.perf_counter() - began,
        predicted_seconds=plan.estimate.train_seconds,
        predicted_memory_gb=plan.estimate.train_memory_gb,
        predicted_gpu_memory_gb=plan.estimate.train_gpu_memory_gb,
    )
    storage.write_noun(job.folder / storage.RUN, run)
    # Of use to a resume only.
    shutil.rmtree(job.folder / storage.TOKENS, ignore_errors=True)
    if backup:
        backup.save_files()
    return run


def load_run(folder: Path) -> Run:
    """Read ``run.json`` of a run folder.

    Raises:
        UsageError: there is none, or it is of another version.
    """
    # A folder that was moved or copied is where it is now.
    return replace(storage.read_noun(folder / storage.RUN, Run, made_by="train"), folder=folder)


def _check_trackers(names: Sequence[str]) -> None:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    known = sorted(INTEGRATION_TO_CALLBACK)
    unknown = [f"There is no tracker {name!r}.{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise UsageError("Cannot use tracking:", problems=unknown, hint=f"Trackers: {', '.join(known)}.")
    installed = get_available_reporting_integrations()
    missing = [name for name in names if name not in installed]
    if missing:
        raise ResourceError(
            f"Not installed: {', '.join(missing)}, named in tracking.", hint=f"pip install {' '.join(missing)}"
        )


def _silent(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Passing:
    """What is otherwise about a training that is one of several.

    Attributes:
        again: what goes on with it when it was stopped, for messages.
        cached_splits: whose texts share a cache of the frozen layers, where there is one; trainings on other
            divisions of the same rows find it again if it holds them all.
        fresh_reload: compare the saved classifier with the trained one in a fresh process, and not in this one.
        watch: told the log entry of each validation; what it raises ends the training.
    """

    again: str
    cached_splits: Sequence[str] = CACHED_SPLITS
    fresh_reload: bool = True
    watch: Callable[[dict[str, float]], None] = _silent


class _Job:
    """One training: its inputs, its folder, and what is derived from them."""

    def __init__(
        self, plan: Plan, dataset: Dataset, folder: Path, progress: Progress, backup: Backup | None = None
    ) -> None:
        self.plan = plan
        self.dataset = dataset
        self.folder = folder
        self.progress = progress
        self.backup = backup
        self.passing = Passing(again=f"textlora train {folder} --resume")
        self.settings = plan.settings
        self.base = models.base_info(self.settings.model.base_model, _hub_revision(plan))
        self.plan_fingerprint = planning.plan_fingerprint(plan)

    @property
    def checkpoint_root(self) -> Path:
        return self.folder / storage.CHECKPOINTS

    @property
    def history(self) -> Path:
        return self.folder / storage.HISTORY

    def newest(self) -> Checkpoint | None:
        return checkpoints.newest(self.checkpoint_root, plan=self.plan_fingerprint, dataset=self.dataset.fingerprint)

    def take_from_backup(self, *, resume: bool) -> None:
        if self.backup is None:
            return
        plan, dataset = self.plan_fingerprint, self.dataset.fingerprint
        self.backup.check(plan=plan, dataset=dataset, resume=resume)
        if resume:
            self.backup.restore_checkpoints(plan=plan, dataset=dataset)
        self.backup.save_files()

    def checkpoint_to_resume(self) -> Checkpoint:
        found = self.newest()
        if found is None:
            raise UsageError(
                f"{self.checkpoint_root} holds no whole checkpoint of this plan and data.",
                hint=f"Start from the beginning: textlora train {self.folder}",
            )
        return found

    def clear(self) -> None:
        checkpoints.clear(self.checkpoint_root)
        (self.folder / storage.RUN).unlink(missing_ok=True)
        storage.write_text(self.history, "")

    def spec(self) -> EncoderSpec:
        compute = self.settings.compute
        return EncoderSpec(
            folder=self.base.folder,
            label_names=self.dataset.label_names,
            precision=compute.precision or "fp32",
            attention=compute.attention or "eager",
            trunk_dropout=self.settings.training.trunk_dropout,
            bits=self.settings.quantization.bits,
            task=self.dataset.task,
        )

    def tokenizer(self) -> TextTokenizer:
        policy = LengthPolicy.of_settings(self.settings.text, max_length=self.base.max_length)
        return TextTokenizer.load(self.base.folder, policy, base_model=self.base.name)


class _Trained:
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


def _hub_revision(plan: Plan) -> str | None:
    revision = plan.settings.model.revision
    return None if revision in ("local", "embedded") else revision


def has_checkpoint(plan: Plan, dataset: Dataset, folder: Path, backup: Backup | None = None) -> bool:
    """Return whether a training of this plan and data can be resumed from ``folder`` or its backup."""
    job = _Job(plan, dataset, folder, _silent)
    there = backup and backup.newest(plan=job.plan_fingerprint, dataset=dataset.fingerprint)
    return bool(job.newest() or there)


@contextmanager
def _free_of_parallel_tokenizers() -> Iterator[None]:
    """Keep tokenizers from warning about forks of worker processes."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)


def _fit(job: _Job, start: Checkpoint | None) -> _Trained:
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
    trained = _Trained(trainer, tokenizer, entries, shortages, clock)
    trained.mean_loss = history.mean_loss(entries, fallback=output.training_loss)
    trained.tokens = int(train.lengths.sum() * trainer.state.epoch)
    return trained


def _budget(job: _Job, shortages: list[MemoryEvent]) -> Budget:
    """Return the plan's budget, or what earlier parts of this run were left with."""

    def note(event: MemoryEvent) -> None:
        shortages.append(event)
        history.append_shortage(job.history, event)

    planned = job.settings.compute.tokens_per_micro_batch or 0
    left = memory.persisted(shortages)
    return Budget(planned if left is None else left, processes=int(os.environ.get("WORLD_SIZE", "1")), on_event=note)


def _resume_hint(job: _Job) -> str:
    return f"From the last checkpoint, if there is one: {job.passing.again}"


def _cached_texts(job: _Job, tokenizer: TextTokenizer, train: Tokenized, validation: Tokenized) -> Sequence[TokenIds]:
    """Return the ids of all texts that the cache of the frozen layers shall hold."""
    texts: Sequence[TokenIds] = token_store.Joined(train.ids, validation.ids)
    for name in job.passing.cached_splits:
        if name not in CACHED_SPLITS:
            texts = token_store.Joined(texts, _tokenize(job, tokenizer, name).ids)
    return texts


def _prefix_cache(job: _Job, model: Any, texts: Sequence[TokenIds], *, window: int) -> PrefixCache:
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


def _steps(job: _Job) -> Callable[[int, int, str], None]:
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


def _tokenize(job: _Job, tokenizer: TextTokenizer, name: str) -> Tokenized:
    return token_store.open_or_build(
        job.folder / storage.TOKENS / name,
        job.dataset.splits()[name].texts,
        tokenizer,
        data=f"{job.dataset.fingerprint} {name}",
        progress=lambda done, total: job.progress(f"tokenize {name}", done, total, ""),
    )


def _make_trainer(job: _Job, model: Any, data: _Data, budget: Budget) -> MicroBatchTrainer:
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


def _arguments(job: _Job, *, steps_per_epoch: int) -> TrainingArguments:
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


def _raise_if_stopped(stop: StopRequest, job: _Job) -> None:
    if stop.signal is None:
        return
    name = signal.Signals(stop.signal).name
    raise Interrupted(
        f"Stopped by {name}; the state of training is saved in {job.checkpoint_root}.",
        hint=f"Go on with: {job.passing.again}",
        exit_code=128 + stop.signal,
    )


def _save(job: _Job, trained: _Trained) -> tuple[Bundle, float]:
    """Save the bundle, load it in a fresh process, and return it with the largest difference of logits."""
    memory.tidy()
    attention = planning.prediction_attention(job.settings, job.plan.machine)
    budget = memory.persisted(trained.memory_events)
    bundle = make_bundle(job.plan, job.base, job.dataset, attention=attention, budget=budget)
    classifier = Classifier(trained.trainer.model.eval(), trained.tokenizer, bundle)
    classifier.bundle = bundle = _decided(job, classifier)
    if bundle.bits:
        classifier.bundle = bundle = replace(bundle, drift=_drift(job, classifier))
    adapter = classifier.save_pretrained(job.folder / storage.ADAPTER)
    job.progress("check reload", 0, 1, "")
    # The fresh process needs room of its own.
    memory.tidy()
    difference = check_reload(classifier, adapter, job.dataset, fresh=job.passing.fresh_reload)
    job.progress("check reload", 1, 1, f"difference {difference:.1g}")
    return bundle, difference


def check_reload(classifier: Classifier, adapter: Path, dataset: Dataset, *, fresh: bool = True) -> float:
    """Return by how much the logits of the saved classifier differ from those of the one in memory, at most.

    Args:
        classifier: in memory.
        adapter: where it was saved.
        dataset: its validation texts are compared.
        fresh: load it in a fresh process, which is what users will do, and not in this one.

    Raises:
        TrainingError: they differ by more than arithmetic does.
    """
    compare = reload_difference if fresh else reload_difference_here
    difference = compare(classifier, adapter, _reload_texts(dataset))
    tolerance = RELOAD_TOLERANCE[classifier.model.device.type]
    if not difference <= tolerance:
        raise TrainingError(
            f"The saved classifier differs from the trained one after a reload: logits by {difference:.2g}, allowed {tolerance:g}.",
            hint="Please report this with the base model's name; the checkpoints are kept.",
        )
    return difference


def _decided(job: _Job, classifier: Classifier) -> Bundle:
    """Fit temperature and decision on the validation rows, to the logits that users will get."""
    validation = job.dataset.validation
    logits = classifier.logits(
        validation.texts, progress=lambda done, total: job.progress("calibrate", done, total, "")
    )
    try:
        return fit_decision(classifier.bundle, logits, validation, job.settings)
    except Unreached as error:
        # A long training is not thrown away for it.
        warnings.warn(_unreached(error, job.folder), TextloraWarning, stacklevel=2)
        usual = job.settings.decision.model_copy(update={"goal": None, "positive": None})
        return fit_decision(classifier.bundle, logits, validation, job.settings.model_copy(update={"decision": usual}))


def _unreached(error: Unreached, folder: Path) -> str:
    found = " ".join([error.message, *error.problems])
    return f"{found} The usual decision is kept; another goal needs no training: textlora decide {folder} --goal GOAL"


def _drift(job: _Job, classifier: Classifier) -> Drift:
    """Measure what full-precision base weights would change: a merged model has them."""
    job.progress("measure drift", 0, 1, "")
    full = over_full_precision(classifier, job.base.folder)
    drift = measure_drift(classifier, full, job.dataset.validation, name="validation")
    job.progress("measure drift", 1, 1, f"{drift.flipped} of {drift.texts} labels change over full-precision weights")
    return drift


def _reload_texts(dataset: Dataset) -> list[str]:
    texts = dataset.validation.texts
    longest = heapq.nlargest(RELOAD_TEXTS // 2, texts, key=len)
    return [*texts[: RELOAD_TEXTS // 2], *longest]


def _describe(job: _Job, trained: _Trained, difference: float, command: str) -> Run:
    state = trained.trainer.state
    total, trainable = encoder.parameter_counts(trained.trainer.model)
    seconds = trained.clock.seconds
    return Run(
        folder=job.folder,
        base_model=job.base.name,
        architecture=type(trained.trainer.model.get_base_model()).__name__,
        recipe=job.plan.recipe,
        seed=job.settings.seed,
        label_names=job.dataset.label_names,
        history=tuple(trained.history),
        epochs=float(state.epoch or 0.0),
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        best_metric=float(state.best_metric if state.best_metric is not None else math.nan),
        final_training_loss=history.final_loss(trained.history, fallback=trained.mean_loss),
        mean_training_loss=trained.mean_loss,
        total_parameters=total,
        trainable_parameters=trainable,
        seconds=seconds,
        cpu_seconds=trained.clock.cpu_seconds,
        peak_memory_gb=hardware.peak_memory_gb(),
        peak_gpu_memory_gb=hardware.peak_gpu_memory_gb(),
        tokens_per_second=trained.tokens / seconds,
        reload_difference=difference,
        stopped_early=state.global_step < state.max_steps,
        versions={
            "python": platform.python_version(),
            "textlora": version("textlora"),
            **{name: version(name) for name in LIBRARIES},
        },
        dataset_fingerprint=job.dataset.fingerprint,
        plan_fingerprint=job.plan_fingerprint,
        command=command,
        memory_events=tuple(trained.memory_events),
    )


__all__ = ["Passing", "Progress", "ResourceError", "check_reload", "has_checkpoint", "load_run", "train"]
