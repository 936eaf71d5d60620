"""End to end: how long the stock recipe trains, and when ours has passed the accuracy that it ends with.

    python -m benchmarks.end_to_end [--quick] [--json] [--data FILE]

The embedded model, real training. Both recipes get the same 10 % of the rows (a tenth of those with
``--quick``), the same splits, and are scored on the same validation rows; ours is validated several
times an epoch, and the time of that counts. Clocks start before the texts are tokenized and stop at
the validation; loading libraries and saving the classifier are left out on both sides.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.measuring import tell
from textlora import api, planning, storage, training
from textlora.types import Dataset

SAMPLE = 0.1
QUICK_SAMPLE = 0.01
VALIDATIONS = 8

Point = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("end_to_end", __doc__ or "", rounds=1, arguments=arguments)
    sample = QUICK_SAMPLE if options.quick else SAMPLE
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        chosen = api.PlanOptions("embedded", "default", {"data.sample": sample})
        data = api.prepare_folder(options.data, Path(scratch) / "data", api.DataOptions(), chosen)
        for number in range(options.rounds):
            ours = {"training.evaluations_per_epoch": VALIDATIONS}
            rounds.append({
                "stock": _course(data, Path(scratch) / f"stock-{number}", "stock", {}),
                "ours": _course(data, Path(scratch) / f"ours-{number}", "default", ours),
            })  # fmt: skip
    command.finish(options, _figures(rounds[0]), {"rows": len(data.train), "rounds": rounds})


def _course(data: Dataset, folder: Path, recipe: str, assignments: Mapping[str, Any]) -> list[Point]:
    """Train; return seconds, processor seconds, step and accuracy at every validation."""
    tell(f"training with recipe {recipe} …")
    # The sample was drawn when the data were prepared.
    plan = planning.plan(data, base_model="embedded", recipe=recipe, assignments=assignments)
    folder.mkdir()
    course: list[Point] = []
    start, cpu_start = time.perf_counter(), time.process_time()

    def watch(*_: object) -> None:
        for entry in _validations(folder)[len(course) :]:
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            course.append({
                "seconds": seconds, "cpu_seconds": cpu_seconds, "step": entry["step"], "accuracy": entry["eval_accuracy"],
            })  # fmt: skip
            tell(f"  {recipe:<8} step {entry['step']:>5.0f} {seconds:8.1f} s  accuracy {entry['eval_accuracy']:.4f}")

    training.train(plan, data, folder=folder, progress=watch)
    return course


def _validations(folder: Path) -> list[dict[str, float]]:
    path = folder / storage.HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for line in lines if "eval_accuracy" in (entry := json.loads(line))]


def _figures(courses: Mapping[str, list[Point]]) -> dict[str, float | None]:
    stock, best = courses["stock"][-1], max(courses["ours"], key=lambda point: point["accuracy"])
    passed = next((point for point in courses["ours"] if point["accuracy"] > stock["accuracy"]), None)
    return {
        "stock_accuracy": stock["accuracy"],
        "stock_seconds": stock["seconds"],
        "passed_after_seconds": passed and passed["seconds"],
        "wall_ratio": passed and stock["seconds"] / passed["seconds"],
        "cpu_ratio": passed and stock["cpu_seconds"] / passed["cpu_seconds"],
        "best_accuracy": best["accuracy"],
        "best_after_seconds": best["seconds"],
    }


if __name__ == "__main__":
    main()
