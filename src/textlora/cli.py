"""The command line: options, printing, exit codes. The only module that prints or exits."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from textlora import (
    __version__,
    adapt_command,
    audit_command,
    export_command,
    memory,
    printing,
    push_command,
    repeated,
    scoring_command,
    serve_command,
    settings,
    terminal,
    terminal_several,
    tune_command,
)
from textlora.amounts import limits as limits_of
from textlora.errors import Interrupted, ResourceError, TextloraError, UsageError
from textlora.options import (
    Backup,
    BaseModel,
    Data,
    DiskLimit,
    Encoding,
    Folds,
    Group,
    Json,
    LabelColumn,
    Labels,
    LabelSeparator,
    MemoryLimit,
    Out,
    Overwrite,
    PlanFile,
    Recipe,
    RunFolder,
    Sample,
    Seeds,
    Set,
    TestFile,
    TextColumn,
    Time,
    TimeLimit,
    ValidationFile,
    data_settings,
    label_list,
)
from textlora.types import Plan

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 data, 4 resources or environment, 130/143 interrupted.",
)

INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """From a file of labelled texts to a small, fast classifier of your own."""
    if version:
        typer.echo(f"textlora {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def fit(
    data: Data,
    text: TextColumn = None,
    label: LabelColumn = None,
    base_model: BaseModel = None,
    recipe: Recipe = "default",
    out: Out = None,
    overwrite: Overwrite = False,
    plan: PlanFile = None,
    set_: Set = None,
    backup: Backup = None,
    as_json: Json = False,
    labels: Labels = None,
    sample: Sample = None,
    test: TestFile = None,
    validation: ValidationFile = None,
    encoding: Encoding = None,
    group: Group = None,
    time: Time = None,
    label_separator: LabelSeparator = None,
    memory_limit: MemoryLimit = None,
    time_limit: TimeLimit = None,
    disk_limit: DiskLimit = None,
    seeds: Seeds = None,
    folds: Folds = None,
) -> None:
    """Prepare, plan, train, evaluate and report; a repeated call goes on where the last one stopped."""
    from textlora import api

    options = _plan_options(
        base_model, recipe, set_, plan, data_settings(sample, group, time, label_separator),
        limits_of(memory_limit, time_limit, disk_limit),
    )  # fmt: skip
    source = api.DataOptions(text, label, label_list(labels), test, validation, encoding)
    folder = out or api.default_folder(data)
    results: dict[str, Any] = {}
    with printing.reporter() as reporter:
        stages = api.fit_stages(
            data, folder, source, options, overwrite=overwrite, backup=backup, seeds=seeds, folds=folds,
            progress=reporter, command=printing.command_line(),
        )  # fmt: skip
        for result in stages:
            results[_stage_name(result)] = result
            if not as_json:
                printing.show(result)
            if isinstance(result, Plan):
                ahead = repeated.ahead(result, results["dataset"], seeds, folds)
                _expect(reporter, result, ahead)
                if ahead and not as_json:
                    terminal_several.show_ahead(ahead, terminal.stdout())
    if as_json:
        printing.print_json(results)


def _stage_name(result: Any) -> str:
    """Return what a stage's result is called in JSON: ``report`` for the path of the page."""
    return "report" if isinstance(result, Path) else type(result).__name__.lower()


def _expect(reporter: Any, plan: Plan, ahead: repeated.Ahead | None) -> None:
    """Tell the reporter how long training will take by the plan."""
    reporter.expect(plan.estimate)
    if ahead:
        reporter.expect_stage(ahead.stage, ahead.seconds)


@app.command()
def prepare(
    data: Data,
    text: TextColumn = None,
    label: LabelColumn = None,
    base_model: BaseModel = None,
    out: Out = None,
    overwrite: Overwrite = False,
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
    """Read, check, clean and split the rows."""
    from textlora import api

    chosen = data_settings(sample, group, time, label_separator)
    options = _plan_options(base_model, "default", set_, None, chosen)
    source = api.DataOptions(text, label, label_list(labels), test, validation, encoding)
    with printing.reporter() as reporter:
        dataset = api.prepare_folder(
            data, out or api.default_folder(data), source, options, overwrite=overwrite, progress=reporter
        )
    printing.print_json({"dataset": dataset}) if as_json else printing.show(dataset)


@app.command()
def plan(
    target: Annotated[
        Path | None, typer.Argument(help="Run folder with prepared data, or a data file.", show_default=False)
    ] = None,
    base_model: BaseModel = None,
    recipe: Recipe = "default",
    out: Out = None,
    overwrite: Overwrite = False,
    plan: PlanFile = None,
    set_: Set = None,
    as_json: Json = False,
    list_settings: Annotated[
        bool, typer.Option("--settings", help="List every setting with its meaning and stop.")
    ] = False,
    memory_limit: MemoryLimit = None,
    time_limit: TimeLimit = None,
    disk_limit: DiskLimit = None,
) -> None:
    """Decide every setting, with a reason, and estimate time and memory."""
    from textlora import api

    if list_settings:
        terminal.show_settings(settings.setting_rows(), terminal.stdout())
        return
    if target is None:
        raise UsageError("plan needs a run folder or a data file.", hint="For instance: textlora plan reviews.csv")
    options = _plan_options(base_model, recipe, set_, plan, limits=limits_of(memory_limit, time_limit, disk_limit))
    with printing.reporter() as reporter:
        made = api.plan_folder(target, out, options, overwrite=overwrite, progress=reporter)
    printing.print_json({"plan": made}) if as_json else printing.show(made)


@app.command()
def train(
    run: RunFolder,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    backup: Backup = None,
    as_json: Json = False,
) -> None:
    """Fine-tune as planned."""
    from textlora import api

    with printing.reporter() as reporter:
        done = api.train_folder(
            run,
            resume=resume,
            backup=backup,
            progress=reporter,
            command=printing.command_line(),
            expect=reporter.expect,
        )
    printing.print_json({"run": done}) if as_json else printing.show(done)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option("--split", help="test, validation or train.")] = "test",
    as_json: Json = False,
) -> None:
    """Score the classifier on rows it has not seen, beside cheap baselines."""
    from textlora import api

    with printing.reporter() as reporter:
        evaluation = api.evaluate_folder(run, split=split, progress=reporter)
    printing.print_json({"evaluation": evaluation}) if as_json else printing.show(evaluation)


@app.command()
def decide(
    run: RunFolder,
    goal: Annotated[
        str | None,
        typer.Option(
            "--goal",
            help="accuracy, f1, recall@precision=0.95, precision@recall=0.9 or cost:FP=1,FN=5.",
            show_default=False,
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option("--positive", help="Which of two labels the goal is about; the last one when not given."),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option("--abstain", help="Say 'not sure' at this rate of errors, for instance 0.05; 0 for never."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit thresholds and probabilities of a finished run anew, for another goal; nothing is trained."""
    from textlora import redeciding

    with printing.reporter() as reporter:
        done = redeciding.decide(run, goal=goal, positive=positive, error_rate=abstain, progress=reporter)
    printing.print_json({"decided": done}) if as_json else terminal.show_decided(done, terminal.stdout())


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...", help="Evaluated run folders; all are held against the first.", show_default=False
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say whether one run is really better than another on the same rows."""
    from textlora import api
    from textlora.comparison_table import show_comparison

    found = api.compare(*runs)
    if as_json:
        printing.print_json({"comparison": found})
    else:
        show_comparison(found, terminal.stdout())


@app.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """Write report.html, report.md and the model card."""
    from textlora import api

    page = api.report_folder(run)
    printing.print_json({"report": page}) if as_json else printing.show(page)


@app.command()
def predict(
    run: RunFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Texts, or FILES, folders and globs with --out; else one text a line from standard input.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="Score FILES into this file (.csv .tsv .jsonl .parquet), or a file each into FOLDER/."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Text column of FILES; found when not given.")] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Encoding of FILES, when neither UTF-8 nor UTF-16.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which words carried each decision, found by leaving them out.")
    ] = False,
    as_json: Json = False,
    engine: Annotated[
        str, typer.Option("--engine", help="What scores FILES: local, or ray (Ray Data, on its cluster).")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes with a classifier each, with --engine ray; 2 by default.")
    ] = None,
) -> None:
    """Classify texts, standard input, or files; a repeated call goes on where the last one stopped."""
    from textlora.classifier import Classifier

    if out is not None:
        if explain:
            raise UsageError("--explain is for texts, not for a file with --out.", hint="Give single texts to explain.")
        options = scoring_command.Options(text, encoding, engine, workers)
        done, length = scoring_command.predict_files(run, texts or [], out, options)
        printing.print_json({"scored": done}) if as_json else scoring_command.show_scored(
            done, length, terminal.stdout()
        )
        return
    found = _texts(texts)
    classifier = Classifier.from_pretrained(run)
    predictions = classifier.predict(found)
    several = classifier.bundle.task == "multi_label"
    explanations = classifier.explain(found) if explain else []
    if as_json:
        printing.print_json({"predictions": predictions, **({"explanations": explanations} if explain else {})})
    elif explain:
        terminal.show_explanations(predictions, explanations, terminal.stdout(), several=several)
    else:
        terminal.show_predictions(found, predictions, terminal.stdout(), several=several)


def _texts(texts: list[str] | None) -> list[str]:
    if not texts:
        if not terminal.is_piped_input():
            raise UsageError(
                "predict needs texts.", hint='For instance: textlora predict runs/reviews "A quiet, moving film."'
            )
        return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if len(texts) == 1 and len(texts[0]) < 1000 and Path(texts[0]).is_file():  # noqa: PLR2004
        raise UsageError(f"{texts[0]} is a file.", hint="Name the file to write the predictions to: --out scored.csv")
    return texts


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: what it can do, what is missing, what to do about it."""
    from textlora.doctor import examine

    examination = examine()
    if as_json:
        printing.print_json({"examination": examination})
    else:
        terminal.show_examination(examination, terminal.stdout())
    if not examination.usable:
        raise typer.Exit(ResourceError.exit_code)


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the cached states of frozen layers; runs and models stay."""
    from textlora import prefix

    found = prefix.caches()
    if not dry_run:
        prefix.clean()
    size = sum(size for _, size in found)
    if as_json:
        printing.print_json({"deleted": [] if dry_run else [str(path) for path, _ in found], "bytes": size})
        return
    console = terminal.stdout()
    for path, held in found:
        console.print(f"{held / 1e9:8.2f} GB  {path}", highlight=False)
    done = "would be freed" if dry_run else "freed"
    console.print(f"{size / 1e9:.2f} GB in {len(found)} caches of frozen layers {done}.", highlight=False)


def _plan_options(
    base_model: str | None,
    recipe: str,
    assignments: list[str] | None,
    plan_file: Path | None,
    data: dict[str, Any] | None = None,
    limits: dict[str, float] | None = None,
) -> Any:
    from textlora import api

    flat = {**settings.parse_assignments(assignments or []), **(data or {}), **(limits or {})}
    return api.PlanOptions(base_model, recipe, flat, plan_file)


for verb in (tune_command, adapt_command, audit_command, export_command, push_command, serve_command):
    verb.register(app)


def run() -> int:
    """Run the command line and return its exit code; no traceback reaches the user."""
    signal.signal(signal.SIGTERM, _terminated)
    if not sys.warnoptions:  # what libraries say to each other about their next versions
        warnings.simplefilter("ignore", FutureWarning)
    try:
        return _dispatch()
    except TyperException as error:
        return _fail(UsageError(error.format_message(), hint=_help_hint(error)))
    except TextloraError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(Interrupted("Stopped by Ctrl-C.", hint="Run the same command again to go on."))
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last door before the user
        kind = memory.shortage(error)
        return _fail(_out_of_memory(kind)) if kind else _bug(error)


def _out_of_memory(kind: str) -> ResourceError:
    return ResourceError(
        f"The {kind} is full.", hint="Try --set compute.tokens_per_micro_batch=1024, or fewer rows with --sample."
    )


def _help_hint(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"See `{context.command_path if context else 'textlora'} --help`."


def _dispatch() -> int:
    with warnings.catch_warnings():
        warnings.showwarning = terminal.warning_printer(warnings.showwarning)
        code = app(standalone_mode=False)
    if code == INTERRUPTED:  # typer has swallowed a Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _terminated(_: int, __: FrameType | None) -> None:
    raise Interrupted("Stopped by SIGTERM.", hint="Run the same command again to go on.", exit_code=143)


def _fail(error: TextloraError) -> int:
    terminal.stderr().print(terminal.error_lines(error))
    return error.exit_code


def _bug(error: Exception) -> int:
    if os.environ.get("TEXTLORA_DEBUG"):
        raise error
    with tempfile.NamedTemporaryFile("w", prefix="textlora-", suffix=".log", delete=False, encoding="utf-8") as log:
        log.write(f"textlora {__version__}\n{printing.command_line()}\n\n")
        traceback.print_exception(error, file=log)
    first = (str(error).splitlines() or [""])[0]
    _fail(
        TextloraError(
            f"This is a bug of textlora: {type(error).__name__}: {first}",
            hint=f"The details are in {log.name}; please report them, with what `textlora doctor` says.",
        )
    )
    return 1
