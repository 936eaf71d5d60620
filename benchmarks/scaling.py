"""Scaling: time and memory against the number of reviews and their length, with the embedded model.

    python -m benchmarks.scaling [--quick] [--json] [--data FILE] [--rounds N]

Every point is a process of its own. Time should grow in proportion to the reviews, and memory should
not grow with them. With the number of tokens fixed, time per token grows with the texts' length only
by what attention costs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import command, reviews
from benchmarks.command import Options
from benchmarks.measuring import run_child, tell
from benchmarks.reviews import Reviews
from textlora import embedded, planning

SIZES = (1_000, 4_000, 16_000)
QUICK_SIZES = (100, 400, 1_600)
LENGTHS = (32, 64, 128, 256, 512)
TOKENS = 131_072
QUICK_TOKENS = 32_768
TRAINED = 64
# A word that the tokenizer keeps whole; two more tokens mark the ends of a text.
WORD = "film"
MARKS = 2

Point = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("scaling", __doc__ or "", rounds=1, arguments=arguments)
    sizes = QUICK_SIZES if options.quick else SIZES
    found = reviews.load(options.data, sizes[-1])
    with tempfile.TemporaryDirectory() as scratch:
        run = reviews.trained(found.spread(TRAINED, 0), Path(scratch))
        by_size = {
            "predict": _points("predict", sizes, lambda size: _predict(run, found.spread(size, 0).texts), options),
            "train": _points("train", sizes, lambda size: _train(found.spread(size, 0)), options),
        }
        by_length = _points("length", LENGTHS, lambda length: _predict(run, _texts(length, options.quick)), options)
    fits = {name: _fit(points) for name, points in by_size.items()}
    figures = {
        "time_r2": min(fit["time_r2"] for fit in fits.values()),
        "rss_growth": max(fit["rss_growth"] for fit in fits.values()),
        **{f"{name}_{key}": value for name, fit in fits.items() for key, value in fit.items()},
        "length_512_vs_32": _cpu(by_length[512]) / _cpu(by_length[32]),
    }
    details = {"fits": fits, "by_size": by_size, "by_length": by_length, "mean_tokens": found.mean_length}
    command.finish(options, figures, details)


def _points(
    what: str, values: Sequence[int], measure: Callable[[int], Point], options: Options
) -> dict[int, list[Point]]:
    """Measure at every value, round by round."""
    points: dict[int, list[Point]] = {value: [] for value in values}
    for _ in range(options.rounds):
        for value in values:
            point = measure(value)
            points[value].append(point)
            tell(
                f"  {what:<8} {value:>7,}  {point['cpu']:8.2f} s of processor time, "
                f"{point['wall']:8.2f} s of wall time, {point['peak_gb']:6.2f} GB"
            )
    return points


def _fit(points: Mapping[int, list[Point]]) -> dict[str, float]:
    """Return how well a line fits the times, their exponent, and how far the peak memory grows."""
    sizes = np.array(list(points), dtype=float)
    times = np.array([_cpu(found) for found in points.values()])
    peaks = [median(point["peak_gb"] for point in found) for found in points.values()]
    rest = times - np.polyval(np.polyfit(sizes, times, 1), sizes)
    return {
        "time_r2": float(1 - (rest**2).sum() / ((times - times.mean()) ** 2).sum()),
        "time_exponent": float(np.polyfit(np.log(sizes), np.log(times), 1)[0]),
        "rss_growth": max(peaks) / min(peaks) - 1,
    }


def _cpu(found: Sequence[Point]) -> float:
    return median(float(point["cpu"]) for point in found)


def _predict(run: Path, texts: Sequence[str]) -> Point:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "texts.json"
        file.write_text(json.dumps(list(texts)), encoding="utf-8")
        return _worker("predict", run, file)


def _train(found: Reviews) -> Point:
    with tempfile.TemporaryDirectory() as scratch:
        data = reviews.data_set(found, Path(scratch))
        asked = {"training.epochs": 1, "training.batch_size": 32}
        plan = planning.plan(data, base_model=embedded.NAME, assignments=asked)
        planning.save_plan(data.folder / "plan.toml", plan)
        return _worker("train", data.folder)


def _worker(name: str, *paths: Path) -> Point:
    answer = run_child([sys.executable, "-m", "benchmarks.workers", name, *map(str, paths)]).answer
    return {key: answer[key] for key in ("cpu", "wall", "peak_gb")}


def _texts(length: int, quick: bool) -> list[str]:
    """Return texts of exactly ``length`` tokens, always the same number of tokens together."""
    return [" ".join([WORD] * (length - MARKS))] * ((QUICK_TOKENS if quick else TOKENS) // length)


if __name__ == "__main__":
    main()
