"""The command line that all benchmarks share, and their result files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measuring import tell

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "movie_reviews.csv"
RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = RESULTS / "quick"


@dataclass(frozen=True)
class Options:
    """What a benchmark was asked for.

    Attributes:
        name: of the benchmark.
        data: file of labelled reviews.
        rounds: how often every leg runs.
        quick: few reviews; the result goes to a folder of its own.
        as_json: end with one JSON object.
        switches: what was asked for beside the data, as it was typed.
    """

    name: str
    data: Path
    rounds: int
    quick: bool
    as_json: bool
    switches: str = ""

    @property
    def command(self) -> str:
        """The command line that makes this result again."""
        data = "" if self.data == EXAMPLE else f" --data {self.data.name}"
        return f"python -m benchmarks.{self.name}{self.switches}{data}"


def parse(name: str, description: str, *, rounds: int, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line.

    Args:
        name: of the benchmark.
        description: its help text.
        rounds: how many when nothing is said; at most two with ``--quick``.
        arguments: instead of the process's own.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    few = min(2, rounds)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=EXAMPLE, help="file of labelled reviews (the shipped example)")
    parser.add_argument("--rounds", type=int, help=f"how often everything is measured ({rounds}, {few} with --quick)")
    parser.add_argument("--quick", action="store_true", help="few reviews; minutes, and rougher figures")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args(arguments)
    switches = (" --quick" if given.quick else "") + (f" --rounds {given.rounds}" if given.rounds else "")
    number = given.rounds or (few if given.quick else rounds)
    return Options(name, given.data, number, given.quick, given.json, switches)


def finish(options: Options, figures: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Show the figures and write the result file.

    Args:
        options: what was asked for.
        figures: the numbers that count, by name; None for what could not be measured.
        details: everything behind them.
    """
    document = {
        "benchmark": options.name,
        "command": options.command,
        "data": options.data.name,
        "quick": options.quick,
        "figures": dict(figures),
        **details,
        "machine": machine.facts(),
    }
    folder = QUICK_RESULTS if options.quick else RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{options.name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    tell("")
    for name, value in figures.items():
        tell(f"{name:<24} {'not measured' if value is None else f'{value:.3g}'}")
    tell(f"written to {path.relative_to(ROOT)}")
    if options.as_json:
        tell(json.dumps(dict(figures)))
