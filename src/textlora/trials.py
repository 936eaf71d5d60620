"""A search for better settings: its trials, and whether the best one is better than chance. Nouns, as in ``types``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["complete", "pruned", "failed"]
Value = float | int | str | bool | None
DEFAULT = 0
"""Number of the trial with the settings that would be used without a search."""
LEVEL = 0.05
"""Chance of calling the best trial better although all are equally good."""
TOLD_IMPORTANCE = 10
"""Trials from which on the importance of settings is more than an accident."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a search.

    Attributes:
        number: from 0 on; 0 is the default.
        settings: the searched settings by dotted name.
        state: ``complete``, ``pruned`` (stopped early, for it lay behind) or ``failed``.
        curve: share of the training that was done, 0 to 1, and the validation score then.
        value: the best validation score; None without any.
        loss: the validation loss at that step.
        seconds: wall time.
        estimated_seconds: what the planner estimates from rough rates; it counts by comparison only.
        note: why it failed.
    """

    number: int
    settings: Mapping[str, Value]
    state: State
    curve: tuple[tuple[float, float], ...] = ()
    value: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    estimated_seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the best trial is better than the default beyond the noise of the validation rows.

    Both were scored on the same rows. What counts are the rows on which one is right and the other wrong: a
    sign test, McNemar's exact one, in which rows that resemble each other change sides together. The best of many trials is the luckiest of them as well, so the chance is
    multiplied by the number of trials that it was chosen from (Bonferroni).

    Attributes:
        best: number of the best trial.
        won: rows that it gets right and the default does not.
        lost: rows that the default gets right and it does not.
        comparisons: trials that it was chosen from, the default not counted.
        p_value: chance of so many more won rows if none of the trials were better, after the correction.
        needed: the fewest won rows, none lost, that would be enough.
    """

    best: int
    won: int
    lost: int
    comparisons: int
    p_value: float
    needed: int

    @property
    def better(self) -> bool:
        """Whether the best trial is better than the default."""
        return self.p_value < LEVEL


@dataclass(frozen=True, slots=True)
class Trials:
    """A search for better settings; ``trials.json``. Seconds.

    The trials have seen the training and the validation split alone.

    Attributes:
        asked: everything that decides the search but its length, to see whether a call goes on with it.
        metric: the validation score that was searched by; of ``loss`` less is better.
        rows: validation rows.
        space: what was searched, by setting, in words.
        trials: in order.
        wanted: trials that were asked for.
        minutes: limit of time that was asked for, or None.
        ended: why it ended before all trials; empty if it did not.
        importance: share of each setting in the differences between trials, where there are enough.
        verdict: None while the search is under way, or where no trial has a better score than the default.
        dataset_fingerprint: the data.
    """

    asked: Mapping[str, Any]
    metric: str
    rows: int
    space: Mapping[str, str]
    trials: tuple[Trial, ...] = ()
    wanted: int = 0
    minutes: float | None = None
    ended: str = ""
    importance: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    several_labels: bool = False
    dataset_fingerprint: str = ""

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return -1 if self.metric == "loss" else 1

    @property
    def complete(self) -> list[Trial]:
        """Trials that have ended and have a value."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def best(self) -> Trial | None:
        """The best trial; of equals the one with the smaller loss, then the first."""
        return max(self.complete, key=self._rank, default=None)

    @property
    def default(self) -> Trial | None:
        """The trial with the default settings, if it has ended."""
        return next((trial for trial in self.complete if trial.number == DEFAULT), None)

    def _rank(self, trial: Trial) -> tuple[float, float]:
        return self.sign * (trial.value or 0.0), -(trial.loss or 0.0)

    @property
    def recommended(self) -> Trial | None:
        """The best trial if it is better than the default beyond noise, else the default."""
        better = self.verdict is not None and self.verdict.better
        number = self.verdict.best if self.verdict is not None and better else DEFAULT
        return next((trial for trial in self.complete if trial.number == number), None)

    @property
    def seconds(self) -> float:
        """What all trials took, over all calls."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def metric_name(self) -> str:
        """The metric within a sentence."""
        return f"validation {self.metric.replace('f1_macro', 'macro F1')}"

    def note(self, trial: Trial) -> str:
        """Return what is to be said about a trial, in a few words; empty for most."""
        best, recommended = self.best, self.recommended
        stopped = f"stopped after {trial.curve[-1][0]:.0%} of its training: it lay behind" if trial.curve else "stopped"
        words = {
            "default": trial.number == DEFAULT,
            "best": best is not None and trial.number == best.number,
            "recommended": recommended is not None and trial.number == recommended.number,
            stopped: trial.state == "pruned",
            f"failed: {trial.note}": trial.state == "failed",
        }
        return ", ".join(word for word, holds in words.items() if holds)

    @property
    def told(self) -> str:
        """The verdict in words."""
        best, default = self.best, self.default
        if best is None or default is None:
            return "No trial has ended yet."
        if self.verdict is None:
            return f"None of {len(self.trials) - 1} trials is better than the default: {self.metric_name} {default.value:.4f}."
        return f"{self._compared(best, default)} {self._judged()}"

    def _compared(self, best: Trial, default: Trial) -> str:
        verdict = self.verdict
        if verdict is None:
            return ""
        right = "has more labels right" if self.several_labels else "is right"
        return (
            f"Trial {best.number} has the best {self.metric_name}: {best.value:.4f}, the default {default.value:.4f}. "
            f"Of {self.rows:,} validation rows it alone {right} on {verdict.won:,}, the default alone on {verdict.lost:,}."
        )

    def _judged(self) -> str:
        verdict = self.verdict
        if verdict is None:
            return ""
        chance = f"p = {verdict.p_value:.2g} by a paired test, corrected for {verdict.comparisons} trials"
        if verdict.better:
            return f"That is better than chance ({chance}): trial {verdict.best} is recommended. Its own score is the largest of many and flatters it."
        return (
            f"That may be chance ({chance}): the default is recommended. On {self.rows:,} rows at least {verdict.needed:,} must be "
            f"won, and none lost, before a trial counts as better."
        )
