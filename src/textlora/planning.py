"""Every setting decided once, with a reason: from the data, the machine, the recipe or the user.

Command line > plan file > recipe > defaults; what none of them fixes is decided here. After the
plan nothing is automatic any more. ``plan.toml`` keeps it in a form that can be read and edited.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import TypeAdapter, ValidationError

from textlora import hardware, models, settings, storage
from textlora.batching import micro_batches, padded_length
from textlora.errors import ResourceError, UsageError, did_you_mean
from textlora.models import BaseInfo
from textlora.settings import Settings
from textlora.types import Dataset, Estimate, Machine, Plan, TokenLengths

# -- thresholds of the decisions -----------------------------------------------------------------

# bf16 costs digits, so it has to win by more than the probe's noise.
BF16_GAIN = 1.2
BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
FIRST_BF16_CAPABILITY = (8, 0)
# transformers has no sdpa kernel for these, of all the architectures that are tested.
EAGER_ONLY = ("deberta", "deberta-v2", "mpnet")
# Text lengths are rounded up to a multiple of this.
LENGTH_MULTIPLE = 8
# [CLS] and [SEP], or what an encoder has instead.
SPECIAL_TOKENS = 2
# A CPU gains nothing from more than about 4,000 tokens at a time; a GPU needs many to be busy.
MICRO_BATCHES = {
    "cpu": (4096, 2048, 1024, 512),
    "mps": (8192, 4096, 2048, 1024, 512),
    "cuda": (32768, 16384, 8192, 4096, 2048, 1024, 512),
}
# Share of the free memory that activations may take.
ACTIVATION_SHARE = 0.5
# Fewer optimiser steps than this leave a fresh head and adapters half-trained.
MIN_STEPS = 150
MAX_EPOCHS = 10
SMALL_BATCH_SIZES = (16, 8)

# -- constants of the estimate, measured on 2 Xeon cores with AMX against DistilBERT and MiniLM-L6 --

# Share of the probe's rate that the products inside the model reach.
GEMM_EFFICIENCY = {"cpu": 0.9, "cuda": 0.35, "mps": 0.35}
# Core-seconds per token, layer and hidden unit for all that is not a matrix product.
ELEMENT_SECONDS = {"train": 50e-9, "predict": 20e-9}
# Core-seconds per token, layer, head and attended token for the softmax under eager attention.
SOFTMAX_SECONDS = {"train": 9e-9, "predict": 3e-9}
# A small encoder on a GPU waits for its kernels to be launched.
LAUNCH_SECONDS = 0.015
STEP_SECONDS = 0.02
# Loading libraries and weights, saving, and the check in a fresh process.
START_SECONDS = {"train": 20.0, "evaluate": 8.0}
TOKENIZE_SECONDS = 1.2e-6
BASELINE_SECONDS = 4e-6
# GFLOP/s when nothing was measured: per core, or of a whole small GPU.
ASSUMED_RATES = {"fp32": 60.0, "bf16": 200.0, "fp16": 15.0, "gpu_fp32": 5e3, "gpu_fp16": 2e4, "gpu_bf16": 5e4}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
RUNTIME_GB = 0.6
# Values per token and layer kept for the backward pass, in units of the hidden and inner width.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 14, 4
# Attention matrices kept per head under eager attention.
KEPT_ATTENTION = 2
CHECKPOINTS_KEPT = 3
REPORT_GB = 0.01
SIMULATED_STEPS = 40
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
MAX_COUNTED_TEXTS = 20_000

Source = Literal["command line", "plan file", "recipe", "default", "decided"]
USER: tuple[Source, ...] = ("command line", "plan file")


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting's value, why it is so, and who said it."""

    value: Any
    reason: str
    source: Source

    @property
    def told(self) -> str:
        """The value with its origin, for a message about it."""
        return repr(self.value) if self.source in ("default", "decided") else f"{self.value!r} ({self.reason})"


Choices = dict[str, Choice]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the decisions rest on.

    Attributes:
        info: shapes of the base model.
        rows: rows of each split.
        classes: number of labels.
        lengths: tokens per text under the base model's tokenizer.
        longest: tokens of the longest text, or None when not every text was counted.
        prepared: the ``data`` settings that the data were prepared with, by dotted name.
        machine: where training will run.
    """

    info: BaseInfo
    rows: Mapping[str, int]
    classes: int
    lengths: TokenLengths
    longest: int | None
    prepared: Mapping[str, Any]
    machine: Machine


def plan(  # noqa: PLR0913 - where values may come from, in order of precedence
    dataset: Dataset,
    *,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    plan_file: Path | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Decide every setting for a data set and a machine.

    Args:
        dataset: from ``prepare``.
        base_model: hub id, local folder or ``embedded``; the same as ``model.base_model``.
        recipe: name of a recipe; a plan file's own recipe wins over ``"default"``.
        assignments: settings by dotted name, for instance ``{"lora.r": 8}``.
        plan_file: a ``plan.toml``, whole or in part.
        machine: where training will run; this machine by default.

    Raises:
        UsageError: unknown, impossible or contradictory values, all together.
        ResourceError: the base model or the device is not there.
    """
    given = _fold_base_model(base_model, assignments or {})
    recipe, choices = _gather(recipe, given, plan_file)
    info = models.base_info(choices["model.base_model"].value, choices["model.revision"].value)
    machine = machine or hardware.describe_machine(storage.cache_folder())
    grounds = _grounds(dataset, info, machine)
    chosen, reasons = resolve(choices, grounds, small_data=recipe == "default")
    return Plan(
        settings=chosen,
        reasons=reasons,
        recipe=recipe,
        dataset_fingerprint=dataset.fingerprint,
        classes=grounds.classes,
        machine=machine,
        estimate=estimate(chosen, grounds),
    )


# -- gathering the layers ------------------------------------------------------------------------


def _fold_base_model(base_model: str | None, assignments: Mapping[str, Any]) -> dict[str, Any]:
    name = "model.base_model"
    if base_model is None:
        return dict(assignments)
    if assignments.get(name, base_model) != base_model:
        raise UsageError(
            f"The base model is {base_model!r}, but {name} is set to {assignments[name]!r}.", hint="Name it once."
        )
    return {**assignments, name: base_model}


def _gather(recipe: str, assignments: Mapping[str, Any], plan_file: Path | None) -> tuple[str, Choices]:
    """Return the recipe's name and every setting's value before the automatic decisions."""
    choices = {name: Choice(value, "default", "default") for name, value in settings.flatten(Settings()).items()}
    document = _read_document(plan_file) if plan_file else {}
    if recipe == "default":
        recipe = str(document.get("textlora", {}).get("recipe", recipe))
    values, reasons = settings.recipe(recipe)
    for name, value in _typed(values, f"the recipe {recipe!r}").items():
        choices[name] = Choice(value, _one_line(reasons[name]), "recipe")
    if plan_file:
        for name, value in _plan_settings(document, plan_file).items():
            choices[name] = Choice(value, f"from {plan_file.name}", "plan file")
    for name, value in _typed(assignments, "--set").items():
        choices[name] = Choice(value, "set on the command line", "command line")
    return recipe, _forget_other_revision(choices)


def _typed(flat: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check one layer on its own, so that an error names where the value stands."""
    checked = settings.flatten(settings.build(flat, where=where))
    return {name: checked[name] for name in flat}


def _forget_other_revision(choices: Choices) -> Choices:
    """Drop a plan file's revision when the command line names another base model."""
    model, revision = choices["model.base_model"], choices["model.revision"]
    if model.source == "command line" and revision.source == "plan file":
        return choices | {"model.revision": Choice(None, "default", "default")}
    return choices


def _grounds(dataset: Dataset, info: BaseInfo, machine: Machine) -> Grounds:
    lengths, longest = _lengths(dataset, info)
    prepared = {name: value for name, value in dataset.info.options.items() if name.startswith("data.")}
    return Grounds(
        info=info,
        rows={name: len(split) for name, split in dataset.splits().items()},
        classes=len(dataset.label_names),
        lengths=lengths,
        longest=longest,
        prepared=prepared,
        machine=machine,
    )


def _lengths(dataset: Dataset, info: BaseInfo) -> tuple[TokenLengths, int | None]:
    """Return the data's token lengths; count them if ``prepare`` used another tokenizer."""
    known = dataset.info.token_lengths
    if known is not None and known.base_model == info.name:
        return known, known.quantiles[-1]
    texts = [text for split in dataset.splits().values() for text in split.texts]
    stride = -(-len(texts) // MAX_COUNTED_TEXTS) or 1
    counts = sorted(_count(texts[::stride], info))
    return measure_lengths(counts, info), counts[-1] if stride == 1 else None


def _count(texts: Sequence[str], info: BaseInfo) -> list[int]:
    from textlora.tokenization import LengthPolicy, TextTokenizer

    if info.folder is None:
        raise ResourceError(f"The tokenizer of {info.name} is not on this machine.")
    policy = LengthPolicy("head", info.max_length)
    return TextTokenizer.load(info.folder, policy, base_model=info.name).count(texts)


def measure_lengths(counts: Sequence[int], info: BaseInfo) -> TokenLengths:
    """Summarise token counts as ``prepare`` does; the histogram is left out."""
    ordered, limit = sorted(counts), info.max_length
    kept = sum(min(count, limit) for count in ordered)
    return TokenLengths(
        base_model=info.name,
        max_length=limit,
        quantiles=tuple(ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in QUANTILES),
        mean=sum(ordered) / len(ordered),
        mean_cut=kept / len(ordered),
        rows_cut=sum(count > limit for count in ordered),
        tokens_cut_share=1 - kept / max(1, sum(ordered)),
        histogram=(),
    )


# -- deciding ------------------------------------------------------------------------------------


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
    if small_data:
        _adapt_to_small_data(chosen, grounds)
    _check(chosen, grounds)
    _mention_long_warmup(chosen, grounds)
    built = settings.build({name: choice.value for name, choice in chosen.items()})
    return built, {name: choice.reason for name, choice in chosen.items()}


def gather(assignments: Mapping[str, Any] | None = None, recipe: str = "default", plan_file: Path | None = None) -> Choices:
    """Return every setting with the value and reason it has before the automatic decisions."""
    return _gather(recipe, assignments or {}, plan_file)[1]


def _adopt_prepared(chosen: Choices, grounds: Grounds) -> None:
    """Take the data settings from the data: they have been used already."""
    for name, value in grounds.prepared.items():
        choice = chosen.get(name)
        if choice is not None and choice.value != value and choice.source not in USER:
            chosen[name] = Choice(value, "as the data were prepared", "decided")


Decision = tuple[Any, str]


def _revision(chosen: Choices, grounds: Grounds) -> Decision:
    reasons = {"embedded": "comes with textlora", "local": "a local folder has no revisions"}
    return grounds.info.revision, reasons.get(grounds.info.revision, "the commit that main stands for now")


def _max_length(chosen: Choices, grounds: Grounds) -> Decision:
    limit, longest = grounds.info.max_length, grounds.longest
    needed = _round_up(longest, LENGTH_MULTIPLE) if longest else limit
    if longest and needed < limit:
        return max(needed, LENGTH_MULTIPLE), f"the longest text has {longest:,} tokens; the encoder takes {limit:,}"
    cut = sum(count > limit for count in (longest or 0,)) and grounds.lengths.rows_cut
    tail = f"; {cut:,} texts are longer" if cut and grounds.lengths.max_length == limit else ""
    return limit, f"the encoder's limit{tail}"


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _target_modules(chosen: Choices, grounds: Grounds) -> Decision:
    return grounds.info.linear_names, f"all linear layers of the {grounds.info.layers} blocks"


def _device(chosen: Choices, grounds: Grounds) -> Decision:
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
        if _has_bf16(machine):
            return "bf16", f"{_gpu_name(machine)} computes in bf16"
        return "fp16", f"{_gpu_name(machine)} has fp16 only; it emulates bf16"
    return _cpu_precision(machine)


def _cpu_precision(machine: Machine) -> Decision:
    found = next((name for name in BF16_FEATURES if name in machine.features), None)
    fp32, bf16 = machine.rates.get("fp32"), machine.rates.get("bf16")
    if found is None:
        return "fp32", "the processor has no bf16 arithmetic" + _figures(bf16, fp32, " (bf16 {}, fp32 {} GFLOP/s)")
    if not (fp32 and bf16):
        return "bf16", f"the processor has {found}; nothing was measured"
    figures = _figures(bf16, fp32, " ({} against {} GFLOP/s)")
    if bf16 >= BF16_GAIN * fp32:
        return "bf16", f"bf16 runs {bf16 / fp32:.1f} times as fast as fp32 here{figures}"
    return "fp32", f"bf16 runs only {bf16 / fp32:.1f} times as fast as fp32 here{figures}"


def _figures(first: float | None, second: float | None, pattern: str) -> str:
    return pattern.format(f"{first:,.0f}", f"{second:,.0f}") if first and second else ""


def _has_bf16(machine: Machine) -> bool:
    return machine.gpu_capability is not None and machine.gpu_capability >= FIRST_BF16_CAPABILITY


def _gpu_name(machine: Machine) -> str:
    capability = machine.gpu_capability
    return f"{machine.gpu} (capability {capability[0]}.{capability[1]})" if capability else str(machine.gpu)


def _attention(chosen: Choices, grounds: Grounds) -> Decision:
    kind = grounds.info.model_type
    if kind in EAGER_ONLY:
        return "eager", f"transformers has no other for {kind}"
    if chosen["compute.device"].value != "cpu":
        return "sdpa", "one fused kernel on a GPU"
    if chosen["compute.precision"].value == "fp32":
        return "sdpa", "faster and smaller than eager for fp32 on a CPU"
    return "eager", "faster than sdpa for bf16 on a CPU"


def _tokens_per_micro_batch(chosen: Choices, grounds: Grounds) -> Decision:
    device, info = str(chosen["compute.device"].value), grounds.info
    shape = Shape.of(chosen)
    free = _free_gb(device, grounds.machine) - RUNTIME_GB - info.parameters * shape.bytes / 1e9
    sizes = MICRO_BATCHES[device]
    for tokens in sizes:
        needed = activations_gb(tokens, shape, info)
        if needed <= ACTIVATION_SHARE * free:
            return tokens, f"{tokens:,} tokens keep about {needed:.1f} GB of activations; {max(free, 0):.1f} GB are free"
    return sizes[-1], f"the least that is useful; only {max(free, 0):.1f} GB are free"


def _free_gb(device: str, machine: Machine) -> float:
    return (machine.gpu_memory_gb if device == "cuda" else None) or machine.available_memory_gb


# In the order of their dependence: each may read what stands above it.
DECISIONS: Mapping[str, Callable[[Choices, Grounds], Decision]] = {
    "model.revision": _revision,
    "text.max_length": _max_length,
    "lora.target_modules": _target_modules,
    "compute.device": _device,
    "compute.precision": _precision,
    "compute.attention": _attention,
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
    if _steps(rows, batch.value, epochs.value) >= MIN_STEPS:
        return
    smaller = [size for size in SMALL_BATCH_SIZES if size < batch.value and batch.source not in USER]
    for size in (batch.value, *smaller):
        wanted = _epochs_for(rows, size, epochs)
        if _steps(rows, size, wanted) >= MIN_STEPS:
            break
    why = f"{rows:,} training rows give only {_steps(rows, batch.value, epochs.value)} optimiser steps with batches of {batch.value} in {epochs.value:g} epochs"
    if size != batch.value:
        chosen["training.batch_size"] = Choice(size, f"{why}; at least {MIN_STEPS} are wanted", "decided")
    if wanted != epochs.value:
        steps = f"{wanted:g} make {_steps(rows, size, wanted)} of the {MIN_STEPS} that are wanted"
        chosen["training.epochs"] = Choice(wanted, f"{why}; {steps}", "decided")


def _epochs_for(rows: int, batch_size: int, epochs: Choice) -> float:
    if epochs.source in USER:
        return float(epochs.value)
    needed = math.ceil(MIN_STEPS / max(1, math.ceil(rows / batch_size)))
    return float(max(epochs.value, min(needed, MAX_EPOCHS)))


def _steps(rows: int, batch_size: int, epochs: float) -> int:
    """Return the optimiser steps of a training, as Trainer counts them."""
    return math.ceil(math.ceil(rows / batch_size) * epochs)


def _mention_long_warmup(chosen: Choices, grounds: Grounds) -> None:
    warmup, steps = chosen["training.warmup_steps"], _planned_steps(chosen, grounds)
    if warmup.value >= max(1, steps):
        reason = f"{warmup.reason}; longer than the {steps} steps of this training, so the full learning rate is never reached"
        chosen["training.warmup_steps"] = Choice(warmup.value, reason, warmup.source)


def _planned_steps(chosen: Choices, grounds: Grounds) -> int:
    return _steps(grounds.rows["train"], chosen["training.batch_size"].value, chosen["training.epochs"].value)


# -- checking ------------------------------------------------------------------------------------


def _check(chosen: Choices, grounds: Grounds) -> None:
    missing = _missing_device(chosen, grounds)
    problems = [problem for check in CHECKS for problem in check(chosen, grounds)]
    if missing and not problems:
        raise ResourceError(missing, hint="Leave compute.device out, or set it to cpu.")
    if problems:
        raise UsageError(
            "These settings do not fit together:",
            problems=[*([missing] if missing else []), *problems],
            hint="Change them with --set NAME=VALUE or in the plan file; a setting that is left out is decided for you.",
        )


def _missing_device(chosen: Choices, grounds: Grounds) -> str:
    device, machine = chosen["compute.device"], grounds.machine
    present = {"cpu": True, "cuda": machine.gpu_capability is not None, "mps": machine.gpu is not None}
    if device.value == "mps" and machine.gpu_capability is not None:
        present["mps"] = False
    if present[device.value]:
        return ""
    found = f"{machine.gpu}, which is none" if machine.gpu else "none"
    return f"compute.device is {device.told}, but PyTorch finds no such device on this machine (GPU: {found})."


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
        return [f"compute.precision is {precision.told}, which runs at 13–26 GFLOP/s per core on a CPU; use bf16 or fp32."]
    if precision.value == "bf16" and device == "cuda" and machine.gpu_capability and not _has_bf16(machine):
        return [
            f"compute.precision is {precision.told}, but {_gpu_name(machine)} only emulates bf16, about 4 times slower; use fp16 or fp32."
        ]
    return []


def _attention_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    attention, kind = chosen["compute.attention"], grounds.info.model_type
    if attention.value == "sdpa" and kind in EAGER_ONLY:
        return [f"compute.attention is {attention.told}, but transformers has only eager attention for {kind}."]
    return []


def _data_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    return [
        f"{name} is {chosen[name].told}, but the data were prepared with {value!r}; prepare them again to change it."
        for name, value in grounds.prepared.items()
        if name in chosen and chosen[name].value != value
    ]


CHECKS: Sequence[Callable[[Choices, Grounds], list[str]]] = (
    _length_problems,
    _target_problems,
    _precision_problems,
    _attention_problems,
    _data_problems,
)


# -- estimating ----------------------------------------------------------------------------------


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
    """

    tokens: int
    attended: float
    micro_batches: int
    largest: int


def estimate(chosen: Settings, grounds: Grounds) -> Estimate:
    """Estimate time, memory and disk from operation counts and the measured rates.

    Parameters are exact for the architectures that textlora is tested with, and nearly so for
    others. Time and memory are first approximations: within a factor of two on an idle machine.
    """
    training, rows = chosen.training, grounds.rows
    epoch = load(rows["train"], training.batch_size, chosen, grounds)
    steps = _steps(rows["train"], training.batch_size, training.epochs)
    trainable = trainable_parameters(chosen, grounds)
    return Estimate(
        train_seconds=_train_seconds(chosen, grounds, epoch, steps),
        evaluate_seconds=_evaluate_seconds(chosen, grounds),
        memory_gb=_memory_gb(chosen, grounds, epoch, trainable),
        disk_gb=trainable * 4 * (1 + 3 * CHECKPOINTS_KEPT) / 1e9 + REPORT_GB,
        total_parameters=grounds.info.parameters + trainable,
        trainable_parameters=trainable,
        tokens_per_epoch=epoch.tokens,
        steps=steps,
    )


def load(rows: int, batch_size: int, chosen: Settings, grounds: Grounds) -> Load:
    """Cut texts of the data's lengths into micro-batches as training does, and count."""
    length, budget = chosen.text.max_length or grounds.info.max_length, chosen.compute.tokens_per_micro_batch or 0
    if rows == 0:
        return Load(0, 0.0, 0, 0)
    steps = min(SIMULATED_STEPS, math.ceil(rows / batch_size))
    drawn = _spread(grounds.lengths.quantiles, min(rows, steps * batch_size), length)
    widths = []
    for start in range(steps):
        for batch in micro_batches(drawn[start::steps], budget, limit=length):
            longest = padded_length(max(drawn[start::steps][index] for index in batch), length)
            widths.append((length if chosen.text.padding == "max_length" else longest, len(batch)))
    tokens = sum(width * count for width, count in widths)
    share = rows / len(drawn)
    return Load(
        tokens=round(tokens * share),
        attended=sum(width * width * count for width, count in widths) / tokens,
        micro_batches=math.ceil(len(widths) * share),
        largest=max(width * count for width, count in widths),
    )


def _spread(quantiles: Sequence[int], number: int, limit: int) -> list[int]:
    """Return ``number`` lengths that follow the quantiles, cut at ``limit``, shortest first."""
    shares = QUANTILES if len(quantiles) == len(QUANTILES) else [i / (len(quantiles) - 1) for i in range(len(quantiles))]
    lengths, place = [], 0
    for index in range(number):
        share = (index + 0.5) / number
        while shares[place + 1] < share:
            place += 1
        low, high = quantiles[place], quantiles[place + 1]
        within = (share - shares[place]) / (shares[place + 1] - shares[place])
        lengths.append(max(1, min(limit, round(low + within * (high - low)))))
    return lengths


def _train_seconds(chosen: Settings, grounds: Grounds, epoch: Load, steps: int) -> float:
    training, rows = chosen.training, grounds.rows
    validation = load(rows["validation"], training.eval_batch_size, chosen, grounds)
    validations = math.ceil(training.epochs * training.evaluations_per_epoch)
    tokens = grounds.lengths.mean * (rows["train"] + rows["validation"])
    return (
        START_SECONDS["train"]
        + TOKENIZE_SECONDS * tokens
        + STEP_SECONDS * steps
        + training.epochs * _pass_seconds("train", epoch, chosen, grounds)
        + validations * _pass_seconds("predict", validation, chosen, grounds)
    )


def _evaluate_seconds(chosen: Settings, grounds: Grounds) -> float:
    test = load(grounds.rows["test"], chosen.training.eval_batch_size, chosen, grounds)
    return (
        START_SECONDS["evaluate"]
        + TOKENIZE_SECONDS * grounds.lengths.mean * grounds.rows["test"]
        + BASELINE_SECONDS * grounds.lengths.mean * grounds.rows["train"]
        + _pass_seconds("predict", test, chosen, grounds)
    )


def _pass_seconds(kind: str, work: Load, chosen: Settings, grounds: Grounds) -> float:
    """Return the seconds of one pass: products at the measured rate, and all the rest."""
    info, device, machine = grounds.info, chosen.compute.device or "cpu", grounds.machine
    products = work.tokens * _flops_per_token(kind, work.attended, chosen, info)
    seconds = products / (GEMM_EFFICIENCY[device] * _rate(chosen, machine) * 1e9)
    if device != "cpu":
        return seconds + LAUNCH_SECONDS * work.micro_batches
    softmax = SOFTMAX_SECONDS[kind] * (1.0 if chosen.compute.attention == "eager" else 0.3)
    rest = ELEMENT_SECONDS[kind] * info.hidden + softmax * info.heads * work.attended
    return seconds + work.tokens * info.layers * rest / machine.cores


def _flops_per_token(kind: str, attended: float, chosen: Settings, info: BaseInfo) -> float:
    """Forward is 2 per weight; training adds as much for the inputs' gradients, not the weights'."""
    linears = 2.0 * info.layers * sum(inner * outer for inner, outer in linear_shapes(info))
    attention = 4.0 * info.layers * attended * info.hidden
    adapters = 2.0 * info.layers * sum(chosen.lora.r * (a + b) for a, b in linear_shapes(info, chosen.lora.target_modules))
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
    attended = chosen.text.max_length or info.max_length
    shape = Shape(BYTES[compute.precision or "fp32"], attended, compute.attention == "eager")
    data = sum(grounds.rows.values()) * (10 * grounds.lengths.mean) / 1e9
    working = info.parameters * shape.bytes / 1e9 + activations_gb(epoch.largest, shape, info)
    # Weights arrive in fp32, before there are any activations.
    return RUNTIME_GB + max(working, info.parameters * 4 / 1e9) + trainable * 16 / 1e9 + data


def trainable_parameters(chosen: Settings, grounds: Grounds) -> int:
    """Return the parameters of adapters and head; see ``estimate`` for how exact."""
    info, hidden, classes = grounds.info, grounds.info.hidden, grounds.classes
    layers = 1 if info.model_type == "albert" else info.layers  # ALBERT's layers share one set of weights
    shapes = linear_shapes(info, chosen.lora.target_modules)
    adapters = layers * sum(chosen.lora.r * (inner + outer) for inner, outer in shapes)
    return adapters + _head_parameters(info.model_type, hidden, classes)


def _head_parameters(model_type: str, hidden: int, classes: int) -> int:
    classifier = hidden * classes + classes
    return classifier if model_type in POOLED else hidden * hidden + hidden + classifier


# Their pooler is part of the pretrained encoder; only the last layer is new.
POOLED = ("bert", "albert")
INNER = {"lin1": "up", "lin2": "down", "ffn": "up", "ffn_output": "down", "fc1": "up", "fc2": "down"}


def linear_shapes(info: BaseInfo, names: Iterable[str] | None = None) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the linear layers called ``names`` in one block; all by default.

    A name may stand for several layers, as BERT's ``dense``. Unknown names count as hidden by
    hidden.
    """
    hidden, inner = info.hidden, info.intermediate
    square, up, down = (hidden, hidden), (hidden, inner), (inner, hidden)
    known = {"up": [up], "down": [down]}
    special = {"dense": _dense(info.linear_names, square, up, down)}
    if info.model_type == "modernbert":
        special |= {"Wqkv": [(hidden, 3 * hidden)], "Wo": [square, down], "Wi": [(hidden, 2 * inner)]}
    wanted = info.linear_names if names is None else names
    return [shape for name in wanted for shape in special.get(name) or known.get(INNER.get(name, ""), [square])]


def _dense(names: Sequence[str], square: tuple[int, int], up: tuple[int, int], down: tuple[int, int]) -> list[tuple[int, int]]:
    if "ffn" in names:
        return [square]
    return [up, down] if "o" in names else [square, up, down]


# -- plan.toml -----------------------------------------------------------------------------------

HEADER = """\
# What textlora train will do, and why. To change something, edit the value and call
#     textlora plan RUN --plan plan.toml
# A setting that is removed is decided anew.
"""
META = "textlora"
META_KEYS = ("schema", "recipe", "dataset", "classes", "written")
TABLES = {"machine": Machine, "estimate": Estimate}
# Characters of each value's checksum; enough to notice an edit.
CHECK_DIGITS = 4
EDITED = "edited in {}"


def save_plan(path: Path, plan: Plan) -> None:
    """Write ``plan.toml``: every value with its reason beside it, atomically.

    Raises:
        ResourceError: the file cannot be written.
    """
    values = settings.flatten(plan.settings)
    lines = [HEADER]
    section = ""
    for name, value in values.items():
        head, _, tail = name.rpartition(".")
        if head != section:
            section = head
            lines.append(f"\n[{head}]")
        lines.append(_setting_line(tail, value, _one_line(plan.reasons.get(name, "default"))))
    meta = {
        "schema": storage.SCHEMA_VERSION,
        "recipe": plan.recipe,
        "dataset": plan.dataset_fingerprint,
        "classes": plan.classes,
        "written": "".join(_checks(values).values()),
    }
    tables = {META: meta, "machine": _fields(plan.machine), "estimate": _fields(plan.estimate)}
    for title, table in tables.items():
        lines.append(f"\n[{title}]")
        lines += [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    storage.write_text(path, "\n".join(lines) + "\n")


def _setting_line(name: str, value: Any, reason: str) -> str:
    if value is None:
        return f"# {name} is left out  # {reason}"
    return f"{f'{name} = {_toml(value)}':<40}  # {reason}"


def _fields(noun: Machine | Estimate) -> dict[str, Any]:
    return {field.name: getattr(noun, field.name) for field in fields(noun)}


def _one_line(text: str) -> str:
    """Return text that fits into a TOML comment: one line, no control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _toml(value: Any) -> str:
    """Write a value as TOML, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_string(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _toml_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def _checks(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: storage.fingerprint([name, repr(value)])[:CHECK_DIGITS] for name, value in values.items()}


def load_plan(path: Path) -> Plan:
    """Read ``plan.toml`` whole. A value that was edited by hand gets that as its reason.

    Raises:
        UsageError: the file is missing, not TOML, of another version, incomplete, or has unknown
            or impossible values.
    """
    document = _read_document(path)
    if META not in document:
        storage.check_schema(path, None, "Plan")
    known = _plan_settings(document, path)
    built = settings.build(known, where=str(path))
    values = settings.flatten(built)
    _refuse_open(values, path)
    meta = document[META]
    try:
        return Plan(
            settings=built,
            reasons=_reasons(path, values, str(meta.get("written", ""))),
            recipe=_expect(meta, "recipe", str),
            dataset_fingerprint=_expect(meta, "dataset", str),
            classes=_expect(meta, "classes", int),
            machine=_table(document, "machine"),
            estimate=_table(document, "estimate"),
        )
    except (KeyError, TypeError) as error:
        _damaged(path, f"[{META}] lacks {error}", error)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([error.title.lower(), *map(str, first["loc"])])
        _damaged(path, f"{place}: {first['msg']}", error)


def _damaged(path: Path, what: str, error: Exception) -> NoReturn:
    raise UsageError(f"{path} is damaged: {what}.", hint="Run `textlora plan` again.") from error


def _expect(table: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    if not isinstance(table[key], kind):
        raise KeyError(key)
    return table[key]


def _table(document: Mapping[str, Any], name: str) -> Any:
    return TypeAdapter(TABLES[name]).validate_python({"gpu": None, "gpu_memory_gb": None, "gpu_capability": None, **document.get(name, {})} if name == "machine" else document.get(name, {}))


def read_plan_settings(path: Path) -> dict[str, Any]:
    """Return the settings that stand in a plan file, whole or in part, by dotted name.

    Raises:
        UsageError: the file is missing, not TOML, of another version, or has unknown or impossible
            values, all together.
    """
    return _plan_settings(_read_document(path), path)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist.", hint="`textlora plan` writes it: run that first.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.", hint="Correct it, or run `textlora plan` again.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    meta = document.get(META)
    if meta is not None:
        version = meta.get("schema") if isinstance(meta, dict) else None
        storage.check_schema(path, {"noun": "Plan", "version": version}, "Plan")
    return document


def _plan_settings(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the document's settings, checked; refuse unknown names anywhere in it."""
    tables = {META: META_KEYS, **{name: [field.name for field in fields(noun)] for name, noun in TABLES.items()}}
    problems = [
        f"There is no {title}.{key}.{did_you_mean(key, known)}"
        for title, known in tables.items()
        for key in document.get(title, {})
        if key not in known
    ]
    if problems:
        raise UsageError(f"Wrong values in {path}:", problems=problems)
    flat = settings.flatten_toml({name: value for name, value in document.items() if name not in tables})
    return _typed(flat, str(path))


def _refuse_open(values: Mapping[str, Any], path: Path) -> None:
    problems = [f"{name} is missing." for name in DECISIONS if values[name] is None]
    if problems:
        raise UsageError(
            f"{path} is not complete:",
            problems=problems,
            hint=f"Have it completed: textlora plan {path.parent} --plan {path} --overwrite",
        )


def _reasons(path: Path, values: Mapping[str, Any], written: str) -> dict[str, str]:
    """Return the reasons from the comments, for the values that are as they were written."""
    comments = _comments(path.read_text(encoding="utf-8"))
    marks = [written[start : start + CHECK_DIGITS] for start in range(0, len(written), CHECK_DIGITS)]
    kept = dict(zip(values, marks, strict=False))
    unchanged = {name for name, check in _checks(values).items() if kept.get(name) == check}
    edited = EDITED.format(path.name)
    return {name: comments.get(name, "default") if name in unchanged else edited for name in values}


def _comments(text: str) -> dict[str, str]:
    """Return the comment behind each setting of a plan file, by dotted name."""
    comments: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        header = re.match(r"\s*\[(\w+)\]", line)
        if header:
            section = f"{header[1]}."
        named = re.match(r"(?:# )?(\w+) (?:=|is left out  #)", line)
        if named:
            comments[section + named[1]] = _comment(line)
    return comments


def _comment(line: str) -> str:
    """Return what follows the first ``#`` that is not inside a string."""
    if line.startswith("# "):
        return line.partition("  # ")[2].strip()
    for place in (found.start() for found in re.finditer("#", line)):
        try:
            tomllib.loads(line[:place])
        except tomllib.TOMLDecodeError:
            continue
        return line[place + 1 :].strip()
    return ""


# -- using a plan --------------------------------------------------------------------------------


def check_plan(plan: Plan, dataset: Dataset, *, path: Path | None = None) -> None:
    """Refuse a plan that was made for other data.

    Args:
        plan: the plan to be carried out.
        dataset: the data it shall be carried out on.
        path: the plan's file, for the message; ``plan.toml`` beside the data by default.

    Raises:
        UsageError: the fingerprints differ.
    """
    if plan.dataset_fingerprint == dataset.fingerprint:
        return
    plan_file, data_file = path or dataset.folder / storage.PLAN, dataset.folder / storage.DATASET
    raise UsageError(
        f"{plan_file} was made for other data ({plan.dataset_fingerprint[:12]}…) than {data_file} describes ({dataset.fingerprint[:12]}…).",
        hint=f"Plan again for these data: textlora plan {dataset.folder} --plan {plan_file} --overwrite",
    )


def plan_fingerprint(plan: Plan) -> str:
    """Return the SHA-256 over all settings; reasons, machine and estimate do not count."""
    return storage.fingerprint(f"{name}={value!r}" for name, value in settings.flatten(plan.settings).items())


def describe_plan(plan: Plan) -> list[tuple[str, str, str]]:
    """Return name, value and reason of every setting, for a table."""
    return plan.rows()
