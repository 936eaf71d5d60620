"""``train``: plan + data set to a run, through Trainer, PEFT and accelerate."""

from __future__ import annotations

import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from textlora import allocation, encoder, hardware, history, planning, storage
from textlora.backup import Backup
from textlora.errors import ResourceError, UsageError, did_you_mean
from textlora.training.fitting import Trained, fit
from textlora.training.job import Job, Passing, Progress, silent
from textlora.training.saving import check_reload, save
from textlora.types import Dataset, Plan, Run

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
    job = Job(plan, dataset, storage.make_folder(folder or dataset.folder), progress or silent, backup)
    job.passing = passing or job.passing
    job.take_from_backup(resume=resume)
    began = time.perf_counter()
    start = job.checkpoint_to_resume() if resume else None
    if start is None:
        job.clear()
    with _free_of_parallel_tokenizers():
        trained = fit(job, start)
    bundle, difference = save(job, trained)
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


def has_checkpoint(plan: Plan, dataset: Dataset, folder: Path, backup: Backup | None = None) -> bool:
    """Return whether a training of this plan and data can be resumed from ``folder`` or its backup."""
    job = Job(plan, dataset, folder, silent)
    there = backup and backup.newest(plan=job.plan_fingerprint, dataset=dataset.fingerprint)
    return bool(job.newest() or there)


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


def _describe(job: Job, trained: Trained, difference: float, command: str) -> Run:
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


__all__ = ["Passing", "Progress", "check_reload", "has_checkpoint", "load_run", "train"]
