"""``textlora tune``: the options of the verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textlora import amounts, printing, settings, terminal, terminal_several, terminal_trials
from textlora.errors import UsageError
from textlora.options import (
    BaseModel,
    Encoding,
    Group,
    Json,
    LabelColumn,
    Labels,
    LabelSeparator,
    Overwrite,
    PlanFile,
    Recipe,
    Sample,
    Set,
    TestFile,
    TextColumn,
    Time,
    ValidationFile,
    data_settings,
    label_list,
)
from textlora.repeated import Ahead
from textlora.trials import Trials

Target = Annotated[
    Path, typer.Argument(metavar="DATA", help="Data file, or a run folder with prepared data.", show_default=False)
]
TrialsWanted = Annotated[
    int, typer.Option("--trials", help="Trainings in all; the first one has the default settings.")
]
Limit = Annotated[
    str | None,
    typer.Option(
        "--time-limit", help="Begin no trial that would not end within this time, as 30m.", show_default=False
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the results; runs/NAME-tune when not given.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command()
    def tune(  # noqa: PLR0913, PLR0917 - the options
        data: Target,
        trials: TrialsWanted = 20,
        time_limit: Limit = None,
        text: TextColumn = None,
        label: LabelColumn = None,
        base_model: BaseModel = None,
        recipe: Recipe = "default",
        out: Out = None,
        overwrite: Overwrite = False,
        plan: PlanFile = None,
        set_: Set = None,
        as_json: Json = False,
        labels: Labels = None,
        sample: Sample = None,
        test: TestFile = None,
        validation: ValidationFile = None,
        encoding: Encoding = None,
        group: Group = None,
        time: Time = None,
        label_separator: LabelSeparator = None,
    ) -> None:
        """Search for better settings on training and validation rows; say whether the best is more than luck."""
        from textlora import api, api_tune

        limit = _limit(time_limit)
        chosen = settings.parse_assignments(set_ or []) | data_settings(sample, group, time, label_separator)
        options = api.PlanOptions(base_model, recipe, chosen, plan)
        source = api.DataOptions(text, label, label_list(labels), test, validation, encoding)
        results: dict[str, Any] = {}
        with printing.reporter() as told:

            def expect(ahead: Ahead) -> None:
                told.expect_stage(ahead.stage, ahead.seconds)
                if not as_json:
                    terminal_several.show_ahead(ahead, terminal.stdout())

            stages = api_tune.tune_stages(
                data, out, source, options, trials=trials, minutes=limit, overwrite=overwrite, progress=told,
                command=printing.command_line(), expect=expect,
            )  # fmt: skip
            for result in stages:
                results["report" if isinstance(result, Path) else type(result).__name__.lower()] = result
                if not as_json and not isinstance(result, Trials | Path):
                    printing.show(result)
        if as_json:
            printing.print_json(results)
        else:
            terminal_trials.show_trials(results["trials"], results["report"], data, terminal.stdout())


def _limit(text: str | None) -> float | None:
    found = amounts.minutes(text) if text is not None else None
    if text is not None and not found:
        raise UsageError(f"--time-limit is {text!r}, expected a time such as 20m or 1h30m.")
    return found
