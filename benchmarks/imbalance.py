r"""What class weights, focal loss, smoothing and sampling do for rare classes: scores on a given test file.

    python -m benchmarks.imbalance train.csv --validation val.csv --test test.csv --seeds 1,2,3 \
        --variant "" --variant "loss.class_weights=auto" --variant "loss.name=focal loss.focal_gamma=2"

Every variant is trained with every seed on the same rows. The TF-IDF baseline is scored once. One line
a trial goes to ``--results`` as it ends, so that a stopped experiment keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import textlora
from textlora import evaluation, settings, training

SHOWN = ("f1_macro", "f1_micro", "accuracy", "balanced_accuracy", "log_loss")


def main() -> None:
    """Run the trials one after the other and print a line for each, then the means."""
    options = _options()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        dataset = textlora.prepare(
            options.data, validation=options.validation, test=options.test, out=folder, base_model=options.base_model
        )
        for number, seed in enumerate(options.seeds.split(",")):
            for variant in options.variant or [""]:
                result = _trial(options, dataset, [*variant.split(), f"seed={seed}"], baseline=not any(found.values()))
                with options.results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(result) + "\n")
                for name, scores in result["test"].items():
                    title = variant or "as planned" if name == "textlora" else name
                    if name == "textlora" or not number:
                        found[title].append(scores)
                        _show(f"{title} seed {seed}", scores)
    for title, scores in found.items():
        _show(f"mean of {len(scores)}: {title}", {key: float(np.mean([s[key] for s in scores])) for key in scores[0]})
        _show("standard deviation", {key: float(np.std([s[key] for s in scores])) for key in scores[0]})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--variant", action="append", default=[], metavar="'NAME=VALUE NAME=VALUE'")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of the training, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="the same in every trial")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "imbalance.jsonl")
    return parser.parse_args()


def _trial(
    options: argparse.Namespace, dataset: textlora.Dataset, assignments: list[str], *, baseline: bool
) -> dict[str, Any]:
    chosen = settings.parse_assignments([*options.set, *assignments])
    plan = textlora.plan(dataset, base_model=options.base_model, assignments=chosen)
    with tempfile.TemporaryDirectory() as folder:
        run = training.train(plan, dataset, folder=Path(folder))
        scored = evaluation.evaluate(Path(folder), dataset, baseline=baseline, resamples=100)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{plan.machine.processor}, {plan.machine.cores} cores, {platform.system()}",
        "versions": dict(run.versions),
        "data": options.data.name,
        "rows": {name: len(split) for name, split in dataset.splits().items()},
        "base_model": options.base_model,
        "fixed": options.set,
        "varied": assignments,
        "test": {
            "textlora": _values(scored.metrics),
            **{cheap.name: _values(cheap.metrics) for cheap in scored.baselines},
        },
        "recall": {scores.label: scores.recall.value for scores in scored.classes},
        "f1": {scores.label: scores.f1.value for scores in scored.classes},
        "best_step": run.best_step,
        "best_validation": run.best_metric,
        "validation": [entry for entry in run.history if "eval_loss" in entry],
        "cpu_seconds": run.cpu_seconds,
    }


def _values(metrics: Any) -> dict[str, float]:
    return {name: interval.value for name, interval in metrics.items()}


def _show(title: str, scores: dict[str, float]) -> None:
    print(f"{title:>64} " + "  ".join(f"{key} {scores[key]:.4f}" for key in SHOWN if key in scores), flush=True)


if __name__ == "__main__":
    main()
