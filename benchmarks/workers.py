"""What benchmarks run in a process of its own, so that its memory is its own; prints one JSON object.

python -m benchmarks.workers train RUN_FOLDER
python -m benchmarks.workers predict RUN_FOLDER TEXTS.json
python -m benchmarks.workers score RUN_FOLDER FILE OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import Watch

WARM_UP = 16


def train(folder: Path) -> dict[str, Any]:
    """Train as the plan in the run folder says; return the memory held after each step."""
    from textlora import planning, preparation, storage, training

    process, resident = psutil.Process(), {}

    def note(stage: str, done: int, *_: Any) -> None:
        if stage == "train":
            resident[done] = process.memory_info().rss / 1e9

    run = training.train(planning.load_plan(folder / storage.PLAN), preparation.load_dataset(folder), progress=note)
    return {
        "resident_gb": [round(resident[step], 4) for step in sorted(resident)],
        "peak_gb": run.peak_memory_gb,
        "cpu": run.cpu_seconds,
        "wall": run.seconds,
        "steps": run.steps,
    }


def predict(folder: Path, texts: Path) -> dict[str, Any]:
    """Predict the texts after a few to warm up; return processor and wall time."""
    from textlora import Classifier, hardware

    classifier = Classifier.from_pretrained(folder, device="cpu")
    inputs = json.loads(texts.read_text(encoding="utf-8"))
    classifier.predict_proba(inputs[:WARM_UP])
    watch = Watch()
    with watch.running():
        classifier.predict_proba(inputs)
    return {"cpu": watch.cpu, "wall": watch.wall, "peak_gb": hardware.peak_memory_gb()}


def score(folder: Path, source: Path, out: Path) -> dict[str, Any]:
    """Score a file as the command line does; return the peak of memory, which only the process itself knows."""
    from textlora import cli, hardware

    sys.argv = ["textlora", "predict", str(folder), str(source), "--out", str(out)]
    if cli.run():
        raise SystemExit("scoring failed")
    return {"peak_gb": hardware.peak_memory_gb()}


def main() -> None:
    """Do what the command line says."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    name, *paths = sys.argv[1:]
    answer = {"train": train, "predict": predict, "score": score}[name](*map(Path, paths))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
