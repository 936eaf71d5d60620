"""Which settings are worth being defaults: trains once for each and compares on validation.

    python -m benchmarks.recipes IMDB.csv --sample 0.2 --vary training.learning_rate=2e-4,5e-4,1e-3

Every trial gets the same rows and the same seed. The test split is never looked at. One line a
trial goes to ``--results`` as it ends, so that a stopped experiment keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import textlora
from textlora import settings


def main() -> None:
    """Run the trials one after the other."""
    options = _options()
    print(f"{'value':>24} {'accuracy':>9} {'val. loss':>9} {'train loss':>10} {'CPU s':>7} {'s':>7}")
    for assignment in _trials(options.vary):
        result = _trial(options, assignment)
        with options.results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
        best = result["best"]
        print(
            f"{assignment:>24} {best['eval_accuracy']:9.4f} {best['eval_loss']:9.4f} {result['mean_training_loss']:10.4f}"
            f" {result['cpu_seconds']:7.0f} {result['seconds']:7.0f}",
            flush=True,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--vary", required=True, metavar="NAME=VALUE,VALUE", help="the setting and its values")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="the same in every trial")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "recipes.jsonl")
    return parser.parse_args()


def _trials(vary: str) -> Iterator[str]:
    name, _, values = vary.partition("=")
    for value in values.split(","):
        yield f"{name}={value}"


def _trial(options: argparse.Namespace, assignment: str) -> dict[str, Any]:
    chosen = settings.parse_assignments([*options.set, assignment])
    with tempfile.TemporaryDirectory() as folder:
        dataset = textlora.prepare(options.data, out=folder, sample=options.sample, base_model=options.base_model)
        plan = textlora.plan(dataset, base_model=options.base_model, assignments=chosen)
        run = textlora.train(plan, dataset)
    evaluations = [entry for entry in run.history if "eval_loss" in entry]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "machine": f"{plan.machine.processor}, {plan.machine.cores} cores, {platform.system()}",
        "versions": dict(run.versions),
        "data": options.data.name,
        "rows": len(dataset.train),
        "base_model": options.base_model,
        "fixed": options.set,
        "varied": assignment,
        "best": next(entry for entry in evaluations if entry["step"] == run.best_step),
        "evaluations": evaluations,
        "mean_training_loss": run.mean_training_loss,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "peak_memory_gb": run.peak_memory_gb,
    }


if __name__ == "__main__":
    main()
