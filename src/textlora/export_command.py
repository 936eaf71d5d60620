"""``textlora export``: the options, and what a person sees of an export beside the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from textlora import printing, terminal
from textlora.exports import FORMATS, Exported, Parity
from textlora.options import Json, RunFolder

To = Annotated[
    str, typer.Option("--to", help="; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items()) + ".")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Target folder; RUN/export/FORMAT when not given.", show_default=False)
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance", metavar="POINTS", help="Points of accuracy that onnx-int8 may lose at most; 0.3 when not given."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""

    @app.command()
    def export(
        run: RunFolder,
        to: To = "hf",
        out: Out = None,
        tolerance: Tolerance = None,
        as_json: Json = False,
    ) -> None:
        """Write the classifier for other tools, once it is shown that it answers there as it does here."""
        from textlora import api

        with printing.reporter() as told:
            exported = api.export(run, to=to, out=out, tolerance=tolerance, progress=told)
        if as_json:
            printing.print_json({"export": exported})
        else:
            show(exported, terminal.stdout())


def show(exported: Exported, console: Console) -> None:
    """Print where an export is, how it answers beside the classifier, and what merging changed."""
    console.print(Text(f"{exported.folder} ({exported.format}, {exported.size / 1e6:,.1f} MB)"))
    if exported.parity:
        for line in parity_lines(exported.parity):
            console.print(Text(f"  {line}"))
    if exported.drift:
        console.print(f"Trained over quantized weights, merged into the full-precision ones: {exported.drift}.")


def parity_lines(parity: Parity) -> list[str]:
    """Return what the comparison found, as lines for a person."""
    found = [f"logits differ from the classifier's by {parity.largest:.1g} at most"]
    if not parity.rows:
        return [f"{found[0]}, on a few made-up texts: the run has no data to compare on"]
    if gained := parity.accuracy:
        found.append(
            f"{parity.flipped:,} of {parity.rows:,} {parity.split} rows get another label; accuracy "
            f"{parity.before:.2%} → {parity.after:.2%}, {_points(gained.value)} points "
            f"(95 % interval {_points(gained.low)} to {_points(gained.high)})"
        )
    found.append(
        f"{parity.before_ms:.3g} → {parity.after_ms:.3g} ms of processor time a text: {parity.speed:.2g} times as fast"
    )
    return found


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
