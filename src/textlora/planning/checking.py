"""Values that cannot be, or that contradict each other, all found together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textlora.errors import ResourceError, UsageError, did_you_mean
from textlora.extras import QLORA
from textlora.planning.decision import decision_problems
from textlora.planning.grounds import EAGER_ONLY, Choices, Grounds
from textlora.planning.imbalance import loss_problems
from textlora.types import Machine
from textlora.windows import SPECIAL_TOKENS

FIRST_BF16_CAPABILITY = (8, 0)


def check(chosen: Choices, grounds: Grounds) -> None:
    """Refuse settings that do not fit together, the base model or the machine.

    Raises:
        UsageError: all problems together.
        ResourceError: nothing else is wrong, but the wanted device or an optional package is not there.
    """
    missing = [(text, hint) for text, hint in (_missing_device(chosen, grounds), _missing_package(chosen)) if text]
    problems = [problem for find in CHECKS for problem in find(chosen, grounds)]
    if missing and not problems:
        raise ResourceError(" ".join(text for text, _ in missing), hint=" ".join(hint for _, hint in missing))
    if problems:
        raise UsageError(
            "These settings do not fit together:",
            problems=[*(text for text, _ in missing), *problems],
            hint="Change them with --set NAME=VALUE or in the plan file; a setting that is left out is decided for you.",
        )


def has_bf16(machine: Machine) -> bool:
    """Return whether the CUDA GPU computes in bf16 itself."""
    return machine.gpu_capability is not None and machine.gpu_capability >= FIRST_BF16_CAPABILITY


def gpu_name(machine: Machine) -> str:
    """Return the GPU's name with its CUDA capability."""
    capability = machine.gpu_capability
    return f"{machine.gpu} (capability {capability[0]}.{capability[1]})" if capability else str(machine.gpu)


def _missing_device(chosen: Choices, grounds: Grounds) -> tuple[str, str]:
    device, machine = chosen["compute.device"], grounds.machine
    kind = "cuda" if machine.gpu_capability else "mps" if machine.gpu else "cpu"
    if device.value in ("cpu", kind):
        return "", ""
    wanted = {"cuda": "CUDA GPU", "mps": "Apple GPU"}[device.value]
    problem = f"compute.device is {device.told}, but PyTorch finds no {wanted} here."
    return problem, "Leave compute.device out, or set it to cpu."


def _missing_package(chosen: Choices) -> tuple[str, str]:
    bits = chosen["quantization.bits"]
    if bits.value is None or not QLORA.obstacle:
        return "", ""
    return f"quantization.bits is {bits.told}, but {QLORA.obstacle}.", f"Install it: {QLORA.command}"


def _length_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    length, head, limit = chosen["text.max_length"], chosen["text.head_tokens"], grounds.info.max_length
    problems = []
    if length.value > limit:
        problems.append(f"text.max_length is {length.told}, but {grounds.info.name} takes at most {limit} tokens.")
    if chosen["text.policy"].value == "head+tail" and head.value >= length.value - SPECIAL_TOKENS:
        most = length.value - SPECIAL_TOKENS - 1
        problems.append(
            f"text.head_tokens is {head.told}, which leaves no room for a tail within text.max_length {length.value}: at most {most}."
        )
    return problems


def _window_problems(chosen: Choices, _: Grounds) -> list[str]:
    if chosen["text.policy"].value != "windows":
        return []
    length, overlap, budget = (
        chosen[name] for name in ("text.max_length", "text.window_overlap", "compute.tokens_per_micro_batch")
    )
    problems = []
    if overlap.value >= length.value - SPECIAL_TOKENS:
        most = length.value - SPECIAL_TOKENS - 1
        problems.append(
            f"text.window_overlap is {overlap.told}, which leaves nothing new in a window of text.max_length {length.value}: at most {most}."
        )
    if budget.value == 0:
        problems.append(
            f"text.policy is windows, but compute.tokens_per_micro_batch is {budget.told}: Trainer's plain batches hold one window of each text."
        )
    return problems


def _target_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    targets, known = chosen["lora.target_modules"], grounds.info.linear_names
    has = f"{grounds.info.name} has {', '.join(known)}."
    if not targets.value:
        return [f"lora.target_modules is empty; {has}"]
    return [
        f"lora.target_modules names {name!r} ({targets.reason}), which is no linear layer.{did_you_mean(name, known)} {has}"
        for name in targets.value
        if name not in known
    ]


def _precision_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    precision, device, machine = chosen["compute.precision"], chosen["compute.device"].value, grounds.machine
    if precision.value == "fp16" and device == "cpu":
        return [
            f"compute.precision is {precision.told}, which runs at 13–26 GFLOP/s per core on a CPU; use bf16 or fp32."
        ]
    if precision.value == "bf16" and device == "cuda" and machine.gpu_capability and not has_bf16(machine):
        return [
            f"compute.precision is {precision.told}, but {gpu_name(machine)} only emulates bf16, about 4 times slower; use fp16 or fp32."
        ]
    return []


def _attention_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    attention, kind = chosen["compute.attention"], grounds.info.model_type
    if attention.value == "sdpa" and kind in EAGER_ONLY:
        return [f"compute.attention is {attention.told}, but transformers has only eager attention for {kind}."]
    return []


def packing_obstacle(chosen: Choices, grounds: Grounds) -> str:
    """Return why texts cannot be laid end to end under these choices, or ``""``."""
    if not grounds.info.packable:
        return f"our own forward pass does not know {grounds.info.model_type}"
    if chosen["training.trunk_dropout"].value:
        return "our own forward pass has no dropout inside the encoder"
    if chosen["text.padding"].value == "max_length":
        return "texts are padded to max_length"
    if chosen["compute.tokens_per_micro_batch"].value == 0:
        return "micro-batches are off"
    return ""


def _engine_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    engine, obstacle = chosen["compute.engine"], packing_obstacle(chosen, grounds)
    return [f"compute.engine is {engine.told}, but {obstacle}."] if engine.value == "packed" and obstacle else []


def cache_obstacle(chosen: Choices, grounds: Grounds) -> str:
    """Return why no layers can be cached under these choices, or ``""``."""
    if chosen["compute.engine"].value != "packed":
        return "the cache needs compute.engine packed"
    if chosen["lora.top_layers"].value >= grounds.info.layers:
        return "every layer has adapters"
    return ""


def _cache_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    cache, obstacle = chosen["compute.prefix_cache"], cache_obstacle(chosen, grounds)
    return [f"compute.prefix_cache is {cache.told}, but {obstacle}."] if cache.value and obstacle else []


def _quantization_problems(chosen: Choices, _: Grounds) -> list[str]:
    bits, device = chosen["quantization.bits"], chosen["compute.device"]
    if bits.value is None or device.value != "mps":
        return []
    return [f"quantization.bits is {bits.told}, which is not tested on an Apple GPU; add compute.device=cpu."]


def _layer_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    top, layers = chosen["lora.top_layers"], grounds.info.layers
    return (
        [f"lora.top_layers is {top.told}, but {grounds.info.name} has {layers} layers."] if top.value > layers else []
    )


def _data_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    return [
        f"{name} is {chosen[name].told}, but the data were prepared with {value!r}; prepare them again to change it."
        for name, value in grounds.prepared.items()
        if name in chosen and chosen[name].value != value
    ]


CHECKS: Sequence[Callable[[Choices, Grounds], list[str]]] = (
    _length_problems,
    _window_problems,
    _target_problems,
    _precision_problems,
    _attention_problems,
    _engine_problems,
    _cache_problems,
    _quantization_problems,
    _layer_problems,
    loss_problems,
    decision_problems,
    _data_problems,
)
