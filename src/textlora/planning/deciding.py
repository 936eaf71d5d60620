"""The decisions: every automatic setting from data, base model and machine, with a reason. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from textlora import settings
from textlora.planning.checking import cache_obstacle, check, gpu_name, has_bf16, packing_obstacle
from textlora.planning.decision import name_positive
from textlora.planning.gpu_memory import free_gb
from textlora.planning.grounds import EAGER_ONLY, USER, Choice, Choices, Grounds
from textlora.planning.imbalance import resolve_loss
from textlora.planning.rough import activations_gb
from textlora.planning.shapes import BYTES, weights_gb
from textlora.planning.workload import steps
from textlora.settings import Settings
from textlora.types import Machine
from textlora.windows import SPECIAL_TOKENS, LengthPolicy, loss, usual_overlap

# bf16 costs digits, so it has to win by more than the probe's noise.
BF16_GAIN = 1.2
# Keeping the probabilities of attention for the backward pass costs memory, so it has to pay.
EAGER_GAIN = 1.1
# oneDNN's fp32 has to win clearly over MKL's to be worth another code path.
ONEDNN_GAIN = 1.2
FULL_PRECISION = ("fp32", "fp32_onednn")
BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
# Text lengths are rounded up to a multiple of this.
LENGTH_MULTIPLE = 8
USUAL_LENGTH = 512
# A CPU gains next to nothing from more than 2,560 tokens at a time, which cost it memory; a GPU needs many to be busy.
MICRO_BATCHES = {
    "cpu": (2560, 2048, 1024, 512),
    "mps": (8192, 4096, 2048, 1024, 512),
    "cuda": (32768, 16384, 8192, 4096, 2048, 1024, 512),
}
# What libraries and data take of the host before there is a model.
RUNTIME_GB = 0.6
# Share of the free memory that activations may take.
ACTIVATION_SHARE = 0.5
# Fewer optimiser steps than this leave a fresh head and adapters half-trained.
MIN_STEPS = 150
MAX_EPOCHS = 10
SMALL_BATCH_SIZES = (16, 8)


def resolve(choices: Choices, grounds: Grounds, *, small_data: bool = False) -> tuple[Settings, dict[str, str]]:
    """Decide what is still open and check that all values fit together. Pure.

    Args:
        choices: every setting by dotted name; an automatic one that is open has the value None.
        grounds: data, base model and machine.
        small_data: adapt epochs and batch size to a small training set, if the user set neither.

    Returns:
        The settings, and a reason for each of them by dotted name.

    Raises:
        UsageError: values that cannot be or that contradict each other, all together.
        ResourceError: nothing else is wrong, but the wanted device is not there.
    """
    chosen = dict(choices)
    _adopt_prepared(chosen, grounds)
    for name, decide in DECISIONS.items():
        if chosen[name].value is None:
            value, reason = decide(chosen, grounds)
            chosen[name] = Choice(value, reason, "decided")
    _fit_head_tokens(chosen)
    resolve_loss(chosen, grounds)
    if small_data:
        _adapt_to_small_data(chosen, grounds)
    check(chosen, grounds)
    name_positive(chosen, grounds)
    _mention_long_warmup(chosen, grounds)
    _mention_saving(chosen, grounds)
    built = settings.build({name: choice.value for name, choice in chosen.items()})
    _mention_cut(chosen, built, grounds)
    return built, {name: choice.reason for name, choice in chosen.items()}


def _adopt_prepared(chosen: Choices, grounds: Grounds) -> None:
    """Take the data settings from the data: they have been used already."""
    for name, value in grounds.prepared.items():
        choice = chosen.get(name)
        if choice is not None and choice.value != value and choice.source not in USER:
            chosen[name] = Choice(value, "as the data were prepared", "decided")


Decision = tuple[Any, str]


def _revision(_: Choices, grounds: Grounds) -> Decision:
    reasons = {"embedded": "comes with textlora", "local": "a local folder has no revisions"}
    return grounds.info.revision, reasons.get(grounds.info.revision, "the commit that main stands for now")


def _max_length(_: Choices, grounds: Grounds) -> Decision:
    limit, longest = grounds.info.max_length, grounds.longest
    # Never shorter than the usual encoder, though no text needs it: what is predicted later may be
    # longer than what was trained on, and short texts cost nothing, since padding is dynamic.
    needed = max(USUAL_LENGTH, _round_up(longest, LENGTH_MULTIPLE)) if longest else limit
    if longest and needed < limit:
        return needed, f"the longest text has {longest:,} tokens; the encoder takes {limit:,}"
    cut = grounds.lengths.rows_cut if longest else 0
    return limit, "the encoder's limit" + (f"; {cut:,} texts are longer" if cut else "")


def _window_overlap(chosen: Choices, _: Grounds) -> Decision:
    length = chosen["text.max_length"].value
    return usual_overlap(length), f"an eighth of a window's {length} tokens"


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _target_modules(_: Choices, grounds: Grounds) -> Decision:
    return grounds.info.linear_names, f"all linear layers of the {grounds.info.layers} blocks"


def _top_layers(_: Choices, grounds: Grounds) -> Decision:
    return grounds.info.layers, "all of them"


def _device(_: Choices, grounds: Grounds) -> Decision:
    machine = grounds.machine
    if machine.gpu is None:
        return "cpu", "no GPU found"
    memory = f" with {machine.gpu_memory_gb:.1f} GB" if machine.gpu_memory_gb else ""
    return "cuda" if machine.gpu_capability else "mps", f"{machine.gpu}{memory} found"


def _precision(chosen: Choices, grounds: Grounds) -> Decision:
    device, machine = chosen["compute.device"].value, grounds.machine
    if device == "mps":
        return "fp32", "the safe choice on an Apple GPU"
    if device == "cuda":
        if has_bf16(machine):
            return "bf16", f"{gpu_name(machine)} computes in bf16"
        return "fp16", f"{gpu_name(machine)} has fp16 only; it emulates bf16"
    return _cpu_precision(machine)


def _cpu_precision(machine: Machine) -> Decision:
    found = next((name for name in BF16_FEATURES if name in machine.features), None)
    fp32, bf16 = machine.rates.get("fp32"), machine.rates.get("bf16")
    if found is None:
        figures = _figures(bf16, fp32, " (bf16 {}, fp32 {} GFLOP/s)")
        return _cpu_fp32(machine, f"the processor has no bf16 arithmetic{figures}")
    if not (fp32 and bf16):
        return "bf16", f"the processor has {found}; nothing was measured"
    figures = _figures(bf16, fp32, " ({} against {} GFLOP/s)")
    if bf16 >= BF16_GAIN * fp32:
        return "bf16", f"bf16 runs {bf16 / fp32:.1f} times as fast as fp32 here{figures}"
    return _cpu_fp32(machine, f"bf16 runs only {bf16 / fp32:.1f} times as fast as fp32 here{figures}")


def _cpu_fp32(machine: Machine, why: str) -> Decision:
    fp32, onednn = machine.rates.get("fp32"), machine.rates.get("fp32_onednn")
    # With AMX, oneDNN's fast fp32 rounds its inputs to bf16.
    if fp32 and onednn and onednn >= ONEDNN_GAIN * fp32 and "amx_bf16" not in machine.features:
        return "fp32_onednn", f"{why}; fp32 runs {onednn / fp32:.1f} times as fast through oneDNN as through MKL"
    return "fp32", why


def _figures(first: float | None, second: float | None, pattern: str) -> str:
    return pattern.format(f"{first:,.0f}", f"{second:,.0f}") if first and second else ""


def _engine(chosen: Choices, grounds: Grounds) -> Decision:
    obstacle = packing_obstacle(chosen, grounds)
    return ("transformers", obstacle) if obstacle else ("packed", "texts laid end to end need no padding")


def _attention(chosen: Choices, grounds: Grounds) -> Decision:
    kind, precision = grounds.info.model_type, chosen["compute.precision"].value
    if kind in EAGER_ONLY:
        return "eager", f"transformers has no other for {kind}"
    if chosen["compute.device"].value != "cpu":
        return "sdpa", "one fused kernel on a GPU"
    if chosen["compute.engine"].value == "packed":
        return _packed_attention(grounds.machine, "bf16" if precision == "bf16" else "fp32")
    if precision in FULL_PRECISION:
        return "sdpa", "faster and smaller than eager for fp32 on a CPU"
    return "eager", "faster than sdpa for bf16 on a CPU"


def _prefix_cache(chosen: Choices, grounds: Grounds) -> Decision:
    obstacle = cache_obstacle(chosen, grounds)
    if obstacle:
        return False, obstacle
    frozen = grounds.info.layers - chosen["lora.top_layers"].value
    if chosen["training.epochs"].value <= 1:
        return False, f"one epoch runs the {frozen} frozen layers only once anyway"
    return True, f"the {frozen} frozen layers run once instead of {chosen['training.epochs'].value:g} times"


def _packed_attention(machine: Machine, precision: str) -> Decision:
    eager, sdpa = (machine.rates.get(f"attention_{kernel}_{precision}") for kernel in ("eager", "sdpa"))
    if not (eager and sdpa):
        return "sdpa", "needs the least memory; nothing was measured"
    figures = _figures(eager, sdpa, " (eager {}, sdpa {} GFLOP/s)")
    if eager >= EAGER_GAIN * sdpa:
        return "eager", f"the faster one here{figures}"
    return "sdpa", f"needs less memory and is no slower here{figures}"


def prediction_attention(settings: Settings, machine: Machine) -> str:
    """Return the attention kernel to predict with: the faster one where the engine has both.

    Training weighs memory as well, so its own may be the other one.
    """
    compute = settings.compute
    kind = "bf16" if compute.precision == "bf16" else "fp32"
    eager, sdpa = (machine.rates.get(f"predict_attention_{kernel}_{kind}") for kernel in ("eager", "sdpa"))
    if compute.engine != "packed" or not (eager and sdpa):
        return compute.attention or "eager"
    return "eager" if eager > sdpa else "sdpa"


def _tokens_per_micro_batch(chosen: Choices, grounds: Grounds) -> Decision:
    device, info = str(chosen["compute.device"].value), grounds.info
    size = BYTES[chosen["compute.precision"].value]
    weights = weights_gb(info, value_bytes=size, bits=chosen["quantization.bits"].value)
    free = _free_gb(device, grounds.machine) - weights
    sizes = MICRO_BATCHES[device]
    for tokens in sizes:
        needed = _kept_gb(tokens, chosen, grounds)
        if needed <= ACTIVATION_SHARE * free:
            return (
                tokens,
                f"{tokens:,} tokens keep about {needed:.1f} GB of activations; {max(free, 0):.1f} GB are free",
            )
    return sizes[-1], f"the least that is useful; only {max(free, 0):.1f} GB are free"


def _kept_gb(tokens: int, chosen: Choices, grounds: Grounds) -> float:
    return activations_gb(
        tokens,
        length=chosen["text.max_length"].value,
        value_bytes=BYTES[chosen["compute.precision"].value],
        eager=chosen["compute.attention"].value == "eager",
        info=grounds.info,
    )


def _free_gb(device: str, machine: Machine) -> float:
    """Return the GB that are free for a model where it computes: on a CUDA GPU its own memory."""
    on_gpu = free_gb(machine) if device == "cuda" else None
    return machine.available_memory_gb - RUNTIME_GB if on_gpu is None else on_gpu


# In the order of their dependence: each may read what stands above it.
DECISIONS: Mapping[str, Callable[[Choices, Grounds], Decision]] = {
    "model.revision": _revision,
    "text.max_length": _max_length,
    "text.window_overlap": _window_overlap,
    "lora.target_modules": _target_modules,
    "lora.top_layers": _top_layers,
    "compute.device": _device,
    "compute.precision": _precision,
    "compute.engine": _engine,
    "compute.attention": _attention,
    "compute.prefix_cache": _prefix_cache,
    "compute.tokens_per_micro_batch": _tokens_per_micro_batch,
}


def _fit_head_tokens(chosen: Choices) -> None:
    """Keep the usual quarter for the head where the default does not leave room for a tail."""
    length, head = chosen["text.max_length"].value, chosen["text.head_tokens"]
    if head.source in ("default", "recipe") and head.value >= length - SPECIAL_TOKENS:
        reason = f"a quarter of the {length} tokens; {head.value} would leave no room for a tail"
        chosen["text.head_tokens"] = Choice(max(1, length // 4), reason, "decided")


def _adapt_to_small_data(chosen: Choices, grounds: Grounds) -> None:
    """Give a small training set more optimiser steps, where the user has not said how many.

    The largest batch size wins that reaches ``MIN_STEPS`` within ``MAX_EPOCHS``; if none does,
    the smallest.
    """
    rows, epochs, batch = grounds.rows["train"], chosen["training.epochs"], chosen["training.batch_size"]
    if steps(rows, batch.value, epochs.value) >= MIN_STEPS:
        return
    smaller = [size for size in SMALL_BATCH_SIZES if size < batch.value and batch.source not in USER]
    for size in (batch.value, *smaller):
        wanted = _epochs_for(rows, size, epochs)
        if steps(rows, size, wanted) >= MIN_STEPS:
            break
    reason = (
        f"{rows:,} training rows give only {steps(rows, batch.value, epochs.value)} optimiser steps with batches of "
        f"{batch.value} in {epochs.value:g} epochs; batches of {size} in {wanted:g} epochs make {steps(rows, size, wanted)}"
    )
    if size != batch.value:
        chosen["training.batch_size"] = Choice(size, reason, "decided")
    if wanted != epochs.value:
        chosen["training.epochs"] = Choice(wanted, reason, "decided")


def _epochs_for(rows: int, batch_size: int, epochs: Choice) -> float:
    if epochs.source in USER:
        return float(epochs.value)
    needed = math.ceil(MIN_STEPS / max(1, math.ceil(rows / batch_size)))
    return float(max(epochs.value, min(needed, MAX_EPOCHS)))


def _mention_long_warmup(chosen: Choices, grounds: Grounds) -> None:
    warmup, number = chosen["training.warmup_steps"], _planned_steps(chosen, grounds)
    if warmup.value >= max(1, number):
        reason = f"{warmup.reason}; longer than the {number} steps of this training, so the full learning rate is never reached"
        chosen["training.warmup_steps"] = Choice(warmup.value, reason, warmup.source)


def _mention_saving(chosen: Choices, grounds: Grounds) -> None:
    """Say what quantization saves, beside what it cannot save."""
    bits, info = chosen["quantization.bits"], grounds.info
    if bits.value is None:
        return
    size = BYTES[chosen["compute.precision"].value]
    saved = weights_gb(info, value_bytes=size) - weights_gb(info, value_bytes=size, bits=bits.value)
    tokens = chosen["compute.tokens_per_micro_batch"].value or info.max_length * chosen["training.batch_size"].value
    kept = _kept_gb(tokens, chosen, grounds)
    reason = f"{bits.reason}; saves {saved:.2f} GB of weights, beside about {kept:.1f} GB of activations that stay"
    chosen["quantization.bits"] = Choice(bits.value, reason, bits.source)


def _mention_cut(chosen: Choices, built: Settings, grounds: Grounds) -> None:
    """Say how many texts are cut and how much is lost, under whatever policy and length was chosen."""
    policy = LengthPolicy.of_settings(built.text, max_length=grounds.info.max_length)
    found, choice = loss(policy, grounds.lengths, rows=sum(grounds.rows.values())), chosen["text.policy"]
    several = found.mean_computed / max(
        1.0, loss(replace(policy, policy="head"), grounds.lengths, rows=1).mean_computed
    )
    more = f"; computes {several:.2f} times the tokens of head" if policy.policy == "windows" else ""
    chosen["text.policy"] = Choice(choice.value, f"{choice.reason}; {found}{more}", choice.source)


def _planned_steps(chosen: Choices, grounds: Grounds) -> int:
    return steps(grounds.rows["train"], chosen["training.batch_size"].value, chosen["training.epochs"].value)
