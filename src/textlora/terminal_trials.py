"""What a person sees of a search for better settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from textlora import settings
from textlora.progress import duration
from textlora.terminal import heading, plain_table
from textlora.trials import Trials


def show_trials(trials: Trials, page: Path, data: Path, console: Console) -> None:
    """Print every trial, what mattered, the verdict, and what to do next."""
    count = len(trials.trials)
    heading(
        console,
        "Trials",
        f"{count} in {duration(trials.seconds)}, {trials.rows:,} validation rows; the test split took no part",
    )
    table = plain_table("trial", trials.metric_name, *trials.space, "time", "")
    for trial in trials.trials:
        value = "–" if trial.value is None else f"{trial.value:.4f}"
        shown = (settings.show(name, trial.settings.get(name)) for name in trials.space)
        table.add_row(str(trial.number), value, *shown, duration(trial.seconds), trials.note(trial))
    console.print(table)
    for line in _lines(trials, page, data):
        console.print(Text(f"  {line}"))


def _lines(trials: Trials, page: Path, data: Path) -> Iterator[str]:
    if trials.ended:
        yield f"Ended after {len(trials.trials)} of {trials.wanted} trials: {trials.ended}."
    if trials.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in trials.importance.items())
        yield f"What the differences came from: {shares}."
    yield trials.told
    folder = page.parent
    yield f"{folder / 'plan.toml'} has the recommended settings, {folder / 'best_plan.toml'} those of the best trial."
    yield (
        f"Next: textlora fit {data} --plan {folder / 'plan.toml'}"
        if not data.is_dir()
        else f"Next: textlora train {folder}"
    )
    yield f"Report: {page}"
