r"""What class weights, focal loss, smoothing and sampling do for rare classes: scores on a given test file.

    python -m benchmarks.imbalance train.csv --validation val.csv --test test.csv --seeds 1,2,3 \
        --variant "" --variant "loss.class_weights=auto" --variant "loss.name=focal loss.focal_gamma=2"

With ``--pairs`` every row is joined with another one of its file, and has the labels of both: multi-label
data of real texts. Then the scores with thresholds of 0.5 stand beside those with fitted ones.

Every variant is trained with every seed on the same rows. The TF-IDF baseline is scored once. One line
a trial goes to ``--results`` as it ends, so that a stopped experiment keeps what it has.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import textlora
from textlora import evaluation, multilabel_metrics, settings, storage, thresholds, training

SHOWN = ("f1_macro", "f1_micro", "accuracy", "balanced_accuracy", "hamming_loss", "log_loss")


def main() -> None:
    """Run the trials one after the other and print a line for each, then the means."""
    options = _options()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        files = [options.data, options.validation, options.test]
        if options.pairs:
            files = [_pairs(path, Path(folder) / f"{path.stem}.jsonl") for path in files]
        data, validation, test = files
        dataset = textlora.prepare(data, validation=validation, test=test, out=folder, base_model=options.base_model)
        for number, seed in enumerate(options.seeds.split(",")):
            for variant in options.variant or [""]:
                result = _trial(options, dataset, [*variant.split(), f"seed={seed}"], baseline=not any(found.values()))
                with options.results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(result) + "\n")
                for name, scores in result["test"].items():
                    ours = name in ("textlora", "at 0.5")
                    title = f"{variant or 'as planned'}{' at 0.5' * (name == 'at 0.5')}" if ours else name
                    if ours or not number:
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
    parser.add_argument("--pairs", action="store_true", help="join each row with another one: several labels a row")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "imbalance.jsonl")
    return parser.parse_args()


def _pairs(path: Path, out: Path) -> Path:
    """Write each row of a CSV file joined with a random other one, with the labels of both."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    others = random.Random(7).sample(rows, len(rows))
    with out.open("w", encoding="utf-8") as stream:
        for row, other in zip(rows, others, strict=True):
            joined = {"text": f"{row['text']} {other['text']}", "labels": sorted({row["label"], other["label"]})}
            stream.write(json.dumps(joined) + "\n")
    return out


def _at_half(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Return the scores of an evaluated multi-label run with thresholds of 0.5 for all labels."""
    table = pq.read_table(folder / storage.PREDICTIONS).to_pydict()
    truth = np.array([[name in row for name in names] for row in table["label"]])
    probabilities = np.stack([table[f"probability_{name}"] for name in names], axis=1)
    return multilabel_metrics.point_scores(truth, probabilities >= thresholds.USUAL, probabilities)


def _trial(
    options: argparse.Namespace, dataset: textlora.Dataset, assignments: list[str], *, baseline: bool
) -> dict[str, Any]:
    chosen = settings.parse_assignments([*options.set, *assignments])
    plan = textlora.plan(dataset, base_model=options.base_model, assignments=chosen)
    with tempfile.TemporaryDirectory() as folder:
        run = training.train(plan, dataset, folder=Path(folder))
        scored = evaluation.evaluate(Path(folder), dataset, baseline=baseline, resamples=100)
        half = {"at 0.5": _at_half(Path(folder), dataset.label_names)} if options.pairs else {}
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
            **half,
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
