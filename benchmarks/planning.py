r"""Is the planner right? Jobs in fresh processes, what was predicted beside what was measured.

    python -m benchmarks.planning --data IMDB.csv
    python -m benchmarks.planning --quick          # six jobs

Two encoders x (LoRA in all layers, top three with cache, full fine-tuning, 4 bits) x three profiles of
text lengths, with a small and a large micro-batch in turn, so that every pair of values occurs. distilbert-base has random weights: time and
memory do not depend on the values. A job is `textlora fit`, without what is before training; full
fine-tuning, which textlora does not offer, is our trainer over Hugging Face's model. The terms are
measured once for each kind of job before, and cached, as for a user.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, models

MODELS = ("embedded", "distilbert-base")
METHODS = ("lora", "top 3, cached", "full", "4 bits")
PROFILES = {"short": (20, 60), "reviews": None, "long": (450, 700)}
BUDGETS = (1024, 3072)
# Tokens of an epoch; enough that the steps outweigh the start.
EPOCH_TOKENS = {"embedded": 260_000, "distilbert-base": 110_000}
SETTINGS = {
    "lora": {"training.epochs": 1},
    "top 3, cached": {"lora.top_layers": 3, "training.epochs": 2, "compute.prefix_cache": True},
    "full": {"training.epochs": 1},
    "4 bits": {"quantization.bits": 4, "training.epochs": 1},
}
TEXTS = 4_000
RESULTS = Path(__file__).parent / "results" / "planning.json"


@dataclass(frozen=True)
class Job:
    """One training, as the grid names it."""

    model: str
    method: str
    profile: str
    budget: int

    @property
    def settings(self) -> dict[str, Any]:
        """What the plan is told."""
        return {
            **SETTINGS[self.method],
            "compute.tokens_per_micro_batch": self.budget,
            "training.batch_size": 32,
            "data.validation_share": 0.1,
            "data.test_share": 0.1,
        }

    def __str__(self) -> str:
        return f"{self.model}, {self.method}, {self.profile}, {self.budget:,} tokens"


def grid() -> list[Job]:
    """Return the jobs: all combinations of three, the budget in turn."""
    combinations = itertools.product(MODELS, METHODS, PROFILES)
    places = [(MODELS.index(m) + METHODS.index(k) + list(PROFILES).index(p)) % 2 for m, k, p in combinations]
    combinations = itertools.product(MODELS, METHODS, PROFILES)
    return [Job(*names, BUDGETS[place]) for names, place in zip(combinations, places, strict=True)]


def main() -> None:
    """Run the jobs one after the other, show predicted beside measured, and write the results and the plot."""
    options = _options()
    jobs = grid() if not options.quick else grid()[::4]
    if options.only:
        jobs = [job for job in grid() if options.only in str(job)]
    results = []
    for job in jobs:
        results.append(_measure(job, options.data))
        print(_line(results[-1]), flush=True)
    summary = summarise(results)
    document = {**machine.facts(), "note": models.NOTE, "jobs": results, "summary": summary}
    options.results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    from benchmarks import planning_picture

    options.results.with_suffix(".svg").write_text(planning_picture.draw(results), encoding="utf-8")
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="IMDB in Kaggle's format; the shipped example without it")
    parser.add_argument("--quick", action="store_true", help="a quarter of the jobs")
    parser.add_argument("--only", help="jobs whose name contains this")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _measure(job: Job, data: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as root:
        source = Path(root) / "reviews.csv"
        write_reviews(source, job, _texts(data))
        request = {"source": str(source), "out": f"{root}/run", "model": str(models.folder_of(job.model)),
                   "settings": job.settings, "full": job.method == "full"}  # fmt: skip
        predicted = _worker("plan", request)
        measured = _worker("full" if job.method == "full" else "fit", request)
    return {**asdict(job), "predicted": predicted, "measured": measured}


def _texts(data: Path | None) -> list[str]:
    import csv
    import gzip
    import lzma

    source = data or Path(__file__).parents[1] / "examples" / "movie_reviews.csv"
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(source.suffix, open)
    with opener(source, "rt", encoding="utf-8", newline="") as stream:
        return [row["review"] for row in itertools.islice(csv.DictReader(stream), TEXTS)]


def _worker(what: str, request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.planning_workers", what]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def write_reviews(path: Path, job: Job, texts: list[str]) -> None:
    """Write a file whose texts have the profile's lengths, about so many that an epoch has ``EPOCH_TOKENS``."""
    import csv
    import random

    draw = random.Random(0)
    words = [word for text in texts for word in text.split()]
    wanted = EPOCH_TOKENS[job.model] / 0.8
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment"])
        tokens = 0.0
        for row, own in enumerate(itertools.cycle(texts)):
            text = own if PROFILES[job.profile] is None else _drawn(words, PROFILES[job.profile], draw)
            writer.writerow([f"{row} {text}", ("positive", "negative")[row % 2]])
            tokens += min(512, 1.28 * len(text.split()))
            if tokens > wanted:
                return


def _drawn(words: list[str], lengths: tuple[int, int], draw: Any) -> str:
    number = draw.randint(*lengths)
    start = draw.randrange(len(words) - number)
    return " ".join(words[start : start + number])


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst and the median error of each figure, and which jobs went beyond what was promised."""
    summary: dict[str, Any] = {"jobs": len(results)}
    for name in ("seconds", "memory_gb"):
        errors = sorted(((_error(result, name), _name(result)) for result in results), key=lambda pair: abs(pair[0]))
        summary[name] = {
            "median": round(abs(errors[len(errors) // 2][0]), 3),
            "worst": round(errors[-1][0], 3),
            "worst_job": errors[-1][1],
        }
    summary["memory_within_10"] = sum(abs(_error(result, "memory_gb")) <= 0.1 for result in results)
    summary["time_within_20"] = sum(abs(_error(result, "seconds")) <= 0.2 for result in results)
    summary["beyond_15"] = [_name(result) for result in results if _error(result, "memory_gb") < -0.15 / 1.15]
    return summary


def _error(result: dict[str, Any], name: str) -> float:
    return float(result["predicted"][name] / result["measured"][name] - 1)


def _name(result: dict[str, Any]) -> str:
    return str(Job(**{name: result[name] for name in ("model", "method", "profile", "budget")}))


def _line(result: dict[str, Any]) -> str:
    parts = [
        f"{name.split('_')[0]} {result['predicted'][name]:.2f} against {result['measured'][name]:.2f} ({100 * _error(result, name):+.0f} %)"
        for name in ("seconds", "memory_gb")
    ]
    return f"{_name(result):<50} {', '.join(parts)}"


if __name__ == "__main__":
    main()
