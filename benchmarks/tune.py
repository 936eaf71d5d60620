r"""Does a search find something better than the default, and is it better on rows that it has not seen?

    python -m benchmarks.tune IMDB.csv --sample 0.2 --minutes 18 --recipe fast --set lora.top_layers=3

Runs ``textlora tune``, then trains the default and the best trial with several seeds and scores them on the
test split, which the search has not looked at. Everything goes to ``--results`` as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from textlora import api, api_tune, evaluation, planning, preparation, settings, storage, training, tuning
from textlora.classifier import Classifier
from textlora.trials import Trials
from textlora.types import Dataset, Plan


def main() -> None:
    """Search, then look at the test split."""
    options = _options()
    with tempfile.TemporaryDirectory() as root:
        folder = options.out or Path(root) / "search"
        found = _search(options, folder)
        print(found.told, flush=True)
        dataset = preparation.load_dataset(folder)
        seeds = [int(seed) for seed in options.seeds.split(",")]
        tested = {name: _test(planning.load_plan(folder / name), dataset, seeds, Path(root)) for name in _plans(folder)}
        result = _result(options, found, dataset, tested)
    options.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, figures in result["test"].items():
        print(name, figures, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sample", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--validation-share", type=float, default=0.25)
    parser.add_argument("--test-share", type=float, default=0.4)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="not searched")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--seeds", default="42", help="of the trainings that are scored on the test split")
    parser.add_argument("--out", type=Path, default=None, help="keep the search in this folder, to go on with it")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "tune.json")
    return parser.parse_args()


def _search(options: argparse.Namespace, folder: Path) -> Trials:
    shares = {"data.validation_share": options.validation_share, "data.test_share": options.test_share}
    chosen = {**settings.parse_assignments(options.set), **shares, "data.sample": options.sample}
    stages = api_tune.tune_stages(
        options.data, folder, api.DataOptions(), api.PlanOptions(options.base_model, options.recipe, chosen),
        trials=options.trials, minutes=options.minutes, progress=_tell,
    )  # fmt: skip
    return next(stage for stage in stages if isinstance(stage, Trials))


def _tell(stage: str, done: int, total: int, note: str) -> None:
    if stage == "trials" and (note.startswith("best") or not note):
        print(f"{done}/{total} {note}", flush=True)


def _plans(folder: Path) -> list[str]:
    """Return the plan files to test: the best trial's, and the default's."""
    found = tuning.load_trials(folder)
    default = planning.load_plan(folder / storage.BEST_PLAN)
    first = found.trials[0]
    changes = dict(first.settings) | {"lora.lora_alpha": 2.0 * int(str(first.settings["lora.r"]))}
    values = settings.flatten(default.settings) | changes
    planning.save_plan(folder / "default.toml", replace(default, settings=settings.build(values)))
    return ["default.toml", storage.BEST_PLAN]


def _test(plan: Plan, dataset: Dataset, seeds: Sequence[int], root: Path) -> list[np.ndarray]:
    """Return which test rows are right, for each seed."""
    right = []
    for seed in seeds:
        chosen = replace(plan, settings=plan.settings.model_copy(update={"seed": seed}))
        with tempfile.TemporaryDirectory(dir=root) as folder:
            training.train(chosen, dataset, folder=Path(folder))
            judged = evaluation.judge(Classifier.from_pretrained(folder), dataset.test, dataset)
        right.append(judged.right)
        print(f"test accuracy {judged.right.mean():.4f} (seed {seed})", flush=True)
    return right


def _result(
    options: argparse.Namespace, found: Trials, dataset: Dataset, tested: dict[str, list[np.ndarray]]
) -> dict[str, Any]:
    default, best = tested.values()
    won, lost = int((best[0] & ~default[0]).sum()), int((default[0] & ~best[0]).sum())
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
        "data": options.data.name,
        "rows": {name: len(split) for name, split in dataset.splits().items()},
        "fixed": options.set,
        "recipe": options.recipe,
        "base_model": options.base_model,
        "minutes": found.seconds / 60,
        "ended": found.ended,
        "verdict": found.told,
        "space": dict(found.space),
        "importance": dict(found.importance),
        "trials": [
            {"number": t.number, **t.settings, "state": t.state, "value": t.value, "loss": t.loss, "seconds": t.seconds}
            for t in found.trials
        ],
        "test": {
            "default": [float(right.mean()) for right in default],
            "best": [float(right.mean()) for right in best],
            "seeds": options.seeds,
            "best_won": won,
            "best_lost": lost,
            "p_value": float(binomtest(won, max(1, won + lost)).pvalue) if won + lost else 1.0,
        },
    }


if __name__ == "__main__":
    main()
