"""What a person sees on standard output: summaries and results.

User text goes through ``rich.text.Text``, which knows no markup, so that a review with
``[bold]`` in it stays as it is.
"""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from textlora import memory
from textlora.errors import TextloraWarning
from textlora.progress import duration
from textlora.slices import title
from textlora.types import (
    Dataset,
    Evaluation,
    Explanation,
    Interval,
    Machine,
    Plan,
    Prediction,
    Run,
)

if TYPE_CHECKING:
    from textlora.doctor import Examination
    from textlora.redeciding import Decided

PLAIN_WIDTH = 140


def stdout() -> Console:
    """Return the console for results."""
    # A pipe or a file has no width; tables get room there.
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)


def stderr() -> Console:
    """Return the console for progress and errors."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def percent(interval: Interval) -> str:
    """Return ``91.2 % [88.0, 94.1]``."""
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def error_lines(error: Exception) -> Text:
    """Return an error as text with a red head."""
    text = Text("error: ", style="bold red")
    text.append(str(error), style="default not bold")
    return text


def warning_printer(other: Callable[..., None]) -> Callable[..., None]:
    """Return what prints textlora's own warnings on standard error, and hands all others on to ``other``."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **named: Any) -> None:
        if not issubclass(category, TextloraWarning):
            other(message, category, *where, **named)
            return
        text = Text("warning: ", style="bold yellow")
        text.append(str(message), style="default not bold")
        stderr().print(text)

    return show


def show_dataset(dataset: Dataset, console: Console) -> None:
    """Print the row accounting, the splits and the findings."""
    info = dataset.info
    counts = info.counts
    head = f"{counts.read:,} rows read = {counts.kept:,} kept + {counts.quarantined_total:,} set aside"
    if counts.unsampled:
        head += f" + {counts.unsampled:,} not sampled"
    heading(console, "Data", f"{info.source}: {head}")
    table = plain_table("split", *(f"{name}" for name in info.label_names), "rows")
    for name, per_class in info.split_counts.items():
        table.add_row(name, *(f"{count:,}" for count in per_class), f"{info.rows_in(name):,}")
    console.print(table)
    for finding in info.findings:
        console.print(Text(f"  {'!' if finding.level == 'warning' else '·'} {finding.message}"))
    if counts.quarantined_total:
        console.print(Text(f"  Rows set aside, with line and reason: {dataset.folder / 'quarantine.csv'}"))


def show_plan(plan: Plan, rows: Sequence[tuple[str, str, str]], console: Console) -> None:
    """Print every setting with its reason, and the estimate."""
    heading(console, "Plan", f"recipe {plan.recipe}, {_machine(plan.machine)}")
    table = plain_table("setting", "value", "reason")
    for name, value, reason in rows:
        table.add_row(Text(name), Text(str(value)), Text(reason))
    console.print(table)
    estimate = plan.estimate
    console.print(
        f"  {estimate.trainable_parameters:,} of {estimate.total_parameters:,} parameters are trained "
        f"({100 * estimate.trainable_parameters / estimate.total_parameters:.1f} %), {estimate.steps:,} steps."
    )
    gpu = f"{estimate.gpu_memory_gb:.1f} GB of GPU memory, " if estimate.gpu_memory_gb else ""
    console.print(
        f"  Estimate: {duration(estimate.train_seconds)} to train, {duration(estimate.evaluate_seconds)} to evaluate, "
        f"{estimate.memory_gb:.1f} GB of memory, {gpu}{estimate.disk_gb:.2f} GB of disk"
        f"{'' if estimate.rehearsed else ' (roughly: measured for longer jobs)'}."
    )
    if estimate.disturbed:
        console.print("  ! The machine is busy: other work ran while this was measured, so times may be off.")
    if plan.alternatives:
        _show_terms(plan, console)
        _show_alternatives(plan, console)


def _show_terms(plan: Plan, console: Console) -> None:
    """Print what each part takes, and what is free."""
    estimate = plan.estimate
    memory = [(name, f"{value:.2f}") for name, value in estimate.memory_by_term.items()]
    columns = {
        ("memory", "GB"): [*memory, ("free now", f"{plan.machine.available_memory_gb:.2f}")],
        ("GPU memory", "GB"): _gpu_terms(plan),
        ("time", ""): [(name, duration(value)) for name, value in estimate.seconds_by_term.items()],
        ("disk", "GB"): [(name, f"{value:.3f}") for name, value in estimate.disk_by_term.items()],
    }
    columns = {head: cells for head, cells in columns.items() if cells}
    table = plain_table(*itertools.chain.from_iterable(columns))
    for row in itertools.zip_longest(*columns.values(), fillvalue=("", "")):
        table.add_row(*(Text(cell) for pair in row for cell in pair))
    console.print(table)


def _gpu_terms(plan: Plan) -> list[tuple[str, str]]:
    """Return name and GB of what a CUDA GPU holds, and what is free there; nothing without one."""
    terms, machine = plan.estimate.gpu_memory_by_term, plan.machine
    if not terms:
        return []
    free = machine.gpu_available_memory_gb or machine.gpu_memory_gb or 0.0
    return [*((name, f"{value:.2f}") for name, value in terms.items()), ("free now", f"{free:.2f}")]


def _show_alternatives(plan: Plan, console: Console) -> None:
    """Print what else could be trained on the same data, side by side."""
    memory = "GPU memory" if plan.estimate.gpu_memory_gb else "memory"
    table = plain_table("alternative", "trained", "weights", memory, "time", "disk", "choose it with")
    for other in plan.alternatives:
        found = other.estimate
        table.add_row(
            Text(other.name), f"{found.trainable_parameters / 1e6:.1f} M", f"{1e3 * found.weights_gb:.0f} MB",
            f"{found.gpu_memory_gb or found.memory_gb:.2f} GB", duration(found.seconds), f"{found.disk_gb:.2f} GB",
            Text(other.how or "not in textlora"),
        )  # fmt: skip
    console.print(table)


def _machine(machine: Machine) -> str:
    return f"{machine.gpu or machine.processor}, {machine.cores} cores, {machine.available_memory_gb:.0f} GB free"


def show_run(run: Run, console: Console) -> None:
    """Print what training took and came to."""
    heading(
        console,
        "Training",
        f"{run.architecture} on {run.base_model}{f' in {run.bits} bits' if run.bits else ''}, LoRA on {100 * run.trainable_share:.1f} % of the parameters",
    )
    console.print(
        f"  {run.epochs:g} epochs, {run.steps:,} steps in {duration(run.seconds)}, {run.tokens_per_second:,.0f} tokens/s, "
        f"peak memory {_peaks(run.peak_memory_gb, run.peak_gpu_memory_gb)}"
    )
    console.print(
        f"  training loss {run.final_training_loss:.3f} at the end (mean {run.mean_training_loss:.3f}); "
        f"best validation score {run.best_metric:.4f} at step {run.best_step:,}"
    )
    if run.predicted_memory_gb:
        console.print(
            f"  predicted {duration(run.predicted_seconds)} and {_peaks(run.predicted_memory_gb, run.predicted_gpu_memory_gb)}; "
            f"it took {duration(run.stage_seconds)} with loading and saving, and {_peaks(run.peak_memory_gb, run.peak_gpu_memory_gb)}"
        )
    for event in run.memory_events:
        console.print(Text(f"  ! {memory.describe(event)}"))
    console.print(f"  reloaded in a fresh process: logits differ by {run.reload_difference:.1g}")
    if run.drift:
        console.print(f"  over full-precision base weights, as merged: {run.drift}")


def show_decided(decided: Decided, console: Console) -> None:
    """Print what was fitted on the validation rows, and what it comes to."""
    from textlora.deciding import telling

    heading(console, "Decision", str(decided.folder))
    console.print(Text(f"  {telling.calibration_told(decided.calibration)}"))
    if decided.decision:
        console.print(Text(f"  {telling.decision_told(decided.decision)}"))
    if decided.thresholds:
        cuts = ", ".join(f"{name} {cut:.3f}" for name, cut in decided.thresholds.items())
        console.print(Text(f"  thresholds for {decided.thresholds_goal}: {cuts}"))
    if decided.abstention:
        console.print(Text(f"  {telling.abstention_told(decided.abstention)}"))
    if decided.evaluation:
        show_evaluation(decided.evaluation, console)
    if decided.report:
        heading(console, "Report", str(decided.report))


def _peaks(host: float, gpu: float) -> str:
    """Return ``1.93 GB``, or ``1.93 GB, 4.10 GB on the GPU``."""
    return f"{host:.2f} GB" + (f", {gpu:.2f} GB on the GPU" if gpu else "")


METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
}
MULTI_LABEL_NAMES = {
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "precision_micro": "precision (micro)",
    "recall_micro": "recall (micro)",
    "accuracy": "all labels right",
    "hamming_loss": "Hamming loss",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
}


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the scores with intervals, and the baselines beside them."""
    drawn = f" in {evaluation.groups:,} groups" if evaluation.groups > 1 else ""
    heading(console, "Evaluation", f"{evaluation.split} split, {evaluation.rows:,} rows{drawn}, 95 % intervals")
    leak = evaluation.leakage
    columns = [(baseline.name, baseline.metrics) for baseline in evaluation.baselines]
    if leak:
        columns.insert(0, ("without leaked rows", leak.others))
    table = plain_table("", "this model", *(name for name, _ in columns))
    names = MULTI_LABEL_NAMES if evaluation.task == "multi_label" else METRIC_NAMES
    for name, shown in names.items():
        if name in evaluation.metrics:
            table.add_row(
                shown, figure_text(evaluation.metrics[name]), *(figure_text(found.get(name)) for _, found in columns)
            )
    console.print(table)
    if leak:
        console.print(
            f"  {leak.rows:,} of the rows are near-duplicates of training rows ({percent(leak.accuracy)} of them right)."
        )
    if evaluation.trust:
        from textlora.deciding import telling

        for line in telling.lines(evaluation.trust, several=evaluation.task == "multi_label"):
            console.print(Text(f"  {line}"))
    for part in evaluation.parts:
        if part.verdict == "worse":
            shown = f"  ! worse than the rest: {title(part)}, {percent(part.accuracy)} right of {part.rows:,} rows"
            console.print(Text(shown))


def figure_text(interval: Interval | None) -> str:
    """Return a figure with its interval, a dash where there is none."""
    return "–" if interval is None else f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def show_report(page: Path, console: Console) -> None:
    """Print where the report is and what to do next."""
    heading(console, "Report", str(page))
    console.print(Text(f'  Try it: textlora predict {page.parent} "A quiet, moving film."'))


def show_predictions(
    texts: Sequence[str], predictions: Sequence[Prediction], console: Console, *, several: bool = False
) -> None:
    """Print one line a text: label and probability, or all labels with theirs; the start of the text."""
    heads = [_labels_given(prediction) if several else prediction.label for prediction in predictions]
    width = max(map(len, heads), default=0)
    for text, prediction, head in zip(texts, predictions, heads, strict=True):
        cut = "  (truncated)" if prediction.truncated else ""
        probability = "" if several else f"{prediction.probability:.3f}  "
        console.print(Text(f"{head:<{width}}  {probability}{_short(text, PASSAGE)}{cut}{_doubt(prediction)}"))


def _doubt(prediction: Prediction) -> str:
    """Return ``  (not sure: negative or positive)`` where the classifier abstains."""
    if not prediction.abstains:
        return ""
    left = dict.fromkeys((prediction.label, *prediction.labels)) if prediction.labels else ["no label fits"]
    return f"  (not sure: {' or '.join(left)})"


def _labels_given(prediction: Prediction) -> str:
    """Return ``joy 0.912, love 0.634``."""
    given = [f"{name} {prediction.probabilities[name]:.3f}" for name in prediction.labels]
    return ", ".join(given) or "(no label)"


# Words of an explanation that are listed, and characters of a passage.
LISTED, PASSAGE = 10, 70
STYLES = {
    1: "green",
    2: "bold green",
    3: "bold reverse green",
    -1: "red",
    -2: "bold red",
    -3: "bold reverse red",
    0: "",
}


def show_explanations(
    predictions: Sequence[Prediction],
    explanations: Sequence[Explanation],
    console: Console,
    *,
    several: bool = False,
) -> None:
    """Print each decision, the words that carried it, and what the probability is without them.

    Where texts have several labels, the label that is explained is named.
    """
    from textlora.explanation import marked

    for prediction, explained in zip(predictions, explanations, strict=True):
        if console.is_terminal:
            cut = "  (truncated)" if prediction.truncated else ""
            head = _labels_given(prediction) if several else f"{explained.label}  {explained.probability:.3f}"
            console.print(Text(f"{head}{cut}{_doubt(prediction)}", style="bold"))
            console.print(
                Text.assemble(*((piece, STYLES[level]) for piece, level in marked(explained.text, explained.spans)))
            )
        else:
            show_predictions([explained.text], [prediction], console, several=several)
        if several:
            console.print(Text(f"  What carried {explained.label}, the most probable label:"))
        for line in _span_lines(explained):
            console.print(Text(line))


def _span_lines(explained: Explanation) -> Iterator[str]:
    """Yield a line for each of the strongest spans, then what has to be said about them."""
    from textlora.explanation import levels

    strongest = explained.strongest
    told = [span for span, level in zip(strongest, levels(strongest), strict=True) if level][:LISTED]
    for span in told:
        words = _short(explained.words(span), PASSAGE)
        yield f"  {span.weight:+6.2f}  {explained.probability:.3f} -> {span.probability:.3f} without  {words}"
    if not told:
        yield "  no word alone changes the probability much" if explained.spans else "  no words"
    if not explained.complete:
        yield "  a long text: its passages were left out first, then the words of the strongest ones"


def _short(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


# Fits into a bug report.
EXAMINATION_WIDTH = 110
MARKS = {"ok": ("ok", "green"), "advice": ("!", "bold yellow"), "broken": ("✗", "bold red")}


def show_examination(examination: Examination, console: Console) -> None:
    """Print what was found, what to do about it, and what is best here."""
    facts = examination.facts
    heading(console, f"textlora {facts.version}", f"Python {facts.python}, {facts.machine.platform}")
    for item in examination.items:
        mark, style = MARKS[item.status]
        console.print(Text.assemble((f"{mark:<3}", style), f"{item.topic:<15}", _wrapped(item.found, 18)))
        if item.advice:
            console.print(Text(" " * 18).append(_wrapped(f"-> {item.advice}", 18), style="bold"))
    if not examination.usable:
        heading(console, "Not usable", "until what is marked with ✗ is mended.")
        return
    heading(
        console,
        "Best here",
        ", ".join(f"{choice.setting.partition('.')[2]} {choice.value}" for choice in examination.best),
    )
    for choice in examination.best:
        console.print(Text(f"  {choice.setting.partition('.')[2]}: {choice.reason}"))


def _wrapped(text: str, indent: int) -> str:
    """Return the text's lines behind ``indent`` columns, commands and paths whole."""
    lines = textwrap.wrap(text, EXAMINATION_WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def show_settings(rows: Sequence[tuple[str, str, str]], console: Console) -> None:
    """Print all settings with defaults and meaning."""
    table = plain_table("setting", "default", "meaning")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def heading(console: Console, title: str, rest: str) -> None:
    """Print a section's title with what it is about."""
    text = Text(f"\n{title}  ", style="bold")
    text.append(rest, style="default not bold")
    console.print(text)


def plain_table(*columns: str) -> Table:
    """Return an empty table without lines; its first column does not wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left", overflow="fold", no_wrap=number == 0)
    return table


def is_piped_input() -> bool:
    """Return whether standard input comes from a file or pipe."""
    return not sys.stdin.isatty()
