r"""Does the audit find wrong labels? Plants some in real data and looks where they are in the list for the review.

    python -m benchmarks.label_errors --data imdb_train.csv.xz --share 0.03 --seeds 1,2,3

For every seed a share of the labels is replaced by another one at random and the file is audited as any other, with the
verb's defaults. Then the list is compared with what was planted. Labels that were wrong before count as false finds,
so the figures are lower bounds. ``--rows`` takes so many rows, drawn by the seed, instead of all of them.

The hidden states of the texts do not depend on the labels; where all rows are taken, the seeds after the first one
find those of the first one.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import textlora
from benchmarks import machine
from textlora import auditing, checks, readers
from textlora.auditing import Audit

RESULTS = Path(__file__).parent / "results" / "label_errors.json"
ORDER = 0
"""Seed of the order of rows where all are taken."""


def main() -> None:
    """Audit once for each seed, print a line for each, and write the means."""
    options = _options()
    with tempfile.TemporaryDirectory() as shared:
        trials = [_trial(options, int(seed), Path(shared)) for seed in options.seeds.split(",")]
    figures = {name: float(np.mean([trial[name] for trial in trials])) for name in _scores_of(trials[0])}
    spread = {name: float(np.ptp([trial[name] for trial in trials])) for name in _scores_of(trials[0])}
    document = {"data": options.data.name, "command": _command(options), "base_model": options.base_model,
                "figures": figures, "spread": spread, "trials": trials, "machine": machine.facts()}  # fmt: skip
    found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
    found[f"{options.data.name}, {trials[0]['rows']:,} rows, {options.share:.0%} planted"] = document
    options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _show("mean", figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="drawn at random; 0 takes all")
    parser.add_argument("--share", type=float, default=0.03, help="of labels that are made wrong")
    parser.add_argument("--folds", type=int, default=auditing.FOLDS)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    return (
        f"python -m benchmarks.label_errors --data {options.data.name} --rows {options.rows} --share {options.share:g} "
        f"--folds {options.folds} --seeds {options.seeds}"
    )


def _trial(options: argparse.Namespace, seed: int, shared: Path) -> dict[str, Any]:
    texts, labels = _rows(options.data, options.rows, seed if options.rows else ORDER)
    given, planted = _plant(labels, options.share, seed)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.csv", Path(folder) / "audit"
        with data.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *zip(texts, given, strict=True)])
        shutil.copytree(shared, out / auditing.WORK)
        began = time.process_time()
        audit = textlora.audit(
            data, base_model=options.base_model, folds=options.folds, out=out, progress=_keeper(out, shared)
        )
        seconds = time.process_time() - began
    trial = {"seed": seed, "rows": len(texts), "planted": len(planted), "cpu_seconds": seconds,
             "weights": audit.description, **_scores(audit, planted)}  # fmt: skip
    _show(f"seed {seed}", _scores_of(trial) | {"cpu seconds": seconds})
    return trial


def _keeper(out: Path, shared: Path) -> Callable[..., None]:
    """Return what copies the finished hidden states away, once they are there, for the next seed."""

    def keep(stage: str, *_: object) -> None:
        if stage.startswith("learn") and not any(shared.iterdir()):
            for states in (out / auditing.WORK).glob("*/states.bin"):
                shutil.copytree(states.parent, shared / states.parent.name)

    return keep


def _rows(path: Path, count: int, seed: int) -> tuple[list[str], list[str]]:
    """Return texts and labels, no text twice, in random order."""
    table = readers.open_table(path)
    columns = readers.find_columns(table.head(), table.columns, where=table.name)
    places = [table.columns.index(name) for name in (columns.text, columns.label)]
    pairs: dict[str, str] = {}
    for row in table:
        if isinstance(row, readers.Row):
            text, label = (str(row.values[place]) for place in places)
            pairs.setdefault(checks.clean_text(text), label)
    chosen = random.Random(seed).sample(sorted(pairs), count or len(pairs))
    return chosen, [pairs[text] for text in chosen]


def _plant(labels: Sequence[str], share: float, seed: int) -> tuple[list[str], set[int]]:
    """Return the labels with a share of wrong ones, and where these are."""
    names, draw = sorted(set(labels)), random.Random(seed + 1000)
    planted = set(draw.sample(range(len(labels)), round(share * len(labels))))
    return [
        draw.choice([name for name in names if name != label]) if place in planted else label
        for place, label in enumerate(labels)
    ], planted


SCORES = (
    "precision_first", "precision_first_half", "average_precision", "suspects", "precision_all", "recall_all",
    "agreement", "estimated_share", "estimated_low", "estimated_high",
)  # fmt: skip


def _scores_of(trial: dict[str, Any]) -> dict[str, float]:
    return {name: trial[name] for name in SCORES}


def _scores(audit: Audit, planted: set[int]) -> dict[str, float]:
    """Return what the list is worth.

    ``precision_first`` is among as many rows as were planted, so that it is the recall among them too. In
    ``average_precision`` what the list leaves out counts as never found.
    """
    hits = np.array([int(one.row) in planted for one in audit.suspects], np.float64)
    first, half = len(planted), len(planted) // 2
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    return {
        "precision_first": float(hits[:first].sum() / first),
        "precision_first_half": float(hits[:half].sum() / half),
        "average_precision": float((precisions * hits).sum() / first),
        "suspects": float(len(hits)),
        "precision_all": float(hits.mean()) if len(hits) else 0.0,
        "recall_all": float(hits.sum() / first),
        "agreement": audit.accuracy,
        "estimated_share": audit.errors.value,
        "estimated_low": audit.errors.low,
        "estimated_high": audit.errors.high,
    }


def _show(title: str, figures: dict[str, float]) -> None:
    print(f"{title:>8}  {'  '.join(f'{name} {value:.3f}' for name, value in figures.items())}", flush=True)


if __name__ == "__main__":
    main()
