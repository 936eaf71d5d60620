"""``textlora adapt``: the options, and what a person sees of plan and result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from textlora import amounts, printing, terminal
from textlora.errors import UsageError
from textlora.progress import duration
from textlora.terminal import heading

if TYPE_CHECKING:
    from textlora.adaptation import Adaptation, AdaptationPlan

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...",
        help="Files of texts (CSV, TSV, JSON lines, Parquet, .txt with a text a line), folders of them, or run folders, of which the training split is used.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the encoder, to be given as --base-model.")]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Hub id, local folder, or 'embedded' for the built-in MiniLM-L6.")
]
TextColumn = Annotated[
    str | None, typer.Option("--text", help="Text column; found in each file when not given.", show_default=False)
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Text encoding, when neither UTF-8 nor UTF-16.", show_default=False),
]
TimeLimit = Annotated[
    str | None,
    typer.Option("--time-limit", help="Take no longer, as 20m or 1h30m: fewer steps then.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, for instance training.epochs=1; may be repeated."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an adapted encoder in the folder, once the new one is whole.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

SHOWN_SOURCES = 3
ENDINGS = {
    "planned": "as planned",
    "no gain": "ended early: the held-out perplexity no longer improved",
    "time limit": "ended by the time limit",
}


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""

    @app.command()
    def adapt(  # noqa: PLR0913, PLR0917 - the options
        data: Sources,
        out: Out,
        base_model: BaseModel = None,
        text: TextColumn = None,
        encoding: Encoding = None,
        time_limit: TimeLimit = None,
        set_: Set = None,
        overwrite: Overwrite = False,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        """Train the encoder itself on unlabelled texts first; a repeated call goes on where the last one stopped."""
        from textlora import adaptation
        from textlora.adaptation.settings import parse

        given = {"base_model": base_model, "text": text, "encoding": encoding}
        assignments = parse(set_ or []) | _limit(time_limit)
        with printing.reporter() as told:

            def on_plan(made: AdaptationPlan) -> None:
                told.expect_stage("adapt", made.estimate.seconds)
                if not as_json:
                    show_plan(made, terminal.stdout())

            if dry_run:
                found = adaptation.plan(data, **given, assignments=assignments, progress=told)
            else:
                done = adaptation.adapt(
                    data, out=out, **given, assignments=assignments, overwrite=overwrite, progress=told, on_plan=on_plan
                )
        if as_json:
            printing.print_json({"plan": found} if dry_run else {"adaptation": done})
        elif dry_run:
            show_plan(found, terminal.stdout())
        else:
            show_result(done, terminal.stdout())


def _limit(text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    found = amounts.minutes(text)
    if not found:
        raise UsageError(f"--time-limit is {text!r}, expected a time such as 20m or 1h30m.")
    return {"limits.minutes": found}


def show_plan(plan: AdaptationPlan, console: Console) -> None:
    """Print what will be trained on what, and what it takes."""
    corpus, settings, estimate = plan.corpus, plan.settings, plan.estimate
    heading(
        console,
        "Adaptation",
        f"{plan.base_model}: {plan.architecture}, {plan.parameters / 1e6:.1f} M parameters, all trained",
    )
    for line in (_read(plan), *_findings(plan)):
        console.print(Text(f"  {line}"))
    alone = f" after {plan.head_steps:,} of the head alone ({plan.reasons['head.steps']})" if plan.head_steps else ""
    console.print(
        f"  {corpus.pieces:,} pieces of at most {settings.text.max_length} tokens ({corpus.tokens:,} in all) to train on, "
        f"{corpus.held_out:,} held out"
    )
    console.print(
        f"  {plan.steps - plan.head_steps:,} steps of {settings.training.batch_size} pieces ({plan.epochs:.3g} epochs){alone}"
    )
    console.print(
        f"  {settings.compute.precision} on {settings.compute.device} ({plan.reasons.get('compute.precision', 'as set')}), "
        f"{estimate.tokens_per_second:,.0f} tokens/s measured"
    )
    console.print(
        f"  Estimate: {duration(estimate.seconds)}, {estimate.memory_gb:.1f} GB of memory, "
        f"{estimate.disk_gb:.2f} GB of disk while it runs."
    )


def _read(plan: AdaptationPlan) -> str:
    corpus = plan.corpus
    names = ", ".join(corpus.sources[:SHOWN_SOURCES])
    more = f" and {len(corpus.sources) - SHOWN_SOURCES} more" if len(corpus.sources) > SHOWN_SOURCES else ""
    others = {
        "equal to another": corpus.duplicates, "without a text": corpus.without_text, "broken": corpus.broken,
    }  # fmt: skip
    rest = "".join(f" + {count:,} {name}" for name, count in others.items() if count)
    return f"{names}{more}: {corpus.read:,} rows read = {corpus.texts:,} texts{rest}"


def _findings(plan: AdaptationPlan) -> list[str]:
    found = []
    if plan.corpus.long_texts:
        found.append(
            f"· {plan.corpus.long_texts:,} texts are longer than a piece and were cut into several; nothing is lost."
        )
    if not plan.corpus.only_training_splits:
        found.append(
            "! All texts of these files are used. Leave out those that you will test on, or name a run folder."
        )
    return found


def show_result(made: Adaptation, console: Console) -> None:
    """Print perplexity before and after, what it took, and what to do next."""
    plan = made.plan
    heading(console, "Encoder", str(made.folder))
    start = " (of the encoder as it was, with the trained head)" if plan.head_steps else ""
    console.print(
        f"  held-out perplexity {made.perplexity_before:.2f} before{start}, {made.perplexity_after:.2f} after, at step {made.best_step:,}"
    )
    if not made.improved:
        console.print(
            "  ! It did not improve: the texts are too few, the steps too long, or the encoder knew them already."
        )
    console.print(f"  {made.steps:,} of {plan.steps:,} steps: {ENDINGS[made.ending]}")
    console.print(
        f"  predicted {duration(plan.estimate.seconds)} and {plan.estimate.memory_gb:.2f} GB; "
        f"it took {duration(made.seconds)} and {made.peak_memory_gb:.2f} GB, {made.tokens_per_second:,.0f} tokens/s"
    )
    console.print(Text(f"  Next: textlora fit DATA --base-model {made.folder}"))
