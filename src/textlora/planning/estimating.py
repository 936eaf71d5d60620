"""Time, memory and disk of a plan, from operation counts and measured rates.

The constants are rough fits to a few single-step timings of DistilBERT and MiniLM-L6, on two Xeon
cores with AMX and on one Zen 5 core; those for GPUs are assumptions. No whole run has checked them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from textlora.batching import ROW_STEP, micro_batches, packed_batches, padded_length
from textlora.models import BaseInfo
from textlora.planning.grounds import QUANTILES, Choices, Grounds
from textlora.settings import Settings
from textlora.types import Estimate, Machine

# Share of the probe's rate that the products inside the model reach.
GEMM_EFFICIENCY = {"cpu": 0.9, "cuda": 0.35, "mps": 0.35}
# Core-seconds per token, layer and hidden unit for all that is not a matrix product.
ELEMENT_SECONDS = {"train": 40e-9, "predict": 15e-9}
# Core-seconds per token, layer, head and attended token for the softmax under eager attention.
SOFTMAX_SECONDS = {"train": 4e-9, "predict": 1.5e-9}
# A small encoder on a GPU waits for its kernels to be launched.
LAUNCH_SECONDS = 0.015
STEP_SECONDS = 0.02
# Loading libraries and weights, saving, and the check in a fresh process.
START_SECONDS = {"train": 20.0, "evaluate": 8.0}
TOKENIZE_SECONDS = 1.2e-6
BASELINE_SECONDS = 4e-6
# GFLOP/s when nothing was measured: per core, or of a whole small GPU.
ASSUMED_RATES = {
    "fp32": 60.0,
    "fp32_onednn": 60.0,
    "bf16": 200.0,
    "fp16": 15.0,
    "gpu_fp32": 5e3,
    "gpu_fp16": 2e4,
    "gpu_bf16": 5e4,
}
BYTES = {"fp32": 4, "fp32_onednn": 4, "bf16": 2, "fp16": 2}
# Bytes per quantized weight. NF4: half a byte, a byte of scale for 64 weights, fp32 for 256 scales. 8 bits: a
# scale for each output comes to nothing.
QUANTIZED_BYTES = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
RUNTIME_GB = 0.6
# Memory that is kept for every further shape of micro-batch (oneDNN's, and gaps in the heap). Fitted to one run:
# 1,246 steps with MiniLM over IMDB peaked at 3.8 GB.
SHAPE_GB = 0.13
# Values per token and layer kept for the backward pass, in units of the hidden and inner width.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 14, 4
# Attention matrices kept per head under eager attention.
KEPT_ATTENTION = 2
CHECKPOINTS_KEPT = 3
LAST_LAYER_SAVED = 0.95
REPORT_GB = 0.01
SIMULATED_STEPS = 40
# The pooler of these is part of the pretrained encoder; only the last layer of the head is new.
POOLED = ("bert", "albert")
# Linear layers that widen to the inner width, and back; the others are square.
WIDENING = ("lin1", "ffn", "fc1")
NARROWING = ("lin2", "ffn_output", "fc2")
# Query, key and value in one layer.
FUSED = ("Wqkv", "in_proj")


@dataclass(frozen=True, slots=True)
class Shape:
    """How the tensors of a forward pass look: bytes per value, tokens per text, kept attention."""

    bytes: int
    length: int
    eager: bool

    @classmethod
    def of(cls, chosen: Choices) -> Shape:
        """Return the shape that resolved choices lead to."""
        return cls(
            bytes=BYTES[chosen["compute.precision"].value],
            length=chosen["text.max_length"].value,
            eager=chosen["compute.attention"].value == "eager",
        )


def weights_gb(info: BaseInfo, *, value_bytes: int, bits: int | None = None) -> float:
    """Return the GB of the frozen weights as they are kept while training.

    Quantized are the linear layers of the blocks; embeddings, norms and biases never are.

    Args:
        info: shapes of the base model.
        value_bytes: bytes of a value that is not quantized.
        bits: of the linear layers' weights; None for the same as all others.
    """
    if bits is None:
        return info.parameters * value_bytes / 1e9
    layers = 1 if info.model_type == "albert" else info.layers
    linears = layers * sum(inner * outer for inner, outer in linear_shapes(info))
    return (linears * QUANTIZED_BYTES[bits] + (info.parameters - linears) * value_bytes) / 1e9


def activations_gb(tokens: int, shape: Shape, info: BaseInfo) -> float:
    """Return the GB that a forward pass over ``tokens`` keeps for the backward pass. Approximate."""
    width = KEPT_HIDDEN * info.hidden + KEPT_INTERMEDIATE * info.intermediate
    attention = KEPT_ATTENTION * info.heads * shape.length if shape.eager else 0
    return tokens * info.layers * (width + attention) * shape.bytes / 1e9


@dataclass(frozen=True, slots=True)
class Load:
    """The tokens of one pass over some rows, as computed: padding counted.

    Attributes:
        tokens: tokens of the pass.
        attended: mean number of tokens that a token attends to.
        micro_batches: forward passes.
        largest: tokens of the largest micro-batch.
        shapes: different shapes among the micro-batches.
        widest: padded length of the longest text.
    """

    tokens: int
    attended: float
    micro_batches: int
    largest: int
    shapes: int
    widest: int


def estimate(chosen: Settings, grounds: Grounds) -> Estimate:
    """Estimate time, memory and disk from operation counts and the measured rates.

    Parameters are exact for the architectures that textlora is tested with, and nearly so for
    others. Time and memory are first approximations that may be off by a factor of two and more.
    """
    training, rows = chosen.training, grounds.rows
    epoch = load(rows["train"], training.batch_size, chosen, grounds)
    number = steps(rows["train"], training.batch_size, training.epochs)
    trainable = trainable_parameters(chosen, grounds)
    return Estimate(
        train_seconds=_train_seconds(chosen, grounds, epoch, number),
        evaluate_seconds=_evaluate_seconds(chosen, grounds),
        memory_gb=_memory_gb(chosen, grounds, epoch, trainable),
        disk_gb=trainable * 4 * (1 + 3 * CHECKPOINTS_KEPT) / 1e9 + REPORT_GB + prefix_gb(chosen, grounds),
        total_parameters=grounds.info.parameters + trainable,
        trainable_parameters=trainable,
        tokens_per_epoch=epoch.tokens,
        steps=number,
    )


def steps(rows: int, batch_size: int, epochs: float) -> int:
    """Return the optimiser steps of a training, as Trainer counts them."""
    return math.ceil(math.ceil(rows / batch_size) * epochs)


def load(rows: int, batch_size: int, chosen: Settings, grounds: Grounds) -> Load:
    """Cut texts of the data's lengths into micro-batches as training does, and count."""
    if rows == 0:
        return Load(0, 0.0, 0, 0, 0, 0)
    length = chosen.text.max_length or grounds.info.max_length
    drawn = _spread(grounds.lengths.quantiles, min(rows, SIMULATED_STEPS * batch_size), length)
    random.Random(0).shuffle(drawn)  # noqa: S311 - no secret, only the same order every time
    if chosen.text.padding == "max_length":
        drawn = [length] * len(drawn)
    batches = [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]
    passes = [found for batch in batches for found in _passes(batch, chosen, length)]
    tokens = sum(found.tokens for found in passes)
    share = rows / len(drawn)
    return Load(
        tokens=round(tokens * share),
        attended=sum(found.squares for found in passes) / tokens,
        micro_batches=math.ceil(len(passes) * share),
        largest=max(found.tokens for found in passes),
        widest=max(found.widest for found in passes),
        shapes=len({found.shape for found in passes}),
    )


@dataclass(frozen=True, slots=True)
class _Pass:
    """One forward pass: tokens computed, sum of the squared lengths, longest text, shape of the products."""

    tokens: int
    squares: int
    widest: int
    shape: tuple[int, int]


def _passes(lengths: Sequence[int], chosen: Settings, limit: int) -> Iterator[_Pass]:
    """Yield the forward passes over the samples of one optimiser step."""
    budget = chosen.compute.tokens_per_micro_batch or 0
    if chosen.compute.engine == "packed":
        for rows in packed_batches(lengths, budget):
            texts = [lengths[row] for row in rows]
            tokens = -(-sum(texts) // ROW_STEP) * ROW_STEP
            yield _Pass(tokens, sum(length * length for length in texts), max(texts), (tokens, 1))
        return
    for rows in micro_batches(lengths, budget, limit=limit):
        width = padded_length(max(lengths[row] for row in rows), limit)
        yield _Pass(width * len(rows), width * width * len(rows), width, (width, len(rows)))


def _spread(quantiles: Sequence[int], number: int, limit: int) -> list[int]:
    """Return ``number`` lengths that follow the quantiles, cut at ``limit``, shortest first."""
    lengths, place = [], 0
    for index in range(number):
        share = (index + 0.5) / number
        while QUANTILES[place + 1] < share:
            place += 1
        low, high = quantiles[place], quantiles[place + 1]
        within = (share - QUANTILES[place]) / (QUANTILES[place + 1] - QUANTILES[place])
        lengths.append(max(1, min(limit, round(low + within * (high - low)))))
    return lengths


def _train_seconds(chosen: Settings, grounds: Grounds, epoch: Load, number: int) -> float:
    training, rows = chosen.training, grounds.rows
    validation = load(rows["validation"], training.eval_batch_size, chosen, grounds)
    validations = math.ceil(training.epochs * training.evaluations_per_epoch)
    tokens = grounds.lengths.mean * (rows["train"] + rows["validation"])
    return (
        START_SECONDS["train"]
        + TOKENIZE_SECONDS * tokens
        + STEP_SECONDS * number
        + training.epochs * _pass_seconds("train", epoch, _adapted_layers(chosen, grounds), chosen, grounds)
        + _frozen_seconds(epoch, training.epochs, chosen, grounds)
        + validations * _pass_seconds("predict", validation, _run_layers(chosen, grounds), chosen, grounds)
    )


def _frozen_layers(chosen: Settings, grounds: Grounds) -> int:
    return grounds.info.layers - (chosen.lora.top_layers or grounds.info.layers)


def _run_layers(chosen: Settings, grounds: Grounds) -> float:
    """Return the layers that run for every token in a validation pass."""
    kept = _frozen_layers(chosen, grounds) if chosen.compute.prefix_cache else 0
    return grounds.info.layers - kept - _short_cut(chosen)


def _adapted_layers(chosen: Settings, grounds: Grounds) -> float:
    """Return the layers that run forward and backward for every token."""
    return grounds.info.layers - _frozen_layers(chosen, grounds) - _short_cut(chosen)


def _short_cut(chosen: Settings) -> float:
    """Return what the packed engine saves of the last layer, which it runs for one token per text."""
    return LAST_LAYER_SAVED if chosen.compute.engine == "packed" else 0.0


def _frozen_seconds(epoch: Load, epochs: float, chosen: Settings, grounds: Grounds) -> float:
    passes = 1.0 if chosen.compute.prefix_cache else epochs
    return passes * _pass_seconds("predict", epoch, _frozen_layers(chosen, grounds), chosen, grounds)


def prefix_gb(chosen: Settings, grounds: Grounds) -> float:
    """Return the GB of the frozen layers' cache on disk: the states of all training and validation tokens."""
    if not chosen.compute.prefix_cache:
        return 0.0
    tokens = grounds.lengths.mean_cut * (grounds.rows["train"] + grounds.rows["validation"])
    return tokens * grounds.info.hidden * BYTES[chosen.compute.precision or "fp32"] / 1e9


def _evaluate_seconds(chosen: Settings, grounds: Grounds) -> float:
    test = load(grounds.rows["test"], chosen.training.eval_batch_size, chosen, grounds)
    return (
        START_SECONDS["evaluate"]
        + TOKENIZE_SECONDS * grounds.lengths.mean * grounds.rows["test"]
        + BASELINE_SECONDS * grounds.lengths.mean * grounds.rows["train"]
        + _pass_seconds("predict", test, grounds.info.layers - _short_cut(chosen), chosen, grounds)
    )


def _pass_seconds(kind: str, work: Load, layers: float, chosen: Settings, grounds: Grounds) -> float:
    """Return the seconds of one pass over ``layers``: products at the measured rate, and all the rest."""
    info, device, machine = grounds.info, chosen.compute.device or "cpu", grounds.machine
    products = work.tokens * layers * _flops_per_token(kind, work.attended, chosen, info)
    seconds = products / (GEMM_EFFICIENCY[device] * _rate(chosen, machine) * 1e9)
    if device != "cpu":
        return seconds + LAUNCH_SECONDS * work.micro_batches
    softmax = SOFTMAX_SECONDS[kind] * (1.0 if chosen.compute.attention == "eager" else 0.3)
    rest = ELEMENT_SECONDS[kind] * info.hidden + softmax * info.heads * work.attended
    return seconds + work.tokens * layers * rest / machine.cores


def _flops_per_token(kind: str, attended: float, chosen: Settings, info: BaseInfo) -> float:
    """Of one layer. Forward is 2 per weight; training adds as much for the inputs' gradients, not the weights'."""
    linears = 2.0 * sum(inner * outer for inner, outer in linear_shapes(info))
    attention = 4.0 * attended * info.hidden
    adapters = 2.0 * sum(chosen.lora.r * (a + b) for a, b in linear_shapes(info, chosen.lora.target_modules))
    return (2 * linears + 3 * attention + 3 * adapters) if kind == "train" else (linears + attention + adapters)


def _rate(chosen: Settings, machine: Machine) -> float:
    """Return GFLOP/s of the planned precision on the planned device."""
    precision, device = chosen.compute.precision or "fp32", chosen.compute.device or "cpu"
    name = precision if device == "cpu" else f"gpu_{precision}"
    assumed = ASSUMED_RATES[name] * (machine.cores if device == "cpu" else 1)
    return machine.rates.get(name) or assumed


def _memory_gb(chosen: Settings, grounds: Grounds, epoch: Load, trainable: int) -> float:
    """Sum up runtime, weights, adapters with gradients and AdamW's two moments, activations, data."""
    info, compute = grounds.info, chosen.compute
    shape = Shape(BYTES[compute.precision or "fp32"], epoch.widest, compute.attention == "eager")
    data = sum(grounds.rows.values()) * (10 * grounds.lengths.mean) / 1e9
    kept = _adapted_layers(chosen, grounds) / info.layers
    weights = weights_gb(info, value_bytes=shape.bytes, bits=chosen.quantization.bits)
    working = weights + kept * activations_gb(epoch.largest, shape, info)
    if compute.device == "cpu" and compute.engine != "packed":
        working += SHAPE_GB * (epoch.shapes - 1)
    # Weights arrive in fp32, before there are any activations.
    return RUNTIME_GB + max(working, info.parameters * 4 / 1e9) + trainable * 16 / 1e9 + data


def trainable_parameters(chosen: Settings, grounds: Grounds) -> int:
    """Return the parameters of adapters and head; see ``estimate`` for how exact."""
    info, hidden, classes = grounds.info, grounds.info.hidden, grounds.classes
    # ALBERT's layers share one set of weights.
    layers = 1 if info.model_type == "albert" else chosen.lora.top_layers or info.layers
    targets = chosen.lora.target_modules or info.linear_names
    pairs = sum(inner + outer for inner, outer in linear_shapes(info, targets)) * layers
    if info.model_type == "bert" and "dense" in targets:
        pairs += 2 * hidden  # the pretrained pooler's layer has that name too
    return chosen.lora.r * pairs + _head_parameters(info.model_type, hidden, classes)


def _head_parameters(model_type: str, hidden: int, classes: int) -> int:
    classifier = hidden * classes + classes
    return classifier if model_type in POOLED else hidden * hidden + hidden + classifier


def linear_shapes(info: BaseInfo, names: Iterable[str] | None = None) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the linear layers called ``names`` in one block; all by default.

    A name may stand for several layers, as BERT's ``dense``. Unknown names count as hidden by
    hidden.
    """
    hidden, inner = info.hidden, info.intermediate
    square, up, down = (hidden, hidden), (hidden, inner), (inner, hidden)
    shapes = {name: [up] for name in WIDENING} | {name: [down] for name in NARROWING}
    shapes |= {name: [(hidden, 3 * hidden)] for name in FUSED}
    shapes["dense"] = _dense(info.linear_names, square, up, down)
    if info.model_type == "modernbert":
        shapes |= {"Wo": [square, down], "Wi": [(hidden, 2 * inner)]}
    wanted = info.linear_names if names is None else names
    return [shape for name in wanted for shape in shapes.get(name, [square])]


def _dense(
    names: Sequence[str], square: tuple[int, int], up: tuple[int, int], down: tuple[int, int]
) -> list[tuple[int, int]]:
    if "ffn" in names:
        return [square]
    return [up, down] if "o" in names else [square, up, down]
