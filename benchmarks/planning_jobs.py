"""The jobs that the planner is judged by, and the texts that they train on."""

from __future__ import annotations

import csv
import gzip
import itertools
import lzma
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = ("embedded", "distilbert-base")
METHODS = ("lora", "top 3, cached", "full", "4 bits")
# Words of a text, from and to; None for the reviews as they are.
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
EXAMPLE = Path(__file__).parents[1] / "examples" / "movie_reviews.csv"


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
    jobs = []
    for (m, model), (k, method), (p, profile) in itertools.product(*map(enumerate, (MODELS, METHODS, PROFILES))):
        jobs.append(Job(model, method, profile, BUDGETS[(m + k + p) % 2]))
    return jobs


def read_texts(data: Path | None) -> list[str]:
    """Return the first reviews of a file in Kaggle's format, of the shipped example without one."""
    source = data or EXAMPLE
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(source.suffix, open)
    with opener(source, "rt", encoding="utf-8", newline="") as stream:
        return [row["review"] for row in itertools.islice(csv.DictReader(stream), TEXTS)]


def write_reviews(path: Path, job: Job, texts: list[str]) -> None:
    """Write a file whose texts have the profile's lengths, about so many that an epoch has ``EPOCH_TOKENS``."""
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


def _drawn(words: list[str], lengths: tuple[int, int], draw: random.Random) -> str:
    number = draw.randint(*lengths)
    start = draw.randrange(len(words) - number)
    return " ".join(words[start : start + number])
