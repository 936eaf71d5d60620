"""Training: textlora beside Hugging Face and PEFT, in one run, on one machine.

    python -m benchmarks.train [--quick] [--json] [--data FILE] [--rounds N]

Every leg trains on the same reviews; they take turns round by round. Shapes of distilbert-base with
random weights (timing does not depend on the values), then the embedded model with its own.

    stock         Trainer + PEFT with the usual recipe: fp32, padded to 512, batches of 4, dropout
    tuned         the fastest that plain Hugging Face + PEFT get on this machine, by trial
    full          textlora with the adapters of stock, in all layers
    full_default  textlora's default recipe: rank 16 on every linear layer
    fast          textlora's recipe fast: frozen layers once, then three epochs; per epoch
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from benchmarks import command, floor, models, reviews
from benchmarks.command import Options
from benchmarks.measuring import CLOCKS, Cost, Leg, interleave, middle, ratio, run_child, summary, tell
from benchmarks.reviews import Reviews
from benchmarks.training_legs import BATCH, FastLeg, OurLeg, StockLeg, TunedLeg
from textlora import allocation, planning
from textlora.settings import Settings
from textlora.types import Plan

STOCK_ADAPTERS = {"lora.r": 8, "lora.lora_alpha": 16, "lora.target_modules": ("q_lin", "v_lin")}
MEMORY_STEPS = 160
QUICK_MEMORY_STEPS = 18
# From here on memory should no longer grow: all lengths have been seen.
SETTLED_STEP = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("train", __doc__ or "", rounds=5, arguments=arguments)
    # Process-wide, so all legs gain by it, stock and tuned too.
    allocation.keep_freed_memory()
    steps = QUICK_MEMORY_STEPS if options.quick else MEMORY_STEPS
    found = reviews.load(options.data, 1024 if options.quick else BATCH * MEMORY_STEPS)
    tell(f"{len(found)} reviews of {options.data.name}, {found.mean_length} tokens on average\n{models.NOTE}")
    base = _compare("distilbert-base", found, options)
    memory = _memory(found, steps)
    embedded = _compare("embedded", found, options)
    details = {
        "note": models.NOTE,
        "counted": "loading, forward, backward and optimiser; not tokenizing, evaluation and saving. "
        "keep_freed_memory() holds for the whole process, so for all legs.",
        "reviews": {"mean_tokens": found.mean_length, "share_cut": _share_cut(found)},
        "distilbert-base": base,
        "embedded": embedded,
        "memory": memory,
    }
    command.finish(options, _figures(base, embedded, memory), details)


def _share_cut(found: Reviews) -> float:
    return round(float((found.lengths == reviews.MAX_LENGTH).mean()), 4)


def _figures(base: Mapping[str, Any], embedded: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base["ratios"]["cpu"],
        "floor_share": base["floor_share"],
        "floor_share_peak": base["floor_share_peak"],
        "peak_rss_gb": memory["peak_gb"],
        "rss_growth": memory["growth"],
        **{f"embedded_{name}": value for name, value in embedded["ratios"]["cpu"].items()},
        **{f"wall_{name}": value for name, value in base["ratios"]["wall"].items()},
    }


def _compare(model: str, found: Reviews, options: Options) -> dict[str, Any]:
    tell(f"\n{model}")
    folder = models.folder_of(model)
    plans = _plans(found, folder)
    full = plans["full"]
    tuned = TunedLeg(folder, found.names, str(full.compute.precision))
    tried = {} if options.quick else tuned.tune(found.spread(2 * BATCH, -1))
    tell(f"tuned uses {tuned.tuning}; tried (ms): {tried or 'nothing else'}")
    fast = FastLeg(folder)
    epochs = {
        "stock": StockLeg(folder, found.names).epoch,
        "tuned": tuned.epoch,
        **{name: OurLeg(folder, found.names, settings).epoch for name, settings in plans.items()},
        "fast": fast.epoch,
    }
    costs = interleave(_legs(epochs, found, quick=options.quick), options.rounds)
    tell("  the products alone …")
    least = _floor(folder, found, full)
    measured = middle(costs["full"], "cpu")
    return {
        "legs": summary(costs),
        "ratios": {clock: _ratios(costs, clock) for clock in CLOCKS},
        "floor": least.described(),
        "floor_share": least.own / measured,
        "floor_share_peak": least.peak / measured,
        "tuned": {"used": str(tuned.tuning), "tried_ms": tried},
        "settings": {name: _shown(settings) for name, settings in {**plans, "fast": fast.settings}.items() if settings},
    }


def _ratios(costs: Mapping[str, list[Cost]], clock: str) -> dict[str, float]:
    pairs = (("full", "stock"), ("full", "tuned"), ("fast", "stock"), ("fast", "tuned"))
    ratios = {f"{ours}_vs_{theirs}": ratio(costs, theirs, ours, clock) for ours, theirs in pairs}
    default = {
        f"full_default_vs_{theirs}": ratio(costs, theirs, "full_default", clock) for theirs in ("stock", "tuned")
    }
    return ratios | default


def _legs(epochs: Mapping[str, Callable[[Reviews], Cost]], found: Reviews, *, quick: bool) -> dict[str, Leg]:
    """Warm every leg up, and let it train on other reviews each round."""
    # Padded to 512, every review costs stock the same, so few of them tell as much.
    counts = dict.fromkeys(epochs, BATCH * (2 if quick else 8))
    counts["stock"] = 8 if quick else BATCH
    tell("  warming up …")
    for name, epoch in epochs.items():
        if name != "fast":  # which builds its model anew each time and leaves out the first step
            epoch(found.spread(counts[name] // 2, -1))
    return {
        name: (lambda number, name=name, epoch=epoch: epoch(found.spread(counts[name], number)))
        for name, epoch in epochs.items()
    }


def _plans(found: Reviews, folder: Path) -> dict[str, Settings]:
    """Return what textlora decides for this machine with either set of adapters."""
    with tempfile.TemporaryDirectory() as scratch:
        data = reviews.data_set(found, Path(scratch))

        def settings(assignments: dict[str, Any]) -> Settings:
            # A small file would get smaller batches; a step is 32 reviews here.
            asked = {"training.batch_size": BATCH, **assignments}
            return planning.plan(data, base_model=str(folder), assignments=asked).settings

        return {"full": settings(STOCK_ADAPTERS), "full_default": settings({})}


def _shown(settings: Settings) -> dict[str, Any]:
    return {"compute": settings.compute.model_dump(), "lora": settings.lora.model_dump()}


def _floor(folder: Path, found: Reviews, settings: Settings) -> floor.Floor:
    tokens = int(settings.compute.tokens_per_micro_batch or 0)
    shape = floor.Shape.of(AutoConfig.from_pretrained(folder), found.lengths, tokens)
    products = floor.training_products(shape, settings.lora.r, settings.lora.target_modules or ())
    return floor.measure(products, shape.texts, str(settings.compute.precision))


def _memory(found: Reviews, steps: int) -> dict[str, Any]:
    """Train with the default recipe in a process of its own, and look at its memory after each step."""
    tell(f"\nmemory over {steps} steps of the default recipe, in a process of its own …")
    with tempfile.TemporaryDirectory() as scratch:
        some = found.spread(min(len(found), BATCH * steps), 0)
        data = reviews.data_set(some, Path(scratch))
        plan = _memory_plan(data, epochs=steps * BATCH / len(some))
        planning.save_plan(data.folder / "plan.toml", plan)
        answer = run_child([sys.executable, "-m", "benchmarks.workers", "train", str(data.folder)]).answer
    resident = answer["resident_gb"]
    settled = SETTLED_STEP if len(resident) >= 1.5 * SETTLED_STEP else len(resident) // 3
    last = resident[-max(1, len(resident) // 10) :]
    return {**answer, "settled_step": settled, "growth": max(last) / resident[settled - 1] - 1}


def _memory_plan(data: Any, *, epochs: float) -> Plan:
    asked = {"training.batch_size": BATCH, "training.epochs": epochs}
    return planning.plan(data, base_model=str(models.distilbert_folder()), assignments=asked)


if __name__ == "__main__":
    main()
