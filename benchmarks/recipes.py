r"""Which settings are worth being defaults: trains once for each and compares on validation.

    python -m benchmarks.recipes IMDB.csv --sample 0.36 --data data.validation_share=0.49 \
        --vary training.learning_rate=2e-4,5e-4,1e-3 --seeds 1,2,3

Every trial gets the same rows; ``--vary`` may be repeated, and all combinations are tried with
every seed (of the head, the adapters and the order of training; with ``--resplit`` of the splits
too, for small files). The test split is never looked at. One line a trial goes to ``--results`` as it ends, so that a stopped experiment keeps what it
has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import textlora
from textlora import api, settings, training


def main() -> None:
    """Run the trials one after the other, on data that are prepared once for each split."""
    options = _options()
    print(f"{'trial':>50} {'accuracy':>9} {'val. loss':>9} {'train loss':>10} {'CPU s':>7} {'s':>7}")
    with tempfile.TemporaryDirectory() as root:
        for trial in _trials(options.vary, options.seeds):
            split = trial[0] if options.resplit else "seed=42"
            result = _trial(options, trial, _prepare(options, Path(root) / split, split))
            with options.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(result) + "\n")
            _show(result)


def _show(result: dict[str, Any]) -> None:
    best = result["best"]
    print(
        f"{' '.join(result['varied']):>50} {best['eval_accuracy']:9.4f} {best['eval_loss']:9.4f}"
        f" {result['mean_training_loss']:10.4f} {result['cpu_seconds']:7.0f} {result['seconds']:7.0f}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=VALUE,VALUE", help="a setting, its values")
    parser.add_argument("--seeds", default="42", help="seeds of the training, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="the same in every trial")
    parser.add_argument("--data", dest="prepare", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--resplit", action="store_true", help="split anew with every seed")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "recipes.jsonl")
    return parser.parse_args()


def _prepare(options: argparse.Namespace, folder: Path, split: str) -> textlora.Dataset:
    """Prepare the data, or take over what an earlier trial has prepared with the same seed."""
    chosen = settings.parse_assignments([*options.prepare, f"data.sample={options.sample}", split])
    return api.prepare_folder(
        options.data, folder, api.DataOptions(), api.PlanOptions(options.base_model, "default", chosen)
    )


def _trials(vary: Sequence[str], seeds: str) -> Iterator[list[str]]:
    """Yield the assignments of each trial; the seed runs slowest, so that a stopped run compares."""
    axes = [[f"seed={seed}" for seed in seeds.split(",")]]
    for axis in vary:
        name, _, values = axis.partition("=")
        axes.append([f"{name}={value}" for value in values.split(",")])
    yield from map(list, itertools.product(*axes))


def _trial(options: argparse.Namespace, trial: list[str], dataset: textlora.Dataset) -> dict[str, Any]:
    chosen = settings.parse_assignments([*options.set, *trial])
    plan = textlora.plan(dataset, base_model=options.base_model, recipe=options.recipe, assignments=chosen)
    with tempfile.TemporaryDirectory() as folder:
        run = training.train(plan, dataset, folder=Path(folder))
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
        "recipe": options.recipe,
        "fixed": [*options.prepare, *options.set],
        "varied": trial,
        "best": next(entry for entry in evaluations if entry["step"] == run.best_step),
        "evaluations": evaluations,
        "mean_training_loss": run.mean_training_loss,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "peak_memory_gb": run.peak_memory_gb,
    }


if __name__ == "__main__":
    main()
