"""``textlora predict RUN FILE... --out``: files scored, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from textlora import printing
from textlora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from textlora.scoring import ScoredFile

ENGINES = ("local", "ray")
SHOWN_FILES, SHOWN_LABELS = 10, 10


@dataclass(frozen=True, slots=True)
class Options:
    """How files are scored: ``--text``, ``--encoding``, ``--engine``, ``--workers``."""

    text: str | None
    encoding: str | None
    engine: str
    workers: int | None

    def check(self) -> None:
        """Refuse an unknown engine, and workers that it has not.

        Raises:
            UsageError: there is one, or there are.
        """
        if self.engine not in ENGINES:
            raise UsageError(
                f"There is no engine {self.engine!r}.{did_you_mean(self.engine, ENGINES)}", hint="Engines: local, ray."
            )
        if self.workers is not None and (self.engine == "local" or self.workers < 1):
            raise UsageError(
                f"--workers is {self.workers}, which goes with --engine ray and is at least 1.",
                hint="The local engine uses all cores.",
            )


def predict_files(run: Path, sources: Sequence[str], out: str, options: Options) -> tuple[tuple[ScoredFile, ...], int]:
    """Score files; return what became of each output, and the length that texts are cut at.

    Raises:
        UsageError: no file was named, or the options are wrong.
    """
    from textlora.classifier import Classifier
    from textlora.scoring import score_files
    from textlora.scoring.ray import WORKERS, RayPool

    options.check()
    if not sources:
        raise UsageError(
            "--out needs files to score.", hint="For instance: textlora predict runs/reviews new.csv --out scored.csv"
        )
    classifier = Classifier.from_pretrained(run)
    engine = RayPool(run, options.workers or WORKERS) if options.engine == "ray" else None
    with printing.reporter() as told:
        done = score_files(
            classifier, sources, out, text=options.text, encoding=options.encoding, engine=engine, progress=told
        )
    return done, classifier.whole_length


def show_scored(done: Sequence[ScoredFile], whole_length: int, console: Console) -> None:
    """Print what became of the rows, in all and for each output."""
    for scored in done[:SHOWN_FILES]:
        of = f" of {scored.sources:,} files" if scored.sources > 1 else ""
        console.print(
            Text(f"{scored.scored:,} rows{of} scored (column {scored.text_column!r}) -> {scored.out}"), soft_wrap=True
        )
    if len(done) > SHOWN_FILES:
        rows = sum(scored.scored for scored in done[SHOWN_FILES:])
        console.print(f"{rows:,} rows scored in {len(done) - SHOWN_FILES:,} files more.")
    for line in _findings(done, whole_length):
        console.print(Text(line))


def _findings(done: Sequence[ScoredFile], whole_length: int) -> list[str]:
    def total(name: str) -> int:
        return sum(getattr(scored, name) or 0 for scored in done)

    lines = [f"Predicted: {_shares(done)}."] if total("scored") else []
    if total("resumed"):
        lines.append(f"{total('resumed'):,} of them were done by an earlier call.")
    if total("truncated"):
        lines.append(f"{total('truncated'):,} texts were longer than {whole_length:,} tokens and cut.")
    if any(scored.not_sure is not None for scored in done):
        lines.append(f"{total('not_sure'):,} of them it is not sure of (column 'not_sure').")
    if total("without_text"):
        lines.append(f"{total('without_text'):,} rows without a text have an empty prediction.")
    if total("quarantined"):
        listed = [str(scored.quarantine) for scored in done if scored.quarantine]
        more = f" and {len(listed) - 1:,} files like it" if len(listed) > 1 else ""
        lines.append(f"{total('quarantined'):,} broken lines are in {listed[0]}{more}.")
    return lines


def _shares(done: Sequence[ScoredFile]) -> str:
    """Return ``positive 61.2 %, negative 38.8 %``, the most frequent labels first."""
    rows = sum(scored.scored for scored in done)
    counts = {name: sum(scored.labels[name] for scored in done) for name in done[0].labels}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    more = f", and {len(ordered) - SHOWN_LABELS} labels more" if len(ordered) > SHOWN_LABELS else ""
    return ", ".join(f"{name} {100 * count / rows:.1f} %" for name, count in ordered[:SHOWN_LABELS]) + more
