r"""Does the audit find wrong labels? Plants some in real data and counts how many of the first suspects they are.

    python -m benchmarks.label_errors --data imdb_train.csv.xz --rows 5000 --share 0.03 --seeds 1,2,3

For every seed rows are drawn, a share of their labels is replaced by another one at random, the file is audited as
any other, and the first suspects, as many as labels were planted, are compared with them. Labels that were wrong
before count as false finds, so the figures are a lower bound. ``--data train.csv`` without ``--rows`` takes all rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import textlora
from benchmarks import machine
from textlora import checks, readers
from textlora.auditing import Audit

RESULTS = Path(__file__).parent / "results" / "label_errors.json"


def main() -> None:
    """Audit once for each seed, print a line for each, and write the means."""
    options = _options()
    trials = [_trial(options, int(seed)) for seed in options.seeds.split(",")]
    figures = {name: float(np.mean([trial[name] for trial in trials])) for name in trials[0] if name != "weights"}
    document = {"data": options.data.name, "command": _command(options), "base_model": options.base_model,
                "figures": figures, "trials": trials, "machine": machine.facts()}  # fmt: skip
    found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
    found[f"{options.data.name} {options.share:g}"] = document
    options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _show("mean", figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="drawn at random; 0 takes all")
    parser.add_argument("--share", type=float, default=0.03, help="of labels that are made wrong")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    return (
        f"python -m benchmarks.label_errors --data {options.data.name} --rows {options.rows} --share {options.share:g} "
        f"--folds {options.folds} --seeds {options.seeds}"
    )


def _trial(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    texts, labels = _rows(options.data, options.rows, seed)
    given, planted = _plant(labels, options.share, seed)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.csv"
        with data.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *zip(texts, given, strict=True)])
        began = time.process_time()
        audit = textlora.audit(data, base_model=options.base_model, folds=options.folds, out=Path(folder) / "audit")
        seconds = time.process_time() - began
    result = {
        "seed": seed,
        "rows": len(texts),
        "planted": len(planted),
        "cpu_seconds": seconds,
        **_scores(audit, planted),
    }
    _show(f"seed {seed}", result)
    return result


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


def _scores(audit: Audit, planted: set[int]) -> dict[str, float]:
    """Return what the suspects, in their order, are worth."""
    hits = np.array([int(one.row) in planted for one in audit.suspects], np.float64)
    first, half = len(planted), len(planted) // 2
    return {
        "precision_first": float(hits[:first].sum() / first),
        "precision_first_half": float(hits[:half].sum() / half),
        "suspects": float(len(hits)),
        "precision_all": float(hits.mean()) if len(hits) else 0.0,
        "recall_all": float(hits.sum() / first),
        "agreement": audit.accuracy,
        "estimated_share": audit.errors.value,
        "estimated_low": audit.errors.low,
        "estimated_high": audit.errors.high,
    }


def _show(title: str, figures: dict[str, Any]) -> None:
    shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if isinstance(value, float))
    print(f"{title:>8}  {shown}", flush=True)


if __name__ == "__main__":
    main()
