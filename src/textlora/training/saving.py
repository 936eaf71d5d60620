"""From trained weights to the bundle, reloaded and compared."""

from __future__ import annotations

import heapq
import warnings
from dataclasses import replace
from pathlib import Path

from textlora import (
    memory,
    planning,
    storage,
)
from textlora.bundles import make_bundle
from textlora.classifier import Classifier
from textlora.deciding import Unreached, fit_decision
from textlora.drifting import measure_drift, over_full_precision
from textlora.errors import TextloraWarning, TrainingError
from textlora.reloading import reload_difference, reload_difference_here
from textlora.training.fitting import Trained
from textlora.training.job import Job
from textlora.types import Bundle, Dataset, Drift

# Texts compared after the reload: the longest and the first of the validation split.
RELOAD_TEXTS = 8
# The fresh process repeats the same arithmetic; on a GPU kernels may be chosen differently.
RELOAD_TOLERANCE = {"cpu": 1e-6, "mps": 1e-3, "cuda": 2e-2}


def save(job: Job, trained: Trained) -> tuple[Bundle, float]:
    """Save the bundle, load it in a fresh process, and return it with the largest difference of logits."""
    memory.tidy()
    attention = planning.prediction_attention(job.settings, job.plan.machine)
    budgets = (memory.persisted(trained.memory_events), job.settings.prediction_tokens)
    budget = min(filter(None, budgets), default=None)
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
    tolerance = RELOAD_TOLERANCE[classifier.device]
    if not difference <= tolerance:
        raise TrainingError(
            f"The saved classifier differs from the trained one after a reload: logits by {difference:.2g}, allowed {tolerance:g}.",
            hint="Please report this with the base model's name; the checkpoints are kept.",
        )
    return difference


def _decided(job: Job, classifier: Classifier) -> Bundle:
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


def _drift(job: Job, classifier: Classifier) -> Drift:
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
