"""``tune``: a search for better settings on training and validation rows, and an honest word on what it found.

space: what is varied -> search: trial after trial (sampling: what to try; pruning: what to stop)
    -> judging: better, or lucky -> ``trials.json``, ``plan.toml``, ``best_plan.toml``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import models, planning, settings, storage
from textlora.errors import Interrupted, UsageError
from textlora.repeated import Ahead
from textlora.resampling import Units
from textlora.series import Progress
from textlora.trials import DEFAULT, TOLD_IMPORTANCE, Trial, Trials, Verdict
from textlora.tuning.judging import judge
from textlora.tuning.sampling import check_optuna, importance
from textlora.tuning.search import STAGE, Search, Task, predictions_of
from textlora.tuning.space import make_space
from textlora.types import Dataset, Plan

__all__ = ["STAGE", "check_trials", "load_trials", "tune"]

MADE_BY = "tune"
LEAST = 2
# How a trial is computed is no part of its recipe: it stays as the default has it.
KEPT = ("training.batch_size",)


def check_trials(trials: int) -> None:
    """Refuse to begin what can find nothing, or lacks its package.

    Raises:
        UsageError: fewer than two trials.
        ResourceError: optuna is missing or too old.
    """
    if trials < LEAST:
        raise UsageError(
            f"--trials {trials} is no search: the first one is the default, so {LEAST} at least are expected.",
            hint="For instance --trials 20.",
        )
    check_optuna()


def tune(  # noqa: PLR0913 - the options of plan(), and how far to search
    dataset: Dataset,
    *,
    trials: int = 20,
    minutes: float | None = None,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    plan_file: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    expect: Callable[[Ahead], None] | None = None,
) -> Trials:
    """Search for settings that do better on the validation split than the default.

    Trial 0 is the plan that would be made without a search. Searched are learning rate, rank, adapted
    layers, epochs, and the length policy where texts are cut, each unless ``assignments`` or the plan file
    give it a value. The test split is never looked at. A search of the same data and options in the data
    set's folder is gone on with; trials that have ended are never trained again.

    Writes ``trials.json`` after every trial, ``plan.toml`` with the recommended settings, and
    ``best_plan.toml`` with those of the best trial.

    Args:
        dataset: from ``prepare``; its folder gets the files.
        trials: in all, the default and those of earlier calls included.
        minutes: the trials may take, those of earlier calls included; None is no limit.
        base_model: hub id, local folder or ``embedded``.
        recipe: whose settings are the default.
        assignments: settings by dotted name, which stay as they are.
        plan_file: a ``plan.toml``, whole or in part; its settings stay as they are.
        progress: called with stage, trials done, trials in all and a note.
        command: the command line, for the files.
        expect: told before the first trial what is ahead.

    Raises:
        UsageError: nothing is left to search, or the folder holds another search.
        ResourceError: optuna is missing, or the limit is too short for the default.
        Others: what ``planning.plan`` and ``training.train`` raise.
    """
    check_trials(trials)
    options = {"base_model": base_model, "recipe": recipe, "plan_file": plan_file}
    default = planning.plan(dataset, assignments=assignments, **options)  # type: ignore[arg-type]
    from_file = planning.read_plan_settings(plan_file) if plan_file else {}
    fixed = {**from_file, **(assignments or {})}
    task = _task(dataset, default, options, assignments or {}, fixed, command)
    begun = replace(_begun(task, fixed), wanted=trials, minutes=minutes)
    if expect:
        expect(_ahead(task, begun))
    search = Search(task, begun, progress)
    try:
        found = search.run()
    except (Interrupted, KeyboardInterrupt):
        _finished(task, replace(search.found, ended="it was interrupted"))
        raise
    return _finished(task, found)


def load_trials(folder: Path) -> Trials:
    """Read ``trials.json`` of a folder.

    Raises:
        UsageError: there is none, or it is damaged or of another version.
    """
    return storage.read_noun(folder / storage.TRIALS, Trials, made_by=MADE_BY)


def _task(  # noqa: PLR0917 - the parts of a search
    dataset: Dataset,
    default: Plan,
    options: Mapping[str, Any],
    assignments: Mapping[str, Any],
    fixed: Mapping[str, Any],
    command: str,
) -> Task:
    base = default.settings.model
    layers = models.base_info(base.base_model, base.revision).layers
    space = make_space(default.settings, layers=layers, lengths=dataset.info.token_lengths, fixed=set(fixed))
    if not space.dimensions:
        raise UsageError(
            "Nothing is left to search: every searched setting has been given a value.",
            hint="Leave out one of these with --set: training.learning_rate, lora.r, lora.top_layers, training.epochs.",
        )
    values = settings.flatten(default.settings)
    kept = {name: values[name] for name in KEPT}

    def plan(changes: Mapping[str, Any]) -> Plan:
        # With a machine given nothing is rehearsed: that would take longer than some trials.
        return planning.plan(
            dataset, assignments={**assignments, **kept, **changes}, machine=default.machine, **options
        )

    return Task(dataset, default, space, plan, default.settings.seed, command)


def _begun(task: Task, fixed: Mapping[str, Any]) -> Trials:
    """Return what earlier calls have found, or an empty search.

    Raises:
        UsageError: the folder holds a search of other data or options.
    """
    default = task.default
    asked = {
        "recipe": default.recipe,
        "settings": _fingerprint(default),
        "fixed": {name: settings.show(name, value) for name, value in sorted(fixed.items())},
    }
    fresh = Trials(
        asked=asked,
        metric=default.settings.training.best_metric,
        rows=len(task.dataset.validation),
        space=task.space.told(),
        several_labels=task.dataset.task == "multi_label",
        dataset_fingerprint=task.dataset.fingerprint,
    )
    path = task.dataset.folder / storage.TRIALS
    if not path.exists():
        return fresh
    found = load_trials(task.dataset.folder)
    if (found.asked, found.space, found.dataset_fingerprint) != (asked, fresh.space, fresh.dataset_fingerprint):
        raise UsageError(
            f"{path} is of a search with other data or options.",
            hint="Choose another folder with --out, or replace the search in it with --overwrite.",
        )
    return found


def _ahead(task: Task, found: Trials) -> Ahead:
    """Return what is still to be done; a trial takes as long as the default, more or less."""
    each = task.default.estimate.train_seconds
    left = max(0, found.wanted - len(found.trials))
    seconds = left * each
    if found.minutes is not None:
        seconds = max(0.0, min(seconds, 60 * found.minutes - found.seconds))
    done = f", {len(found.trials)} of them done" if found.trials else ""
    told = f"{found.wanted} trials{done}; the default takes about {each:,.0f} s, others more or less"
    return Ahead(STAGE, told, seconds, seconds)


def _fingerprint(default: Plan) -> str:
    """Return the SHA-256 of what the default is; how it is computed may depend on the memory that is free."""
    values = settings.flatten(default.settings)
    return storage.fingerprint(f"{name}={value!r}" for name, value in values.items() if not name.startswith("compute."))


def _finished(task: Task, found: Trials) -> Trials:
    """Judge the search and write its plans."""
    enough = len(found.complete) >= TOLD_IMPORTANCE
    shares = importance(task.space, found.trials, seed=task.seed, sign=found.sign) if enough else {}
    found = replace(found, importance=shares, verdict=_verdict(task.dataset, found))
    best, recommended = found.best, found.recommended
    if best is not None and recommended is not None:
        planning.save_plan(task.dataset.folder / storage.BEST_PLAN, _plan_of(task, best, found))
        planning.save_plan(task.dataset.folder / storage.PLAN, _plan_of(task, recommended, found))
    storage.write_noun(task.dataset.folder / storage.TRIALS, found)
    return found


def _plan_of(task: Task, trial: Trial, found: Trials) -> Plan:
    """Return the plan of a trial, with the search as the reason of what it found."""
    if trial.number == DEFAULT:
        return task.default
    changes: dict[str, Any] = dict(trial.settings)
    if task.space.alpha_by_rank is not None and "lora.r" in changes:
        changes["lora.lora_alpha"] = changes["lora.r"] * task.space.alpha_by_rank
    made = task.plan(changes)
    reason = f"trial {trial.number} of {len(found.trials)} of a search (textlora tune)"
    told = dict.fromkeys(changes, reason)
    return replace(made, reasons={**made.reasons, **told})


def _verdict(dataset: Dataset, found: Trials) -> Verdict | None:
    """Compare the best trial with the default on the validation rows; None where it has no better score."""
    best, default = found.best, found.default
    if best is None or default is None or best.value == default.value:
        return None
    ours, theirs = (_right(dataset, number) for number in (best.number, DEFAULT))
    others = sum(trial.number != DEFAULT for trial in found.trials)
    units = Units.of_split(dataset.validation).numbers
    return judge(best.number, ours, theirs, comparisons=others, units=units)


def _right(dataset: Dataset, number: int) -> NDArray[np.int64]:
    """Return how many labels a trial has right on each validation row (N,)."""
    import pyarrow.parquet as pq

    table = pq.read_table(predictions_of(dataset, number), columns=["label", "prediction"])
    pairs = zip(table["label"].to_pylist(), table["prediction"].to_pylist(), strict=True)
    if dataset.task == "single_label":
        return np.array([label == prediction for label, prediction in pairs], np.int64)
    # Right are the labels that are had and given, or neither: all but those in one of the two alone.
    classes = len(dataset.label_names)
    return np.array([classes - len(set(had) ^ set(given)) for had, given in pairs], np.int64)
