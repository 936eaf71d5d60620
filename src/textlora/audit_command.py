"""``textlora audit``: the options of the verb, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from textlora import printing, settings, terminal
from textlora.auditing.nouns import KINDS, Audit, Correction, Suspect
from textlora.errors import UsageError
from textlora.options import (
    BaseModel,
    Data,
    Encoding,
    Group,
    Json,
    LabelColumn,
    Labels,
    LabelSeparator,
    Sample,
    Set,
    TextColumn,
    data_settings,
    label_list,
)
from textlora.terminal import heading, plain_table

Folds = Annotated[
    int | None,
    typer.Option(
        "--folds",
        help="Parts that the rows are divided into, each judged by what the others teach; 5 when not given.",
        show_default=False,
    ),
]
Apply = Annotated[
    Path | None,
    typer.Option(
        "--apply",
        metavar="REVIEWED",
        help="Reviewed audit.csv: write a corrected copy of DATA to --out.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the audit; audits/NAME-OF-THE-FILE when not given. With --apply the corrected file.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another audit in the folder, and the decisions in it.")
]
SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command()
    def audit(  # noqa: PLR0913, PLR0917 - the options
        data: Data,
        apply: Apply = None,
        out: Out = None,
        text: TextColumn = None,
        label: LabelColumn = None,
        base_model: BaseModel = None,
        folds: Folds = None,
        overwrite: Overwrite = False,
        set_: Set = None,
        as_json: Json = False,
        labels: Labels = None,
        sample: Sample = None,
        encoding: Encoding = None,
        group: Group = None,
        label_separator: LabelSeparator = None,
    ) -> None:
        """Find rows whose label is likely wrong; with --apply, turn their review into a corrected file."""
        from textlora import api_audit
        from textlora.auditing import FOLDS

        chosen = settings.parse_assignments(set_ or []) | data_settings(sample, group, None, label_separator)
        read: dict[str, Any] = {
            "text": text,
            "label": label,
            "labels": label_list(labels),
            "encoding": encoding,
            "assignments": chosen,
        }
        if apply is not None:
            _refuse_training({"--folds": folds, "--base-model": base_model, "--overwrite": overwrite or None})
            if out is None:
                raise UsageError(
                    "--apply needs the name of the corrected file.", hint=f"For instance: --out {_cleaned(data)}"
                )
            correction = api_audit.apply_review(data, apply, out, **read)
            printing.print_json({"correction": correction}) if as_json else show_correction(
                correction, terminal.stdout()
            )
            return
        with printing.reporter() as told:
            found = api_audit.audit(
                data, **read, base_model=base_model, folds=FOLDS if folds is None else folds, out=out,
                overwrite=overwrite, progress=told,
            )  # fmt: skip
        printing.print_json({"audit": found}) if as_json else show_audit(found, terminal.stdout())


def _refuse_training(given: dict[str, Any]) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UsageError(
            f"--apply trains nothing and replaces no audit; it does not go with {' and '.join(named)}.",
            hint="Leave these options out.",
        )


def _cleaned(data: Path) -> Path:
    """Return a name for the corrected copy: ``reviews.csv`` gives ``reviews.cleaned.csv``."""
    stem, dot, rest = data.name.partition(".")
    return data.with_name(f"{stem}.cleaned{dot}{rest}")


# -- what a person sees ----------------------------------------------------------------------------


def show_audit(audit: Audit, console: Console) -> None:
    """Print how many suspects there are and why, the first of them, and what to do next."""
    counts = audit.counts
    aside = f" + {counts.quarantined_total:,} set aside" if counts.quarantined_total else ""
    aside += f" + {counts.unsampled:,} not sampled" if counts.unsampled else ""
    heading(console, "Audit", f"{audit.source}: {counts.read:,} rows read = {counts.kept:,} audited{aside}")
    for finding in audit.findings:
        if finding.level == "warning":
            console.print(Text(f"  ! {finding.message}"))
    if not audit.suspects:
        console.print("  No label is in doubt.")
    for kind, count in audit.by_kind.items():
        console.print(f"  {count:>6,}  {KINDS[kind]}")
    console.print(Text(f"  {audit.told}"))
    if audit.suspects:
        _show_suspects(audit, console)
    for line in _next(audit):
        console.print(Text(f"  {line}"))


def _show_suspects(audit: Audit, console: Console) -> None:
    table = plain_table(audit.unit, "label", "suggested", "text")
    for one in audit.suspects[:SHOWN]:
        table.add_row(
            str(one.line),
            _with_figure(one.label, one.probability),
            _suggestion(one, audit.unit),
            Text(_start(one.text)),
        )
    console.print(table)
    if len(audit.suspects) > SHOWN:
        console.print(f"  and {len(audit.suspects) - SHOWN:,} more")


def _with_figure(label: str, probability: float | None) -> Text:
    return Text(label if probability is None else f"{label} {probability:.2f}")


def _suggestion(one: Suspect, unit: str) -> Text:
    if one.kind == "outlier":
        return Text("(unlike all others)")
    shown = _with_figure(one.suggested, one.suggested_probability)
    return shown.append(f", as {unit} {one.similar_line}") if one.similar else shown


def _start(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:69].rsplit(' ', 1)[0]}…"  # noqa: PLR2004 - fits beside the labels


def _next(audit: Audit) -> Iterator[str]:
    yield f"Report: {audit.folder / 'audit.html'}"
    if audit.suspects:
        yield f"Review: fill in the column 'decision' of {audit.folder / 'audit.csv'} ({', '.join(audit.decisions)} or a label), then"
        yield f"  {audit.next_command}"


def show_correction(correction: Correction, console: Console) -> None:
    """Print what a review changed."""
    changed = sum(correction.changed.values())
    heading(console, "Corrected", f"{correction.rows:,} rows -> {correction.out}")
    console.print(
        f"  {changed:,} labels changed, {correction.dropped:,} rows dropped, {correction.confirmed:,} kept as they are, "
        f"{correction.undecided:,} without a decision"
    )
    for move, count in correction.changed.items():
        console.print(Text(f"  {count:>6,}  {move}"))
    console.print(Text(f"  Next: textlora fit {correction.out}"))
