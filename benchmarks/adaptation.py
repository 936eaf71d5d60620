r"""What an adapted encoder is worth: fine-tunes on the same rows with and without adaptation.

    python -m benchmarks.adaptation IMDB.csv --set limits.minutes=12 --rows 3000 --seeds 1,2

The file is prepared once. The encoder is adapted to the texts of its training split; ``--rows`` rows of that
split are fine-tuned on, and its validation split scores. The test split is never looked at. One line an
adaptation or training goes to ``--results`` as it ends.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import textlora
from benchmarks import machine, reviews
from textlora import adaptation, api, settings, training
from textlora.adaptation.settings import parse
from textlora.types import Split

SEED = 7


def main() -> None:
    """Adapt once, then fine-tune for each seed on both encoders."""
    options = _options()
    with tempfile.TemporaryDirectory() as root:
        chosen = settings.parse_assignments(options.prepare)
        source = api.prepare_folder(
            options.data, Path(root) / "all", api.DataOptions(), api.PlanOptions(options.base_model, "default", chosen)
        )
        dataset = _few(source, options.rows, Path(root))
        encoder = Path(root) / "encoder"
        made = textlora.adapt(source, out=encoder, base_model=options.base_model, assignments=parse(options.set))
        _note(options, {"what": "adaptation", **_adaptation(made)})
        print(f"perplexity {made.perplexity_before:.2f} -> {made.perplexity_after:.2f}, {made.cpu_seconds:.0f} CPU s")
        for seed in options.seeds.split(","):
            for name, base in (("as it is", options.base_model), ("adapted", str(encoder))):
                _note(options, _trial(options, dataset, int(seed), name, base))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the adaptation")
    parser.add_argument("--train", action="append", default=[], metavar="NAME=VALUE", help="of the trainings")
    parser.add_argument("--data", dest="prepare", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--rows", type=int, default=3_000, help="rows to fine-tune on")
    parser.add_argument("--seeds", default="1,2", help="seeds of the trainings, separated by commas")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "adaptation.jsonl")
    return parser.parse_args()


def _few(source: textlora.Dataset, rows: int, root: Path) -> textlora.Dataset:
    """Return a data set of some rows of the training split, and all of the validation split."""
    drawn = random.Random(SEED).sample(range(len(source.train)), rows)
    parts = {"train": _rows(source, source.train, drawn), "validation": _rows(source, source.validation)}
    paths = {name: reviews.write_csv(root / f"{name}.csv", part) for name, part in parts.items()}
    options = api.DataOptions(text="text", label="label", validation=paths["validation"])
    return api.prepare_folder(
        paths["train"], root / "few", options, api.PlanOptions("embedded", "default", {"data.test_share": 0.01})
    )


def _rows(source: textlora.Dataset, split: Split, places: Any = None) -> reviews.Reviews:
    places = range(len(split)) if places is None else places
    labels = tuple(source.label_names[split.labels[place]] for place in places)
    return reviews.Reviews(tuple(split.texts[place] for place in places), labels, ())


def _adaptation(made: textlora.Adaptation) -> dict[str, Any]:
    facts = asdict(made.plan.corpus)
    return {
        "corpus": {name: facts[name] for name in ("texts", "pieces", "tokens", "held_out")},
        "settings": adaptation.settings.flatten(made.plan.settings),
        "steps": made.steps,
        "head_steps": made.plan.head_steps,
        "best_step": made.best_step,
        "perplexities": {int(e["step"]): e["eval_perplexity"] for e in made.history if "eval_perplexity" in e},
        "seconds": made.seconds,
        "cpu_seconds": made.cpu_seconds,
        "peak_memory_gb": made.peak_memory_gb,
        "predicted_seconds": made.plan.estimate.seconds,
        "predicted_memory_gb": made.plan.estimate.memory_gb,
        "tokens_per_second": made.tokens_per_second,
    }


def _trial(options: argparse.Namespace, dataset: textlora.Dataset, seed: int, name: str, base: str) -> dict[str, Any]:
    chosen = settings.parse_assignments([*options.train, f"seed={seed}"])
    plan = textlora.plan(dataset, base_model=base, recipe=options.recipe, assignments=chosen)
    with tempfile.TemporaryDirectory() as folder:
        run = training.train(plan, dataset, folder=Path(folder))
    best = next(entry for entry in run.history if "eval_loss" in entry and entry["step"] == run.best_step)
    print(f"{name:>10} seed {seed}: accuracy {best['eval_accuracy']:.4f}, loss {best['eval_loss']:.4f}", flush=True)
    return {
        "what": "fine-tuning",
        "encoder": name,
        "seed": seed,
        "recipe": options.recipe,
        "rows": len(dataset.train),
        "best": best,
        "cpu_seconds": run.cpu_seconds,
    }


def _note(options: argparse.Namespace, result: dict[str, Any]) -> None:
    line = {"data": options.data.name, "base_model": options.base_model, **result, "machine": machine.facts()}
    with options.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
