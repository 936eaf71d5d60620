"""What a person sees of a comparison of runs: a table of differences, then what they come to in words."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from textlora.comparing import Compared, Comparison
from textlora.paired import Difference, shown_p
from textlora.terminal import percent

NAMES = {"accuracy": "accuracy", "f1_macro": "F1 (macro)"}


def show_comparison(found: Comparison, console: Console) -> None:
    """Print every run's scores, its differences from the first run, and the verdicts."""
    drawn = f", in {found.groups:,} groups" if found.groups else ""
    head = Text("\nComparison  ", style="bold")
    head.append(f"{found.split} split, the same {found.rows:,} rows{drawn}, 95 % intervals", style="default not bold")
    console.print(head)
    for figure in sorted(NAMES, key=lambda name: name != found.headline):
        console.print(_table(found, figure))
    for run in found.runs[1:]:
        console.print(Text(f"  {run.told}"))
    for note in found.notes:
        console.print(Text(f"  · {note}"))


def _table(found: Comparison, figure: str) -> Table:
    name = "all labels right" if (figure, found.task) == ("accuracy", "multi_label") else NAMES[figure]
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for number, column in enumerate(("run", name, "difference from the first", "p")):
        table.add_column(Text(column), justify="left", overflow="fold", no_wrap=number == 0)
    for run in found.runs:
        table.add_row(Text(run.run), percent(run.scores[figure]), *_cells(_difference(run, figure)))
    return table


def _difference(run: Compared, figure: str) -> Difference | None:
    return run.accuracy if figure == "accuracy" else run.f1_macro


def _cells(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    interval = difference.interval
    shown = f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return shown, shown_p(difference.p_value).removeprefix("p = ").removeprefix("p ")
