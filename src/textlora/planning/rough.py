"""The terms of the estimate where nothing was rehearsed: operation counts and rough rates.

The constants are fits to a few single-step timings of DistilBERT and MiniLM-L6, on two Xeon cores with
AMX and on one Zen 5 core; those for GPUs are assumptions.
"""

from __future__ import annotations

from textlora.models import BaseInfo
from textlora.planning.grounds import Grounds
from textlora.planning.shapes import BYTES, linear_shapes
from textlora.settings import Settings
from textlora.types import Cost, Machine, Rehearsal

# Share of the probe's rate that the products inside the model reach.
GEMM_EFFICIENCY = {"cpu": 0.9, "cuda": 0.35, "mps": 0.35}
# Core-seconds per token, layer and hidden unit for all that is not a matrix product.
ELEMENT_SECONDS = {"train": 40e-9, "predict": 15e-9}
# Core-seconds per token, layer, head and attended token for the softmax under eager attention.
SOFTMAX_SECONDS = {"train": 4e-9, "predict": 1.5e-9}
SDPA_SHARE = 0.3
# A small encoder on a GPU waits for its kernels to be launched.
LAUNCH_SECONDS = 0.0025
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
# Resident memory of a process with all libraries; CUDA's are an assumption.
RUNTIME_BYTES = {"cpu": 460e6, "mps": 460e6, "cuda": 1.5e9}
# Values per token and layer kept for the backward pass, in units of the hidden and inner width.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 9, 2
# The same with what the allocator adds, to choose a micro-batch by.
HELD_HIDDEN, HELD_INTERMEDIATE = 14, 4
# Heads' attention matrices kept under eager attention, by engine.
KEPT_ATTENTION = {"packed": 1, "transformers": 2}
PASSING_WIDTHS = 2
# oneDNN keeps half a megabyte for each kernel; so many kernels for every further shape (docs/log.md).
ROW_KERNEL_BYTES, TEXT_KERNEL_BYTES, GROUP_KERNEL_BYTES, FIRST_KERNEL_BYTES = 15e6, 15e6, 4e6, 20e6
IMPORT_SECONDS = 4.0


def activations_gb(tokens: int, *, length: int, value_bytes: int, eager: bool, info: BaseInfo) -> float:
    """Return the GB that a forward pass over texts of ``length`` tokens holds for the backward pass. On the safe side."""
    width = HELD_HIDDEN * info.hidden + HELD_INTERMEDIATE * info.intermediate
    attention = KEPT_ATTENTION["transformers"] * info.heads * length if eager else 0
    return tokens * info.layers * (width + attention) * value_bytes / 1e9


def rough_terms(chosen: Settings, grounds: Grounds) -> Rehearsal:
    """Return what a rehearsal would measure, from the rates of the machine's probe. Off by a factor of two at times."""
    info = grounds.info
    size = BYTES[chosen.compute.precision or "fp32"]
    eager = chosen.compute.attention == "eager"
    on_cpu = chosen.compute.device == "cpu"
    predict = _cost("predict", chosen, grounds)
    return Rehearsal(
        train=_cost("train", chosen, grounds),
        validate=predict,
        predict=predict,
        runtime_bytes=RUNTIME_BYTES[chosen.compute.device or "cpu"],
        kept_token_bytes=(KEPT_HIDDEN * info.hidden + KEPT_INTERMEDIATE * info.intermediate) * size,
        kept_pair_bytes=KEPT_ATTENTION[chosen.compute.engine or "packed"] * info.heads * size if eager else 0.0,
        passing_token_bytes=PASSING_WIDTHS * info.intermediate * size,
        passing_pair_bytes=0.0,
        row_kernel_bytes=ROW_KERNEL_BYTES * on_cpu,
        text_kernel_bytes=TEXT_KERNEL_BYTES * on_cpu,
        group_kernel_bytes=GROUP_KERNEL_BYTES * on_cpu,
        first_kernel_bytes=FIRST_KERNEL_BYTES * on_cpu,
        import_seconds=IMPORT_SECONDS,
    )


def _cost(kind: str, chosen: Settings, grounds: Grounds) -> Cost:
    """Return the seconds of a layer: products at the measured rate, and all the rest."""
    info, device, machine = grounds.info, chosen.compute.device or "cpu", grounds.machine
    speed = GEMM_EFFICIENCY[device] * _rate(chosen, machine) * 1e9
    token, pair = _flops(kind, chosen, grounds)
    if device != "cpu":
        return Cost(LAUNCH_SECONDS, token / speed, pair / speed)
    softmax = SOFTMAX_SECONDS[kind] * (1.0 if chosen.compute.attention == "eager" else SDPA_SHARE)
    return Cost(
        0.0,
        token / speed + ELEMENT_SECONDS[kind] * info.hidden / machine.cores,
        pair / speed + softmax * info.heads / machine.cores,
    )


def _flops(kind: str, chosen: Settings, grounds: Grounds) -> tuple[float, float]:
    """Return the operations of a layer by token and by pair.

    Forward is 2 per weight; training adds as much for the inputs' gradients, not the weights'.
    """
    info = grounds.info
    linears = 2.0 * sum(inner * outer for inner, outer in linear_shapes(info))
    adapters = 2.0 * sum(chosen.lora.r * (a + b) for a, b in linear_shapes(info, chosen.lora.target_modules))
    attention = 4.0 * info.hidden
    return (2 * linears + 3 * adapters, 3 * attention) if kind == "train" else (linears + adapters, attention)


def _rate(chosen: Settings, machine: Machine) -> float:
    """Return GFLOP/s of the planned precision on the planned device."""
    precision, device = chosen.compute.precision or "fp32", chosen.compute.device or "cpu"
    name = precision if device == "cpu" else f"gpu_{precision}"
    assumed = ASSUMED_RATES[name] * (machine.cores if device == "cpu" else 1)
    return machine.rates.get(name) or assumed
