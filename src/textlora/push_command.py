"""``textlora push``: the options, and what a person sees of an upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from textlora import printing, terminal
from textlora.options import Json, RunFolder
from textlora.terminal import plain_table

if TYPE_CHECKING:
    from textlora.pushing import Pushed

Repo = Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the hub.", show_default=False)]
Licence = Annotated[
    str | None,
    typer.Option("--licence", "--license", help="Licence as the hub writes it, as apache-2.0.", show_default=False),
]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository visible to everybody.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which files would be uploaded, and stop.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""

    @app.command(name="push")
    def push_(  # noqa: PLR0917 - the options
        run: RunFolder,
        repo: Repo,
        licence: Licence = None,
        public: Public = False,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        """Upload a classifier with its card and its exports to the Hugging Face Hub."""
        from textlora.pushing import push

        with printing.reporter() as told:
            pushed = push(run, repo, licence=licence, public=public, dry_run=dry_run, progress=told)
        if as_json:
            printing.print_json({"push": pushed})
        else:
            show(pushed, terminal.stdout())


def show(pushed: Pushed, console: Console) -> None:
    """Print what was uploaded, or would be."""
    table = plain_table("file", "bytes")
    for name, size in pushed.files:
        table.add_row(Text(name), f"{size:,}")
    console.print(table)
    kind = "private" if pushed.private else "public"
    told = f"{len(pushed.files)} files, {pushed.size / 1e6:,.1f} MB, licence {pushed.licence}"
    if pushed.url:
        console.print(Text(f"{told}: {pushed.url} (a new repository is {kind})"))
    else:
        console.print(Text(f"{told}. Nothing was uploaded; {pushed.repo} would be {kind} if it is new."))
