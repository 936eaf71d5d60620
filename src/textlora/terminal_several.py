"""What a person sees of several trainings: the sum of what they take before, their spread afterwards."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from textlora.progress import duration
from textlora.repeated import Ahead, Folds, Seeds
from textlora.terminal import METRIC_NAMES, MULTI_LABEL_NAMES, figure_text, heading, plain_table


def show_ahead(ahead: Ahead, console: Console) -> None:
    """Print which trainings are ahead, and what all of it will take."""
    console.print(Text(f"  {ahead.told}: {duration(ahead.total)} in all, report included."))


def show_seeds(seeds: Seeds, console: Console) -> None:
    """Print each seed's scores, their mean and spread, and which one is kept."""
    heading(
        console, "Seeds", f"{len(seeds.runs)} trainings on the same splits, {seeds.split} split, {seeds.rows:,} rows"
    )
    names = MULTI_LABEL_NAMES if seeds.task == "multi_label" else METRIC_NAMES
    table = plain_table(
        "seed", f"validation {seeds.best_metric.replace('_', ' ')}", *(names[name] for name in seeds.shown)
    )
    for run in seeds.runs:
        label = f"{run.seed}{'  kept' if run.seed == seeds.kept else ''}"
        table.add_row(label, f"{run.validation:.4f}", *(f"{run.metrics[name]:.4f}" for name in seeds.shown))
    table.add_row("mean", "", *(figure_text(seeds.intervals[name]) for name in seeds.shown))
    table.add_row("std. deviation", "", *(f"{seeds.metrics[name].deviation:.4f}" for name in seeds.shown))
    console.print(table)
    for line in _meaning(seeds):
        console.print(Text(f"  {line}"))


def _meaning(seeds: Seeds) -> list[str]:
    return [
        f"Kept: seed {seeds.kept}, the best on validation; the {seeds.split} split had no say in it.",
        "[…] is the 95 % interval for the mean of many seeds (Student's t): the chance in training alone, on the same rows.",
        "That these rows are a sample is another uncertainty: see the intervals of the evaluation.",
        f"predicted {duration(seeds.predicted_seconds)}; the trainings took {duration(seeds.seconds)}",
    ]


def show_folds(folds: Folds, console: Console) -> None:
    """Print the scores of each fold, their mean and deviation, and those of all rows together."""
    heading(
        console,
        "Folds",
        f"{folds.rows:,} training and validation rows, each scored by a classifier that has not seen it; the test split took no part",
    )
    names = MULTI_LABEL_NAMES if folds.task == "multi_label" else METRIC_NAMES
    table = plain_table(
        "fold", "rows", f"validation {folds.best_metric.replace('_', ' ')}", *(names[name] for name in folds.shown)
    )
    for run in folds.runs:
        scores = (f"{run.metrics[name]:.4f}" if name in run.metrics else "–" for name in folds.shown)
        table.add_row(str(run.number), f"{run.rows:,}", f"{run.validation:.4f}", *scores)
    spreads = [folds.metrics[name] for name in folds.shown]
    table.add_row("mean", "", "", *(f"{one.mean:.4f}" for one in spreads))
    table.add_row("std. deviation", "", "", *(f"{one.deviation:.4f}" for one in spreads))
    table.add_row("all rows", f"{folds.rows:,}", "", *(figure_text(folds.pooled.get(name)) for name in folds.shown))
    console.print(table)
    for line in (*folds.notes, *_meaning_of_folds(folds)):
        console.print(Text(f"  {line}"))


def _meaning_of_folds(folds: Folds) -> list[str]:
    return [
        "[…] is the 95 % interval for the choice of rows. Folds share most of the rows that they learn from: their deviation makes no interval.",
        f"predicted {duration(folds.predicted_seconds)}; the trainings took {duration(folds.seconds)}",
    ]
