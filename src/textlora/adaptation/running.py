"""Train a planned adaptation and put the encoder in its place."""

from __future__ import annotations

import platform
import shutil
import signal
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainingArguments

from textlora import checkpoints, encoder, hardware, history, memory, storage
from textlora.adaptation import card, folders
from textlora.adaptation import model as masked_model
from textlora.adaptation.nouns import Adaptation, Ending, perplexity
from textlora.adaptation.preparing import Job
from textlora.adaptation.steps import VALIDATION, MaskedTrainer, Milestones, PieceSet, Rates, TimeLimit
from textlora.callbacks import Clock, MovedFolder, Recorder, StopRequest, stopping_at_signals
from textlora.checkpoints import Checkpoint, Seal
from textlora.errors import Interrupted, ResourceError, TrainingError
from textlora.memory import Budget
from textlora.types import MemoryEvent

LOG_ENTRIES = 50
NEVER = 10**9
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors")
# Pieces compared after the reload, and by how much logits may differ: both compute in fp32.
RELOAD_PIECES, RELOAD_TOLERANCE = 8, 1e-4


class _Training:
    """One training on its way: trainer, clock, what was logged."""

    def __init__(self, job: Job, start: Checkpoint | None) -> None:
        self.job = job
        self.start = start
        self.clock = Clock(start.seal.seconds, start.seal.cpu_seconds) if start else Clock()
        self.entries: list[dict[str, float]] = []
        self.shortages: list[MemoryEvent] = []
        if start:
            self.entries, self.shortages = history.read_until(job.place.history, start.step)
        minutes = job.plan.settings.limits.minutes
        self.limit = TimeLimit(minutes * 60 - _closing_seconds(job), self.clock) if minutes else None
        self.stop = StopRequest()
        self.trainer = self._trainer()

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state was saved.
            TrainingError: a loss that is not a number.
            ResourceError: memory ran out, or the disk is full.
        """
        place, trainer = self.job.place, self.trainer
        arithmetic = encoder.arithmetic(self.job.plan.settings.compute.precision or "fp32")
        shortage = memory.explained("adapting", hint=trainer.shortage_hint)
        with stopping_at_signals(self.stop), storage.disk_errors(place.checkpoints), arithmetic, shortage:
            if not self.start:
                self._note_start()
            trainer.train(resume_from_checkpoint=str(self.start.folder) if self.start else None)
        self._raise_if_stopped()
        self._raise_if_untrained()

    def _note_start(self) -> None:
        loss = self.trainer.held_out_loss()
        self._record({"step": 0, "eval_loss": loss, "eval_perplexity": perplexity(loss)})

    def _record(self, entry: dict[str, float]) -> None:
        self.entries.append(entry)
        history.append(self.job.place.history, entry)

    def _note_shortage(self, event: MemoryEvent) -> None:
        self.shortages.append(event)
        history.append_shortage(self.job.place.history, event)

    def _trainer(self) -> MaskedTrainer:
        job, settings = self.job, self.job.plan.settings
        left = memory.persisted(self.shortages)
        budget = Budget(
            (settings.compute.tokens_per_micro_batch or 0) if left is None else left, on_event=self._note_shortage
        )
        rates = _rates(job)
        patience = settings.training.early_stopping_patience
        trainer = MaskedTrainer(
            passes=job.passes,
            budget=budget,
            rates=rates,
            held_out=job.corpus.held_out,
            model=job.model,
            args=_arguments(job),
            train_dataset=PieceSet(job.corpus.train),
            eval_dataset=PieceSet(job.corpus.held_out),
            callbacks=[
                MovedFolder(),
                Milestones(rates, settings.training.evaluations),
                *([EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []),
                *([self.limit] if self.limit else []),
                Recorder(self._record, lambda done, total, note: job.progress("adapt", done, total, note)),
                self.stop,
            ],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.make_seal = lambda: Seal(
            job.fingerprint, job.plan.corpus.fingerprint, self.clock.seconds, self.clock.cpu_seconds
        )
        trainer.shortage_hint = f"{memory.LESS} From the last checkpoint, if there is one: the same command again."
        return trainer

    def _raise_if_stopped(self) -> None:
        if self.stop.signal is not None:
            raise Interrupted(
                f"Stopped by {signal.Signals(self.stop.signal).name}; the state is saved in {self.job.place.work}.",
                hint="Go on with the same command.",
                exit_code=128 + self.stop.signal,
            )

    def _raise_if_untrained(self) -> None:
        done, alone = self.trainer.state.global_step, self.job.plan.head_steps
        if done < alone:
            raise ResourceError(
                f"The time limit was reached before the encoder was trained: after {done} of the {alone} steps of the head alone.",
                hint="Raise --time-limit; this machine is slower than it was when the limit was planned with.",
            )

    def ending(self) -> Ending:
        """Return why training ended."""
        if self.limit and self.limit.reached:
            return "time limit"
        return "no gain" if self.trainer.state.global_step < self.trainer.state.max_steps else "planned"


def _closing_seconds(job: Job) -> float:
    """Return what comes after the last step: a validation, a checkpoint, the encoder."""
    terms = job.plan.estimate.seconds_by_term
    return terms["validation"] / 2 + terms["saving"]


def _rates(job: Job) -> Rates:
    plan, training = job.plan, job.plan.settings.training
    rest = plan.steps - plan.head_steps
    warmup = training.warmup_steps * rest if training.warmup_steps < 1 else training.warmup_steps
    return Rates(
        peak=training.learning_rate,
        steps=plan.steps,
        warmup=int(warmup),
        head_peak=plan.settings.head.learning_rate,
        head_steps=plan.head_steps,
        weight_decay=training.weight_decay,
    )


def _arguments(job: Job) -> TrainingArguments:
    settings, device = job.plan.settings, job.plan.settings.compute.device
    arguments = TrainingArguments(
        output_dir=str(job.place.checkpoints),
        max_steps=job.plan.steps,
        per_device_train_batch_size=settings.training.batch_size,
        learning_rate=settings.training.learning_rate,
        max_grad_norm=settings.training.max_grad_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        # Milestones ask for validations and checkpoints.
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=NEVER,
        save_steps=NEVER,
        save_total_limit=None,
        logging_steps=max(1, job.plan.steps // LOG_ENTRIES),
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        fp16=device == "cuda" and settings.compute.precision == "fp16",
        dataloader_pin_memory=False,
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
    )
    # Several visible GPUs without a launcher would silently switch to DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def train(job: Job) -> Adaptation:
    """Train, from the newest whole checkpoint of the same plan if there is one, and write the encoder.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the same call again goes on.
        TrainingError: a loss that is not a number, or the saved encoder is not the trained one.
        ResourceError: memory ran out, or the disk is full.
    """
    place = job.place
    start = checkpoints.newest(place.checkpoints, plan=job.fingerprint, dataset=job.plan.corpus.fingerprint)
    if not start:
        checkpoints.clear(place.checkpoints)
        storage.write_text(place.history, "")
        storage.write_noun(place.plan, job.plan)
    training = _Training(job, start)
    training.run()
    made = _describe(job, training)
    with storage.atomic_folder(place.out) as temporary:
        masked_model.save_encoder(job.model, job.request.info.folder, temporary)
        storage.write_noun(temporary / folders.ADAPTATION, made)
        (temporary / card.CARD).write_text(card.write(made), encoding="utf-8")
        job.progress("check reload", 0, 1, "")
        _check_reload(job, temporary)
        job.progress("check reload", 1, 1, "")
    shutil.rmtree(place.work, ignore_errors=True)
    return made


def _describe(job: Job, training: _Training) -> Adaptation:
    state = training.trainer.state
    plan = job.plan
    seconds = training.clock.seconds
    before = next(
        entry["eval_loss"] for entry in training.entries if entry["step"] == plan.head_steps and "eval_loss" in entry
    )
    tokens = plan.corpus.tokens / plan.corpus.pieces * plan.settings.training.batch_size * state.global_step
    return Adaptation(
        folder=job.place.out,
        base_model=plan.base_model,
        architecture=plan.architecture,
        plan=plan,
        loss_before=before,
        loss_after=float(state.best_metric if state.best_metric is not None else before),
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        ending=training.ending(),
        seconds=seconds,
        cpu_seconds=training.clock.cpu_seconds,
        peak_memory_gb=hardware.peak_memory_gb(),
        tokens_per_second=tokens / seconds,
        history=tuple(training.entries),
        memory_events=tuple(training.shortages),
        versions={
            "python": platform.python_version(),
            "textlora": version("textlora"),
            **{name: version(name) for name in LIBRARIES},
        },
    )


def _check_reload(job: Job, folder: Path) -> None:
    """Load what was saved, and compare its answers with those of the trained model.

    Raises:
        TrainingError: they differ.
    """
    attention = job.plan.settings.compute.attention or "eager"
    saved, fresh = masked_model.load(folder, attention=attention, seed=0)
    saved.to(job.model.device)
    count = min(RELOAD_PIECES, len(job.corpus.held_out))
    ids = [job.corpus.held_out[place] for place in range(count)]
    pieces = job.passes.masking.mask_all(ids, (job.plan.settings.seed, VALIDATION))
    passes = replace(job.passes, dtype=torch.float32)
    difference = 0.0
    with torch.no_grad():
        for batch in passes.cut(pieces, job.plan.settings.compute.tokens_per_micro_batch or 0):
            inputs = _inputs(batch, job.model.device)
            first, second = (masked_model.logits(one, inputs, torch.float32) for one in (job.model, saved))
            difference = max(difference, float((first - second).abs().max()))
    if fresh or not difference <= RELOAD_TOLERANCE:
        raise TrainingError(
            f"The saved encoder differs from the trained one: logits by {difference:.2g}, weights missing: {len(fresh)}.",
            hint=f"Please report this with the base model's name; the checkpoints are kept in {job.place.work}.",
        )


def _inputs(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    kept = {name: value for name, value in batch.items() if name not in ("labels", "pieces")}
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in kept.items()}
