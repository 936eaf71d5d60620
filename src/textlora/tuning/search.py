"""The search: one trial after the other, each told to the next, until there are enough or time is up."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textlora import evaluation, hardware, memory, series, storage
from textlora.classifier import Classifier
from textlora.errors import ResourceError, TrainingError
from textlora.series import Progress
from textlora.training import Passing
from textlora.trials import DEFAULT, Trial, Trials
from textlora.tuning.pruning import lies_behind, noise_of
from textlora.tuning.sampling import suggest
from textlora.tuning.space import Space
from textlora.types import Dataset, Plan, Run

STAGE = "trials"
# A trial is begun although its prediction may be off by so much.
MARGIN = 1.1
# Suggestions that are looked at for one that fits into the time that is left.
ATTEMPTS = 8
# A cache of frozen layers may take this share of what is free on its disk.
CACHE_SHARE = 0.5
SCORES = {"accuracy": "eval_accuracy", "f1_macro": "eval_f1_macro", "loss": "eval_loss"}
TIME_IS_UP = "the time limit was reached"


@dataclass(frozen=True, slots=True)
class Task:
    """What is searched.

    Attributes:
        dataset: training and validation split are used; its folder gets the results.
        default: the plan without a search; its own values are trial 0.
        space: the searched settings.
        plan: returns the plan of a trial for its assignments, with an estimate from rough rates.
        seed: of the suggestions; every trial is trained with the plan's own.
        command: for the runs.
    """

    dataset: Dataset
    default: Plan
    space: Space
    plan: Callable[[Mapping[str, Any]], Plan]
    seed: int
    command: str = ""

    @property
    def folder(self) -> Path:
        """Where the trials are trained."""
        return self.dataset.folder / storage.TRIAL_RUNS


class _Pruned(Exception):
    """Lies behind."""


class _TimeIsUp(Exception):
    """The limit was reached within a trial."""


class Search:
    """A search under way.

    Args:
        task: what is searched.
        found: trials of earlier calls, and how far to go.
        progress: called with trials done, trials in all, and a note.
    """

    def __init__(self, task: Task, found: Trials, progress: Progress | None) -> None:
        self._task = task
        self.found = found
        self._progress = progress
        self._metric = task.default.settings.training.best_metric
        self._began = 0.0
        self._curve: list[tuple[float, float]] = []

    def run(self) -> Trials:
        """Train trial after trial; every one that has ended is on disk.

        Raises:
            ResourceError: the default alone does not fit into the limit.
            Interrupted: Ctrl-C or SIGTERM; what has ended stays.
            Others: what ``training.train`` raises, if it is the default that fails.
        """
        ended = ""
        while not ended and len(self.found.trials) < self.found.wanted:
            ended = self._next()
        self._tell("")
        self.found = replace(self.found, ended=ended)
        return self.found

    # -- one trial -------------------------------------------------------------------------------

    def _next(self) -> str:
        """Train the next trial; return why there is none."""
        number = len(self.found.trials)
        proposed = self._proposed(number)
        if proposed is None:
            return "no further trial fits into the limits"
        drawn, plan = proposed
        self._began, self._curve = time.monotonic(), []
        trial = Trial(number, drawn, "complete", estimated_seconds=plan.estimate.train_seconds)
        try:
            trial = self._trained(trial, plan)
        except _TimeIsUp:
            return self._out_of_time(number)
        self._add(replace(trial, seconds=time.monotonic() - self._began))
        return ""

    def _out_of_time(self, number: int) -> str:
        if number == DEFAULT:
            raise ResourceError(
                f"The time limit of {self.found.minutes:g} minutes ended before the first trial did.",
                hint="Raise --time-limit, or take a share of the rows: --sample 0.2",
            )
        return TIME_IS_UP

    def _proposed(self, number: int) -> tuple[dict[str, Any], Plan] | None:
        """Return settings and plan of a trial that fits into the time that is left; None where there is none."""
        space = self._task.space
        if number == DEFAULT:
            self._check_default()
            drawn = space.searched(self._task.default.settings)
            # The default itself, with an estimate of the same kind as the others'.
            return drawn, self._lean(replace(self._task.plan(drawn), settings=self._task.default.settings))
        for attempt in range(ATTEMPTS):
            suggested = suggest(
                space, self.found.trials, seed=self._task.seed, number=number, attempt=attempt, sign=self.found.sign
            )
            assignments = space.assignments(suggested)
            plan = self._planned(assignments)
            if plan and self._fits(plan):
                return {name: assignments[name] for name in self.found.space}, plan
        return None

    def _planned(self, assignments: Mapping[str, Any]) -> Plan | None:
        """Return a trial's plan; None where it cannot keep the user's limits of memory or disk."""
        try:
            return self._lean(self._task.plan(assignments))
        except ResourceError:
            return None

    def _check_default(self) -> None:
        predicted, minutes = self._task.default.estimate.train_seconds, self.found.minutes
        if minutes is not None and predicted * MARGIN > 60 * minutes:
            raise ResourceError(
                f"The default alone takes about {predicted / 60:.1f} minutes of the {minutes:g} that the search may take.",
                hint="Raise --time-limit, take a share of the rows (--sample 0.2), or --recipe fast.",
            )

    def _fits(self, plan: Plan) -> bool:
        left = self._seconds_left()
        return left is None or self._predicted(plan) * MARGIN <= left

    def _predicted(self, plan: Plan) -> float:
        """Return the seconds that a trial will take: the rough estimate, corrected by what others took."""
        ratios = [trial.seconds / trial.estimated_seconds for trial in self.found.complete if trial.estimated_seconds]
        return plan.estimate.train_seconds * (statistics.median(ratios) if ratios else 1.0)

    def _seconds_left(self) -> float | None:
        return None if self.found.minutes is None else 60 * self.found.minutes - self.found.seconds

    def _lean(self, plan: Plan) -> Plan:
        """Return the plan without a cache of the frozen layers that its disk has no room for."""
        needed = plan.estimate.disk_by_term.get("frozen layers", 0.0)
        if needed <= CACHE_SHARE * hardware.free_disk_gb(storage.cache_folder()):
            return plan
        compute = plan.settings.compute.model_copy(update={"prefix_cache": False})
        return replace(plan, settings=plan.settings.model_copy(update={"compute": compute}))

    def _trained(self, trial: Trial, plan: Plan) -> Trial:
        folder = self._task.folder / str(trial.number)
        self._curve = self._curve_so_far(folder, plan)
        passing = Passing(series.AGAIN, fresh_reload=False, watch=lambda entry: self._watch(trial, plan, entry))
        try:
            run = series.train_or_resume(
                plan, self._task.dataset, folder, progress=self._step, command=self._task.command, passing=passing
            )
        except _Pruned:
            self._forget(folder)
            return self._reached(trial, "pruned")
        except (TrainingError, ResourceError) as error:
            # A full disk would fail all trials to come.
            if trial.number == DEFAULT or (isinstance(error, ResourceError) and not memory.ran_out(error)):
                raise
            self._forget(folder)
            return replace(self._reached(trial, "failed"), note=str(error).splitlines()[0])
        finally:
            memory.release()
        return self._kept(trial, run)

    def _reached(self, trial: Trial, state: Any) -> Trial:
        value = max((self.found.sign * score for _, score in self._curve), default=None)
        return replace(
            trial, state=state, curve=tuple(self._curve), value=None if value is None else self.found.sign * value
        )

    def _kept(self, trial: Trial, run: Run) -> Trial:
        """Return the trial with its scores; the predictions of the default and of the best one stay."""
        curve = tuple(
            (entry["step"] / run.steps, entry[SCORES[self._metric]]) for entry in run.history if "eval_loss" in entry
        )
        loss = next(e["eval_loss"] for e in run.history if e["step"] == run.best_step and "eval_loss" in e)
        done = replace(trial, curve=curve, value=run.best_metric, loss=loss)
        if replace(self.found, trials=(*self.found.trials, done)).best == done or trial.number == DEFAULT:
            judged = evaluation.judge(
                Classifier.from_pretrained(run.folder), self._task.dataset.validation, self._task.dataset
            )
            evaluation.write_predictions(predictions_of(self._task.dataset, trial.number), judged)
        self._forget(run.folder)
        return done

    @staticmethod
    def _forget(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def _add(self, trial: Trial) -> None:
        self.found = replace(self.found, trials=(*self.found.trials, trial))
        storage.write_noun(self._task.dataset.folder / storage.TRIALS, self.found)
        best = self.found.best
        for path in self._task.folder.glob("*.parquet"):
            if path.stem not in {str(DEFAULT), str(best.number if best else DEFAULT)}:
                path.unlink()

    # -- while it trains -------------------------------------------------------------------------

    def _curve_so_far(self, folder: Path, plan: Plan) -> list[tuple[float, float]]:
        """Return the validations of a trial that an earlier call has begun."""
        path = folder / storage.HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        name = SCORES[self._metric]
        return [(entry["step"] / plan.estimate.steps, entry[name]) for entry in entries if name in entry]

    def _watch(self, trial: Trial, plan: Plan, entry: Mapping[str, float]) -> None:
        value = entry[SCORES[self._metric]]
        share = entry["step"] / plan.estimate.steps
        # What an earlier call had validated from here on is done again.
        self._curve = [*((at, score) for at, score in self._curve if at < share), (share, value)]
        others = [other.curve for other in self.found.complete]
        noise = noise_of(value, self.found.rows, metric=self._metric)
        if trial.number != DEFAULT and lies_behind(self._curve, others, sign=self.found.sign, noise=noise):
            raise _Pruned

    def _step(self, stage: str, done: int, total: int, note: str) -> None:
        left = self._seconds_left()
        if left is not None and time.monotonic() - self._began > left:
            raise _TimeIsUp
        if stage in ("train", "frozen layers"):
            self._tell(
                f"trial {len(self.found.trials)}, {'step' if stage == 'train' else stage} {done:,}/{total:,}, {note}"
            )

    def _tell(self, note: str) -> None:
        if self._progress is None:
            return
        best = self.found.best
        told = f"best {best.value:.4f} (trial {best.number})" if best else ""
        notes = ", ".join(part for part in (note.rstrip(", "), told) if part)
        self._progress(STAGE, len(self.found.trials), self.found.wanted, notes)


def predictions_of(dataset: Dataset, number: int) -> Path:
    """Return where a trial's predictions of the validation rows are, as long as they are of use."""
    return storage.make_folder(dataset.folder / storage.TRIAL_RUNS) / f"{number}.parquet"
