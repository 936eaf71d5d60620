"""The options that several verbs share, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DATA_PANEL = "Data options"
Data = Annotated[
    Path, typer.Argument(help="CSV, TSV, JSON lines or Parquet file, compressed or not.", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, for instance runs/reviews.", show_default=False)]
TextColumn = Annotated[str | None, typer.Option("--text", help="Text column; found when not given.")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Label column; found when not given.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME-OF-THE-FILE when not given.")]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Hub id, local folder, or 'embedded' for the built-in MiniLM-L6.")
]
MemoryLimit = Annotated[
    str | None, typer.Option("--memory-limit", help="Keep below this peak of memory, as 4GB.", show_default=False)
]
TimeLimit = Annotated[
    str | None,
    typer.Option("--time-limit", help="Train and evaluate within this time, as 20m or 1h30m.", show_default=False),
]
DiskLimit = Annotated[
    str | None, typer.Option("--disk-limit", help="Write no more than this, as 2GB.", show_default=False)
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="Named set of settings: default, fast (upper layers only), accurate (an epoch more), or stock (the original recipe).",
    ),
]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="An edited plan.toml.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, for instance lora.r=8; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="Label names in order, separated by commas.", rich_help_panel=DATA_PANEL)
]
Sample = Annotated[
    float | None,
    typer.Option("--sample", help="Share of the rows to draw, as pandas' sample(frac=…).", rich_help_panel=DATA_PANEL),
]
TestFile = Annotated[
    Path | None, typer.Option("--test", help="File that is the test split.", rich_help_panel=DATA_PANEL)
]
ValidationFile = Annotated[
    Path | None, typer.Option("--validation", help="File that is the validation split.", rich_help_panel=DATA_PANEL)
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Text encoding, when neither UTF-8 nor UTF-16.", rich_help_panel=DATA_PANEL),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group", help="Column whose equal values stay in one split, such as an author.", rich_help_panel=DATA_PANEL
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time", help="Column to split by: the oldest rows train, the newest test.", rich_help_panel=DATA_PANEL
    ),
]
LabelSeparator = Annotated[
    str | None,
    typer.Option(
        "--label-separator",
        help="What stands between the labels of a row that has several, for instance '|'; lists need none.",
        rich_help_panel=DATA_PANEL,
    ),
]
Backup = Annotated[
    Path | None,
    typer.Option("--backup", help="Folder on another disk that gets a copy of the run with every checkpoint."),
]
SEVERAL_PANEL = "Several trainings"
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        help="Train with so many seeds on the same splits, show their spread, keep the best on validation.",
        show_default=False,
        rich_help_panel=SEVERAL_PANEL,
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        "--folds",
        help="Cross-validate over training and validation rows, too: every row scored by a classifier that has not seen it.",
        show_default=False,
        rich_help_panel=SEVERAL_PANEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")]


def data_settings(
    sample: float | None, group: str | None, time: str | None, label_separator: str | None
) -> dict[str, Any]:
    """Return the data settings that have an option of their own, as far as they are given."""
    options = {
        "data.sample": sample,
        "data.group_column": group,
        "data.time_column": time,
        "data.label_separator": label_separator,
    }
    return {name: value for name, value in options.items() if value is not None}


def label_list(labels: str | None) -> list[str] | None:
    """Return the names of ``--labels``."""
    return [name.strip() for name in labels.split(",")] if labels is not None else None
