"""The command line: options, printing, exit codes. The only module that prints or exits."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter
from typer.exceptions import TyperException

from textlora import __version__, memory, settings, terminal
from textlora.errors import Interrupted, ResourceError, TextloraError, UsageError
from textlora.types import Plan

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 data, 4 resources or environment, 130/143 interrupted.",
)

INTERRUPTED = 130
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")]


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
) -> None:
    """Prepare, plan, train, evaluate and report; a repeated call goes on where the last one stopped."""
    from textlora import api

    options = _plan_options(
        base_model, recipe, set_, plan, _data(sample, group, time, label_separator),
        _limits(memory_limit, time_limit, disk_limit),
    )  # fmt: skip
    source = api.DataOptions(text, label, _split(labels), test, validation, encoding)
    folder = out or api.default_folder(data)
    results = []
    with _reporter() as reporter:
        stages = api.fit_stages(
            data, folder, source, options, overwrite=overwrite, backup=backup, progress=reporter, command=_command()
        )
        for result in stages:
            results.append(result)
            if isinstance(result, Plan):
                reporter.expect(result.estimate)
            if not as_json:
                _show(result)
    if as_json:
        _print_json(dict(zip(("dataset", "plan", "run", "evaluation", "report"), results, strict=True)))


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

    data_settings = _data(sample, group, time, label_separator)
    options = _plan_options(base_model, "default", set_, None, data_settings)
    source = api.DataOptions(text, label, _split(labels), test, validation, encoding)
    with _reporter() as reporter:
        dataset = api.prepare_folder(
            data, out or api.default_folder(data), source, options, overwrite=overwrite, progress=reporter
        )
    _print_json({"dataset": dataset}) if as_json else _show(dataset)


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
    options = _plan_options(base_model, recipe, set_, plan, limits=_limits(memory_limit, time_limit, disk_limit))
    with _reporter() as reporter:
        made = api.plan_folder(target, out, options, overwrite=overwrite, progress=reporter)
    _print_json({"plan": made}) if as_json else _show(made)


@app.command()
def train(
    run: RunFolder,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    backup: Backup = None,
    as_json: Json = False,
) -> None:
    """Fine-tune as planned."""
    from textlora import api

    with _reporter() as reporter:
        done = api.train_folder(
            run, resume=resume, backup=backup, progress=reporter, command=_command(), expect=reporter.expect
        )
    _print_json({"run": done}) if as_json else _show(done)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option("--split", help="test, validation or train.")] = "test",
    as_json: Json = False,
) -> None:
    """Score the classifier on rows it has not seen, beside cheap baselines."""
    from textlora import api

    with _reporter() as reporter:
        evaluation = api.evaluate_folder(run, split=split, progress=reporter)
    _print_json({"evaluation": evaluation}) if as_json else _show(evaluation)


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
        _print_json({"comparison": found})
    else:
        show_comparison(found, terminal.stdout())


@app.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """Write report.html, report.md and the model card."""
    from textlora import api

    page = api.report_folder(run)
    _print_json({"report": page}) if as_json else _show(page)


@app.command()
def predict(
    run: RunFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Texts, or one FILE with --out; else one text a line from standard input.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Score FILE into this file (.csv .tsv .jsonl .parquet).")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Text column of FILE; found when not given.")] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Encoding of FILE, when neither UTF-8 nor UTF-16.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which words carried each decision, found by leaving them out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Classify texts, standard input, or a file."""
    from textlora.classifier import Classifier

    if out is not None:
        if explain:
            raise UsageError("--explain is for texts, not for a file with --out.", hint="Give single texts to explain.")
        _predict_file(run, texts or [], out, text, encoding, as_json)
        return
    found = _texts(texts)
    classifier = Classifier.from_pretrained(run)
    predictions = classifier.predict(found)
    several = classifier.bundle.task == "multi_label"
    explanations = classifier.explain(found) if explain else []
    if as_json:
        _print_json({"predictions": predictions, **({"explanations": explanations} if explain else {})})
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


def _predict_file(
    run: Path, texts: list[str], out: Path, text: str | None, encoding: str | None, as_json: bool
) -> None:
    from textlora.classifier import Classifier
    from textlora.scoring import score_file

    if len(texts) != 1:
        raise UsageError(
            f"--out scores one file, and {len(texts)} were named.",
            hint="For instance: textlora predict runs/reviews new.csv --out scored.csv",
        )
    source = Path(texts[0])
    classifier = Classifier.from_pretrained(run)
    with _reporter() as reporter:
        scored = score_file(
            classifier, source, out, text=text, encoding=encoding,
            progress=lambda done, total: reporter("predict", done, total),
        )  # fmt: skip
    if as_json:
        _print_json({"scored": scored})
        return
    console = terminal.stdout()
    console.print(f"{scored.scored:,} rows scored (column {scored.text_column!r}) -> {scored.out}")
    if scored.truncated:
        console.print(f"{scored.truncated:,} texts were longer than {classifier.whole_length:,} tokens and cut.")
    if scored.without_text:
        console.print(f"{scored.without_text:,} rows without a text have an empty prediction.")
    if scored.quarantined:
        console.print(f"{scored.quarantined:,} broken lines are in {scored.quarantine}.")


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="Format: hf, a merged Hugging Face folder.")] = "hf",
    out: Annotated[Path | None, typer.Option("--out", help="Target folder; RUN/export/FORMAT when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Write the classifier for other tools."""
    from textlora import api

    exported = api.export(run, to=to, out=out)
    if as_json:
        _print_json({"export": exported})
    else:
        terminal.show_export(exported.folder, exported.difference, exported.drift, terminal.stdout())


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: what it can do, what is missing, what to do about it."""
    from textlora.doctor import examine

    examination = examine()
    if as_json:
        _print_json({"examination": examination})
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
        _print_json({"deleted": [] if dry_run else [str(path) for path, _ in found], "bytes": size})
        return
    console = terminal.stdout()
    for path, held in found:
        console.print(f"{held / 1e9:8.2f} GB  {path}", highlight=False)
    done = "would be freed" if dry_run else "freed"
    console.print(f"{size / 1e9:.2f} GB in {len(found)} caches of frozen layers {done}.", highlight=False)


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|MB|G|M)", re.IGNORECASE)
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)


def _gigabytes(text: str) -> float | None:
    match = SIZE.fullmatch(text.strip())
    return float(match[1]) / (1000 if match[2].upper().startswith("M") else 1) if match else None


def _minutes(text: str) -> float | None:
    match = DURATION.fullmatch(text.strip().replace(" ", ""))
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 60 * hours + minutes + seconds / 60


# option: setting, how it is read, what is expected
LIMITS: dict[str, tuple[str, Callable[[str], float | None], str]] = {
    "--memory-limit": ("limits.memory_gb", _gigabytes, "a size such as 4GB or 500MB"),
    "--time-limit": ("limits.minutes", _minutes, "a time such as 20m or 1h30m"),
    "--disk-limit": ("limits.disk_gb", _gigabytes, "a size such as 4GB or 500MB"),
}


def _limits(*texts: str | None) -> dict[str, float]:
    """Return the limits, in the order of ``LIMITS``, as settings; all wrong ones in one error."""
    found: dict[str, float] = {}
    wrong = []
    for (option, (name, read, expected)), text in zip(LIMITS.items(), texts, strict=True):
        if text is None:
            continue
        if value := read(text):
            found[name] = value
        else:
            wrong.append(f"{option} is {text!r}, expected {expected}")
    if wrong:
        raise UsageError("Cannot read the limits:", problems=wrong)
    return found


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


def _data(sample: float | None, group: str | None, time: str | None, label_separator: str | None) -> dict[str, Any]:
    """Return the data settings that have an option of their own, as far as they are given."""
    options = {
        "data.sample": sample,
        "data.group_column": group,
        "data.time_column": time,
        "data.label_separator": label_separator,
    }
    return {name: value for name, value in options.items() if value is not None}


def _split(labels: str | None) -> list[str] | None:
    return [name.strip() for name in labels.split(",")] if labels is not None else None


def _reporter() -> Any:
    return terminal.Reporter(terminal.stderr()).live()


def _command() -> str:
    return shlex.join(["textlora", *sys.argv[1:]])


def _show(result: Any) -> None:
    from textlora import planning
    from textlora.types import Dataset, Evaluation, Plan, Run

    console = terminal.stdout()
    if isinstance(result, Dataset):
        terminal.show_dataset(result, console)
    elif isinstance(result, Plan):
        terminal.show_plan(result, planning.describe_plan(result), console)
    elif isinstance(result, Run):
        terminal.show_run(result, console)
    elif isinstance(result, Evaluation):
        terminal.show_evaluation(result, console)
    else:
        terminal.show_report(result, console)


def _print_json(results: dict[str, Any]) -> None:
    document = {name: _plain(value) for name, value in results.items()}
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    from textlora.types import Dataset

    if isinstance(value, Dataset):  # the rows are in the folder
        return {"folder": str(value.folder), **_plain(value.info)}
    return TypeAdapter(type(value)).dump_python(value, mode="json")


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
        log.write(f"textlora {__version__}\n{_command()}\n\n")
        traceback.print_exception(error, file=log)
    first = (str(error).splitlines() or [""])[0]
    _fail(
        TextloraError(
            f"This is a bug of textlora: {type(error).__name__}: {first}",
            hint=f"The details are in {log.name}; please report them, with what `textlora doctor` says.",
        )
    )
    return 1
