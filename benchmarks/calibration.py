r"""What a temperature, a threshold for costs and "not sure" do on rows that took no part in training.

    python -m benchmarks.calibration reviews.csv.xz --rows 3000 --held-out 6000 --recipe fast --seeds 1,2
    python -m benchmarks.calibration train.csv --validation val.csv --held-out-file test.csv --seeds 1,2

A sample of the file is prepared and trained on; everything is fitted on its validation rows and measured on the held-out
ones: the rows behind the sample, or a file of their own. With ``--resample`` the held-out logits also stand for
classifiers that are too sure, or not sure enough, by known factors; temperatures are fitted on many small draws from them,
and the rule that keeps or drops a temperature is compared with keeping all. One line a training goes to ``--results``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import textlora
from textlora import settings
from textlora.classifier import Classifier
from textlora.deciding import fit_decision, judging, reliability, temperature
from textlora.tasks import TASKS, label_matrix
from textlora.types import Split

RATES = (0.05, 0.1, 0.2)
COSTS = "cost:FP=1,FN=5"
SIZES = (40, 60, 100, 300)
FACTORS = (0.5, 1.0, 1.5, 2.5)
DRAWS = 150
TASK = "single_label"


def main() -> None:
    """Train once a seed, measure, and print what came out."""
    options = _options()
    for seed in map(int, options.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            result = _trial(options, Path(folder), seed)
        with options.results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
        _show(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--held-out-file", type=Path)
    parser.add_argument("--rows", type=int, help="rows of the sample; all by default")
    parser.add_argument("--held-out", type=int, default=6000, help="rows behind the sample to measure on")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--resample", action="store_true")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "calibration.jsonl")
    return parser.parse_args()


def _frames(options: argparse.Namespace, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to prepare and those to measure on; text and label are the first two columns."""
    frame = pd.read_csv(options.data, dtype=str).sample(frac=1, random_state=seed)
    rows = options.rows or len(frame)
    if options.held_out_file:
        return frame[:rows], pd.read_csv(options.held_out_file, dtype=str)
    return frame[:rows], frame[rows : rows + options.held_out]


def _trial(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    sample, held_out = _frames(options, seed)
    text, label = sample.columns[:2]
    dataset = textlora.prepare(
        sample, text=text, label=label, validation=options.validation, out=folder, base_model=options.base_model
    )
    chosen = {**settings.parse_assignments(options.set), "seed": seed}
    plan = textlora.plan(dataset, base_model=options.base_model, recipe=options.recipe, assignments=chosen)
    run = textlora.train(plan, dataset)
    classifier = Classifier.from_pretrained(folder)
    names = dataset.label_names
    logits = classifier.logits(held_out[text].tolist())
    truth = label_matrix([names.index(name) for name in held_out[label]], len(names))
    known = classifier.logits(dataset.validation.texts)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{plan.machine.processor}, {plan.machine.cores} cores, {platform.system()}",
        "data": options.data.name,
        "recipe": options.recipe,
        "set": options.set,
        "seed": seed,
        "rows": {**{name: len(split) for name, split in dataset.splits().items()}, "held out": len(truth)},
        "epochs": run.epochs,
        "cpu_seconds": run.cpu_seconds,
        "accuracy": float((logits.argmax(1) == truth.argmax(1)).mean()),
        **_fitted(classifier, known, dataset.validation, logits, truth),
        **({"resampled": list(_resampled(logits, truth))} if options.resample else {}),
    }


def _fitted(classifier: Classifier, known: Any, validation: Split, logits: Any, truth: Any) -> dict[str, Any]:
    """Return what is fitted on the validation rows, and what it does on the others."""
    calibration = classifier.bundle.calibration
    assert calibration is not None
    wanted = {"decision.goal": COSTS} if truth.shape[1] == 2 else {}
    answers, costs = {}, {}
    for rate in RATES:
        bundle = fit_decision(classifier.bundle, known, validation, settings.build({"decision.error_rate": rate}))
        found = judging.trust(classifier.probabilities(logits), truth, bundle).answers
        answers[str(rate)] = {name: _value(getattr(found, name)) for name in ("answered", "accuracy", "coverage")}
    if wanted:
        bundle = fit_decision(classifier.bundle, known, validation, settings.build(wanted))
        found = judging.trust(classifier.probabilities(logits), truth, bundle).operation
        formula = classifier.probabilities(logits)[:, 1] >= 1 / 6
        costs = {
            "threshold": bundle.decision.threshold if bundle.decision else None,
            "fitted": found.figures["cost"].value if found else None,
            "most probable": found.usual["cost"].value if found else None,
            "at FP / (FP + FN)": float((5 * (~formula & truth[:, 1]) + (formula & ~truth[:, 1])).mean()),
        }
    return {
        "calibration": asdict(calibration),
        "without": _scores(logits, truth),
        "with the fitted temperature": _scores(logits / calibration.fitted, truth),
        "best temperature of the held-out rows": temperature.fit(logits, truth, TASK),
        "not sure": answers,
        "costs": costs,
    }


def _value(interval: Any) -> float | None:
    return None if interval is None else interval.value


def _scores(logits: Any, truth: Any) -> dict[str, float]:
    found = reliability.measure(TASKS[TASK].probabilities(logits), truth, TASK)
    return {
        "ece": found.ece, "ece by chance": found.chance.value, "brier": found.brier.value,
        "log loss": found.log_loss.value,
    }  # fmt: skip


def _resampled(logits: Any, truth: Any) -> Iterator[dict[str, Any]]:
    """Yield what fitting on small draws does to the log loss of 2,000 other rows, always kept and by the rule."""
    exact = logits / temperature.fit(logits, truth, TASK)
    for factor in FACTORS:
        scaled = exact * factor
        for size in SIZES:
            order, changes, kept = np.random.default_rng(0), [], []
            for draw in range(DRAWS):
                rows = order.permutation(len(truth))
                fitting, new = rows[:size], rows[size : size + 2000]
                found = temperature.choose(scaled[fitting], truth[fitting], TASK, seed=draw)
                before, after = (
                    temperature.row_losses(scaled[new] / heat, truth[new], TASK).mean() for heat in (1.0, found.fitted)
                )
                changes.append(after - before)
                kept.append(found.verdict == "kept")
            always, ruled = np.array(changes), np.where(kept, changes, 0.0)
            yield {
                "true temperature": factor, "rows": size, "kept": float(np.mean(kept)),
                "always": [float(always.mean()), float(always.max())],
                "by the rule": [float(ruled.mean()), float(ruled.max())],
            }  # fmt: skip


def _show(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name != "resampled":
            print(f"{name:>40}  {value}")
    for line in result.get("resampled", ()):
        print("   ", line)
    print(flush=True)


if __name__ == "__main__":
    main()
