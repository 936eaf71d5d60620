"""The steps of an audit, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from textlora import auditing, hardware, models, planning, storage
from textlora.auditing.conflicts import find_conflicts, find_outliers
from textlora.auditing.crossing import Crossing, Tell
from textlora.auditing.doubting import find_doubts
from textlora.auditing.members import Member, States, Words
from textlora.auditing.noise import estimate_errors
from textlora.auditing.nouns import Audit
from textlora.auditing.representing import represent
from textlora.auditing.review import write_review
from textlora.auditing.suspecting import find_suspects
from textlora.preparation.request import Request
from textlora.preparation.whole import Whole, prepare_whole
from textlora.settings import Settings
from textlora.tasks import TASKS, Floats, label_matrix
from textlora.types import Machine

BINS = 20
READING = {
    "text": "--text",
    "label": "--label",
    "labels": "--labels",
    "encoding": "--encoding",
    "data.label_separator": "--label-separator",
}
LIBRARIES = ("textlora", "cleanlab", "scikit-learn", "torch", "transformers")


def run(
    request: Request,
    out: Path,
    *,
    folds: int,
    assignments: Mapping[str, Any],
    key: str,
    progress: auditing.Progress,
) -> Audit:
    """Audit a file and write the review; see ``textlora.auditing.audit``."""
    began = time.perf_counter()
    # It may be missing; better to know before a large file is read.
    models.model_folder(request.settings.model.base_model, request.settings.model.revision)
    work = out / auditing.WORK
    whole = prepare_whole(
        request, out=work, folds=folds, progress=lambda stage, done, total: progress(stage, done, total or 0, "")
    )
    settings, machine = _settings(whole, assignments)
    states, width = represent(whole.dataset, settings, machine, folder=work, progress=progress)
    dataset = whole.dataset
    truth = label_matrix(dataset.train.labels, len(dataset.label_names))
    crossing = Crossing(truth, whole.folds, dataset.task, request.settings.seed)
    probabilities, description = _probabilities(crossing, _members(whole, states), progress)
    errors, surest = estimate_errors(truth, probabilities, dataset.task, whole.clusters)
    doubts = find_doubts(truth, probabilities, dataset.task)
    top = states.rows(slice(None), width)
    suspects = find_suspects(
        whole,
        truth,
        doubts,
        conflicts=find_conflicts(whole.clusters, truth, dataset.train.texts),
        outliers=find_outliers(top, whole.clusters, seed=request.settings.seed),
    )
    write_review(out / auditing.REVIEW, suspects)
    info = dataset.info
    return Audit(
        folder=out,
        source=info.source,
        text_column=info.text_column,
        label_column=info.label_column,
        unit=whole.unit,
        task=info.task,
        label_names=info.label_names,
        counts=info.counts,
        findings=info.findings,
        suspects=suspects,
        errors=errors,
        surest=surest,
        accuracy=_accuracy(truth, probabilities, crossing),
        folds=folds,
        base_model=settings.model.base_model,
        description=description,
        confidence=tuple(np.histogram(doubts.own, BINS, (0.0, 1.0))[0].tolist()),
        seed=request.settings.seed,
        seconds=time.perf_counter() - began,
        dataset_fingerprint=dataset.fingerprint,
        key=key,
        versions={name: version(name) for name in LIBRARIES},
        reading=_reading(info.options),
    )


def _reading(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options by which a file was read, as they stand on the command line."""
    words: list[str] = []
    for name, option in READING.items():
        if value := options.get(name):
            words += [option, value if isinstance(value, str) else ",".join(value)]
    return (*words, "--set", "data.clean_html=false") if options.get("data.clean_html") is False else tuple(words)


def _settings(whole: Whole, assignments: Mapping[str, Any]) -> tuple[Settings, Machine]:
    """Return resolved settings, of which base model, texts and arithmetic are used, and this machine."""
    machine = hardware.describe_machine(storage.cache_folder())
    chosen = {name: value for name, value in assignments.items() if not name.startswith("data.")}
    # The machine is named, so that nothing is rehearsed: no training follows.
    return planning.plan(whole.dataset, assignments=chosen, machine=machine).settings, machine


def _members(whole: Whole, states: States) -> list[Member]:
    words = Words.of(whole.dataset.train.texts)
    return [states] if words is None else [words, states]


def _probabilities(crossing: Crossing, members: list[Member], progress: auditing.Progress) -> tuple[Floats, str]:
    """Return the pooled out-of-fold probabilities (N, C), and in words where they come from."""
    answers = [crossing.out_of_fold(member, _named(progress, f"learn {member.name}")) for member in members]
    pooled, weights = crossing.pool(answers)
    parts = [f"{member.name} (weight {weight:.2f})" for member, weight in zip(members, weights, strict=True)]
    return pooled, f"logistic regression on {' and on '.join(parts)}"


def _named(progress: auditing.Progress, stage: str) -> Tell:
    return lambda done, total: progress(stage, done, total, "")


def _accuracy(truth: Any, probabilities: Floats, crossing: Crossing) -> float:
    """Return the share of rows whose labels are those that the classifiers give."""
    given = TASKS[crossing.task].decide(probabilities, ())
    return float((given == truth).all(axis=1).mean())
