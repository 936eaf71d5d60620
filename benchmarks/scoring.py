"""Scoring files: time and memory of ``textlora predict FILE --out`` against the number of rows.

    python -m benchmarks.scoring [--quick] [--json] [--data FILE] [--rounds N]

Every point is a command in a process of its own, start-up included. The rows are eight words long, so that many
of them take little time: how cost grows with rows does not depend on their length. The classifier has the embedded
model, trained on the data for an epoch before. At last the same rows as Parquet, for what the format costs.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import command, reviews, scoring_picture
from benchmarks.measuring import run_child, tell

SIZES = (1_000, 4_000, 16_000, 64_000)
QUICK_SIZES = (500, 2_000, 8_000)
WORDS = 8
TRAINED = 64
PICTURE = command.ROOT / "docs" / "images" / "scoring.svg"

Points = Mapping[int, Sequence[Mapping[str, float]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file and, unless it was quick, the picture."""
    options = command.parse("scoring", __doc__ or "", rounds=1, arguments=arguments)
    sizes = QUICK_SIZES if options.quick else SIZES
    found = reviews.load(options.data, sizes[0])
    with tempfile.TemporaryDirectory() as scratch:
        tell("training a classifier for one epoch …")
        run = reviews.trained(found.spread(TRAINED, 0), Path(scratch))
        points: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for _ in range(options.rounds):
            for size in sizes:
                points[size].append(_score(run, found.texts, size, Path(scratch), ".csv"))
        parquet = _score(run, found.texts, sizes[-1], Path(scratch), ".parquet")
    fit = _fit(points)
    figures = {**fit, "parquet_vs_csv": parquet["cpu"] / _middle(points, "cpu")[-1]}
    command.finish(options, figures, {"by_rows": points, "parquet": parquet, "words_per_row": WORDS})
    if not options.quick:
        PICTURE.write_text(scoring_picture.draw(points, fit, WORDS), encoding="utf-8")


def _score(run: Path, texts: Sequence[str], rows: int, scratch: Path, suffix: str) -> dict[str, float]:
    source, out = scratch / "rows.csv", scratch / f"scored{suffix}"
    with source.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "text"))
        writer.writerows((number, _few_words(texts, number)) for number in range(rows))
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.workers", "score", str(run), str(source), str(out)]
    child = run_child(words)
    # What the system says of a child's peak counts its parent's as well.
    peak = float(child.answer["peak_gb"])
    tell(
        f"  {rows:>7,} rows to {suffix:<8} {child.cost.cpu:8.2f} s of processor time, {child.cost.wall:8.2f} s of wall time, "
        f"{peak:5.2f} GB"
    )
    return {"cpu": child.cost.cpu, "wall": child.cost.wall, "peak_gb": peak}


def _few_words(texts: Sequence[str], number: int) -> str:
    """Return eight words of a review; each time that it comes again, the next eight."""
    words = texts[number % len(texts)].split()
    start = number // len(texts) * WORDS % max(1, len(words) - WORDS)
    return " ".join(words[start : start + WORDS])


def _fit(points: Points) -> dict[str, float]:
    """Return how near the times are to a line, what a row costs, and how far rows and memory grow beyond proportion.

    ``cost_growth`` is the cost of a row among the last three quarters of the largest file over that among those of
    the file before it, less one: 0 is linear. ``rss_growth`` compares the peaks of the largest file and of the
    second, which fills a block.
    """
    sizes = np.array(list(points), dtype=float)
    times, peaks = np.array(_middle(points, "cpu")), _middle(points, "peak_gb")
    slope, start = np.polyfit(sizes, times, 1)
    rest = times - (slope * sizes + start)
    marginal = np.diff(times) / np.diff(sizes)
    return {
        "time_r2": float(1 - (rest**2).sum() / ((times - times.mean()) ** 2).sum()),
        "cost_growth": float(marginal[-1] / marginal[-2] - 1),
        "ms_per_row": float(1000 * slope),
        "start_seconds": float(start),
        "rss_growth": peaks[-1] / peaks[1] - 1,
    }


def _middle(points: Points, what: str) -> list[float]:
    return [median(point[what] for point in found) for found in points.values()]


if __name__ == "__main__":
    main()
