"""Prediction: textlora beside pipeline, plain Hugging Face and ONNX Runtime, in one run, on one machine.

    python -m benchmarks.predict [--quick] [--json] [--data FILE] [--rounds N]

One classifier with distilbert-base's shapes (random weights, trained for a step or two) answers the
same texts in all legs; tokenizing counts. Long texts keep their first 512 tokens everywhere.

    pipeline    transformers' pipeline on the merged folder, as its documentation shows
    tuned       the fastest that plain Hugging Face gets on this machine, by trial
    onnx_int8   ONNX Runtime, dynamic int8, texts sorted by length
    ours        Classifier.predict_proba
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

import textlora
from benchmarks import command, floor, models, reviews
from benchmarks.measuring import CLOCKS, Cost, Leg, Watch, interleave, middle, ratio, summary, tell
from benchmarks.prediction_legs import (
    ONNX_INSTALL,
    OnnxLeg,
    OurPredictionLeg,
    PipelineLeg,
    PredictionLeg,
    TunedPredictionLeg,
)
from benchmarks.reviews import Reviews
from benchmarks.training_legs import TRIES, TUNINGS, Tuning
from textlora import allocation, encoder, planning, training
from textlora.engines.torch_engine import TOKENS_PER_MICRO_BATCH
from textlora.settings import Settings

TRAINED = 64
COMPARED = 64
# Rounding to bf16, and to int8, on logits of a barely trained head.
TOLERANCE = {"pipeline": 0.02, "tuned": 0.02, "onnx_int8": 0.1}
OTHERS = ("pipeline", "tuned", "onnx_int8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("predict", __doc__ or "", rounds=5, arguments=arguments)
    allocation.keep_freed_memory()
    found = reviews.load(options.data, 1024 if options.quick else 5120)
    tell(f"{len(found)} reviews of {options.data.name}, {found.mean_length} tokens on average\n{models.NOTE}")
    with tempfile.TemporaryDirectory() as scratch:
        settings, run, merged = _classifier(found, Path(scratch))
        legs = _make_legs(run, merged, Path(scratch), str(settings.compute.precision))
        differences = _agree(legs, found.texts[:COMPARED])
        tried = (
            {} if options.quick else {name: _tune(legs[name], found) for name in ("tuned", "onnx_int8") if name in legs}
        )
        costs = interleave(_timed_legs(legs, found, quick=options.quick), options.rounds)
    least = _floor(found, settings)
    measured = middle(costs["ours"], "cpu")
    details = {
        "note": models.NOTE,
        "reviews": {"mean_tokens": found.mean_length},
        "legs": summary(costs),
        "ratios": {clock: _ratios(costs, clock) for clock in CLOCKS},
        "differences": differences,
        "tuned": {
            "tried_ms": tried,
            "used": {name: str(legs[name].tuning) for name in ("tuned", "onnx_int8") if name in legs},
        },
        "floor": least.described(),
        "settings": settings.compute.model_dump(),
    }
    figures = {
        **_ratios(costs, "cpu"),
        "floor_share": least.own / measured,
        "floor_share_peak": least.peak / measured,
        **{f"wall_{name}": value for name, value in _ratios(costs, "wall").items()},
    }
    command.finish(options, figures, details)


def _ratios(costs: Mapping[str, list[Cost]], clock: str) -> dict[str, float | None]:
    return {f"vs_{name}": ratio(costs, name, "ours", clock) if name in costs else None for name in OTHERS}


def _classifier(found: Reviews, scratch: Path) -> tuple[Settings, Path, Path]:
    """Train a classifier for a step or two; return its settings, run folder and merged folder."""
    tell("training a classifier for two steps …")
    data = reviews.data_set(found.spread(TRAINED, 0), scratch)
    # Hugging Face's own truncation keeps the head.
    asked = {"training.epochs": 1, "training.batch_size": 32, "text.policy": "head"}
    plan = planning.plan(data, base_model=str(models.distilbert_folder()), assignments=asked)
    with encoder.quiet_libraries():
        run = training.train(plan, data)
        exported = textlora.export(run, to="hf", out=scratch / "merged")
    return plan.settings, run.folder, exported.folder


def _make_legs(run: Path, merged: Path, scratch: Path, precision: str) -> dict[str, Any]:
    legs: dict[str, Any] = {
        "pipeline": PipelineLeg(merged),
        "tuned": TunedPredictionLeg(merged, precision),
        "ours": OurPredictionLeg(run),
    }
    try:
        legs["onnx_int8"] = OnnxLeg(merged, scratch / "onnx")
    except ImportError as error:
        tell(f"no leg onnx_int8: {error}\ninstall it with: {ONNX_INSTALL}")
    return legs


def _agree(legs: Mapping[str, PredictionLeg], texts: Sequence[str]) -> dict[str, float]:
    """Return the largest difference of probabilities between each leg and ours.

    Raises:
        ValueError: it is more than rounding explains.
    """
    ours = legs["ours"].probabilities(texts)
    found = {name: float(np.abs(leg.probabilities(texts) - ours).max()) for name, leg in legs.items() if name != "ours"}
    for name, difference in found.items():
        tell(f"  {name:<14} probabilities differ from ours by at most {difference:.2g}")
        if not difference <= TOLERANCE[name]:
            raise ValueError(f"{name} answers differently: by {difference:.2g}, allowed {TOLERANCE[name]}")
    return found


def _tune(leg: Any, found: Reviews) -> dict[str, float]:
    """Let a leg choose its kernel, passes and padding; return the milliseconds per text of each choice."""
    texts = found.spread(COMPARED, -1).texts
    tried: dict[Tuning, float] = {}
    for name, values in TUNINGS.items():
        if name == "kernel" and isinstance(leg, OnnxLeg):
            continue
        candidates = [replace(leg.tuning, **{name: value}) for value in values]
        for tuning in candidates:
            if tuning not in tried:
                leg.use(tuning)
                tried[tuning] = min(_predict(leg, texts).each("cpu") for _ in range(TRIES))
        leg.use(min(candidates, key=tried.__getitem__))
    return {str(tuning): round(1000 * seconds, 2) for tuning, seconds in tried.items()}


def _predict(leg: PredictionLeg, texts: Sequence[str]) -> Cost:
    watch = Watch()
    with watch.running():
        leg.probabilities(texts)
    return watch.cost(len(texts))


def _timed_legs(legs: Mapping[str, PredictionLeg], found: Reviews, *, quick: bool) -> dict[str, Leg]:
    counts = dict.fromkeys(legs, 128 if quick else 1024)
    # One text at a time, the length of each counts only once: fewer texts tell as much.
    counts["pipeline"] = counts["pipeline"] // 4
    for name, leg in legs.items():
        _predict(leg, found.spread(counts[name] // 2, -1).texts)
    return {
        name: (lambda number, name=name, leg=leg: _predict(leg, found.spread(counts[name], number).texts))
        for name, leg in legs.items()
    }


def _floor(found: Reviews, settings: Settings) -> floor.Floor:
    shape = floor.Shape.of(
        AutoConfig.from_pretrained(models.distilbert_folder()), found.lengths, TOKENS_PER_MICRO_BATCH["cpu"]
    )
    return floor.measure(floor.prediction_products(shape), shape.texts, str(settings.compute.precision))


if __name__ == "__main__":
    main()
