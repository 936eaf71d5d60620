"""How far a stage is and when it will be done: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from textlora.types import Estimate

# A plain log line at most so often, when standard error is no terminal.
PLAIN_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Return ``48 s``, ``12 min 5 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Amount(ProgressColumn):
    """Units done, and units in all where these are known."""

    def render(self, task: Task) -> Text:
        """Return ``1,200/40,000`` or ``1,200``."""
        return Text(f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total else ""))


# From this share of a stage on, what was measured alone says how long the rest takes.
TRUSTED_SHARE = 0.2


def seconds_left(done: float, total: float, elapsed: float, expected: float | None) -> float | None:
    """Return the seconds until a stage ends: as the plan expects, more and more corrected by what was measured.

    Args:
        done: units done so far.
        total: units in all, 0 when unknown.
        elapsed: seconds since the stage began.
        expected: seconds of the whole stage by the plan, or None.
    """
    if not total:
        return None
    share = min(1.0, done / total)
    measured = elapsed / share * (1 - share) if share else None
    if expected is None or measured is None:
        # The first units are slow: kernels are built, pages are touched.
        return expected if measured is None else measured
    weight = min(1.0, share / TRUSTED_SHARE)
    return weight * measured + (1 - weight) * expected * (1 - share)


class _Left(ProgressColumn):
    """How long the stage still takes."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return ``12 min 5 s`` or ``-``."""
        left = seconds_left(task.completed, task.total or 0, task.elapsed or 0.0, task.fields["expected"])
        return Text("-" if left is None else duration(left))


class Reporter:
    """Shows progress of any stage: bars with ETA on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._spoken = 0.0
        self._expected: dict[str, float] = {}

    def expect(self, estimate: Estimate) -> None:
        """Take the plan's word for how long training takes, until there is something measured."""
        terms = estimate.seconds_by_term
        whole = [
            terms.get(name, 0.0) for name in ("adapted layers", "kernels", "dequantizing", "optimiser", "validation")
        ]
        if sum(whole):
            self.expect_stage("train", sum(whole))

    def expect_stage(self, stage: str, seconds: float) -> None:
        """Take a plan's word for how long a stage takes, until there is something measured."""
        self._expected[stage] = seconds

    @contextmanager
    def live(self) -> Iterator[Reporter]:
        """Show bars while the context is open, if standard error is a terminal."""
        # A notebook forces colours and is no terminal all the same.
        if not (self._console.is_terminal and self._console.file.isatty()):
            yield self
            return
        columns = (
            SpinnerColumn(), TextColumn("{task.description:<20}", markup=False), BarColumn(), _Amount(),
            TimeElapsedColumn(), TextColumn("left"), _Left(), TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as self._bars:
            yield self
        self._bars = None
        self._tasks.clear()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take note of ``done`` of ``total`` (0 when unknown) units of a stage."""
        self._started.setdefault(stage, time.monotonic())
        if self._bars is None:
            self._plain(stage, done, total, note)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(
                stage, total=total or None, note=note, expected=self._expected.get(stage)
            )
        self._bars.update(self._tasks[stage], completed=done, total=total or None, note=note)

    def _plain(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        ended = bool(total) and done >= total
        if now - self._spoken < PLAIN_SECONDS and not ended:
            return
        self._spoken = now
        elapsed = now - self._started[stage]
        if ended:
            self._started.pop(stage)  # a stage may come again, and its clock with it
        seconds = seconds_left(done, total, elapsed, self._expected.get(stage))
        left = f", about {duration(seconds)} left" if seconds is not None and 0 < done < total and elapsed > 1 else ""
        amount = f"{done:,}/{total:,}" if total else f"{done:,}"
        self._console.print(f"{stage}: {amount} after {duration(elapsed)}{left}{'  ' + note if note else ''}")
