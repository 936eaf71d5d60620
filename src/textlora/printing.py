"""What every verb says: progress to standard error, results as tables or as one JSON object."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import typer
from pydantic import TypeAdapter

from textlora import repeated, terminal, terminal_several
from textlora.progress import Reporter


def reporter() -> AbstractContextManager[Reporter]:
    """Return what tells of progress, to be entered with ``with``."""
    return Reporter(terminal.stderr()).live()


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["textlora", *sys.argv[1:]])


def show(result: Any) -> None:
    """Print the result of a stage."""
    from textlora import planning
    from textlora.types import Dataset, Evaluation, Plan, Run

    console = terminal.stdout()
    if isinstance(result, Dataset):
        terminal.show_dataset(result, console)
    elif isinstance(result, Plan):
        terminal.show_plan(result, planning.describe_plan(result), console)
    elif isinstance(result, repeated.Seeds):
        terminal_several.show_seeds(result, console)
    elif isinstance(result, repeated.Folds):
        terminal_several.show_folds(result, console)
    elif isinstance(result, Run):
        terminal.show_run(result, console)
    elif isinstance(result, Evaluation):
        terminal.show_evaluation(result, console)
    else:
        terminal.show_report(result, console)


def print_json(results: Mapping[str, Any]) -> None:
    """Print results by name as one JSON object; a data set without its rows, which are in its folder."""
    document = {name: _plain(value) for name, value in results.items()}
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    from textlora.types import Dataset

    if isinstance(value, Dataset):  # the rows are in the folder
        return {"folder": str(value.folder), **_plain(value.info)}
    return TypeAdapter(type(value)).dump_python(value, mode="json")
