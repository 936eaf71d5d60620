"""Limits on memory, time and disk: the plan gives way where the user has left it free, or says what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from textlora import settings
from textlora.errors import ResourceError
from textlora.planning.deciding import MICRO_BATCHES
from textlora.planning.estimating import estimate
from textlora.planning.grounds import USER, Choices, Grounds
from textlora.settings import LimitSettings, Settings
from textlora.types import Estimate, Rehearsal

# A promise is kept although a prediction may be off by so much.
MARGIN = 1.1


@dataclass(frozen=True, slots=True)
class _Try:
    """Settings that were tried and what they would take."""

    chosen: Settings
    found: Estimate
    changes: dict[str, object]


def keep_limits(
    chosen: Settings, choices: Choices, grounds: Grounds, terms: Rehearsal | None
) -> tuple[Settings, dict[str, str]]:
    """Return settings whose estimate is below all limits, and the reasons of those that were changed.

    Given up, in this order: tokens of a micro-batch, layers below the upper half, epochs, all layers but the
    last. What the user has set stays.

    Raises:
        ResourceError: nothing fits; says what takes least, and what share of the rows would fit.
    """
    limits = chosen.limits
    if limits == LimitSettings():
        return chosen, {}
    tries = []
    for changes in _changes(chosen, choices, grounds):
        changed = settings.build({**settings.flatten(chosen), **changes})
        tried = _Try(changed, estimate(changed, grounds, terms), changes)
        if not exceeded(tried.found, limits):
            return changed, {name: f"to keep {_told(limits, tried.found)}" for name in changes}
        tries.append(tried)
    raise _impossible(tries, limits)


def exceeded(found: Estimate, limits: LimitSettings) -> list[str]:
    """Return what is beyond the limits, as text: ``memory: 3.10 GB, allowed 2 GB``.

    With a CUDA GPU the limit on memory is meant for the GPU's: nothing that could give way lies on the host.
    """
    pairs = (
        (_which(found), (found.gpu_memory_gb or found.memory_gb) * MARGIN, limits.memory_gb, "GB"),
        ("time", found.seconds * MARGIN / 60, limits.minutes, "min"),
        ("disk", found.disk_gb, limits.disk_gb, "GB"),
    )
    return [
        f"{name}: {taken:.2f} {unit}, allowed {allowed:g} {unit}"
        for name, taken, allowed, unit in pairs
        if allowed is not None and taken > allowed
    ]


def _changes(chosen: Settings, choices: Choices, grounds: Grounds) -> Iterator[dict[str, object]]:
    """Yield what to change, least first."""

    def free(name: str) -> bool:
        return choices[name].source not in USER

    planned = chosen.compute.tokens_per_micro_batch or 0
    smaller = (
        [size for size in MICRO_BATCHES[chosen.compute.device or "cpu"] if size < planned]
        if free("compute.tokens_per_micro_batch")
        else []
    )
    layers, half = grounds.info.layers, max(1, grounds.info.layers // 2)
    depths = [None, *([half, 1] if free("lora.top_layers") and (chosen.lora.top_layers or layers) == layers else [])]
    fewer = range(int(chosen.training.epochs) - 1, 0, -1) if free("training.epochs") else ()
    epochs = [None, *fewer]
    steps = [(depth, number) for depth in depths[:2] for number in epochs] + [
        (depth, epochs[-1]) for depth in depths[2:]
    ]
    for depth, number in steps:
        for budget in (None, *smaller):
            found: dict[str, object] = {}
            if budget is not None:
                found["compute.tokens_per_micro_batch"] = budget
            if number is not None:
                found["training.epochs"] = float(number)
            if depth is not None:
                found["lora.top_layers"] = depth
                cached = chosen.compute.engine == "packed" and (number or chosen.training.epochs) > 1
                if free("compute.prefix_cache") and chosen.limits.disk_gb is None:
                    found["compute.prefix_cache"] = cached
            yield found


def _which(found: Estimate) -> str:
    return "GPU memory" if found.gpu_memory_gb else "memory"


def _told(limits: LimitSettings, found: Estimate) -> str:
    parts = [
        f"{_which(found)} below {limits.memory_gb:g} GB" if limits.memory_gb is not None else "",
        f"time below {limits.minutes:g} min" if limits.minutes is not None else "",
        f"disk below {limits.disk_gb:g} GB" if limits.disk_gb is not None else "",
    ]
    return " and ".join(part for part in parts if part)


def _impossible(tries: list[_Try], limits: LimitSettings) -> ResourceError:
    last = tries[-1]
    hint = "Raise the limit, or take a smaller --base-model or shorter texts (--set text.max_length=128)."
    if limits.minutes is not None and last.found.seconds * MARGIN / 60 > limits.minutes:
        share = 0.8 * limits.minutes * 60 / (last.found.seconds * MARGIN)
        hint += f" For the time, a sample of about {max(0.01, share):.2g} of the rows would do: --sample {max(0.01, share):.2g}"
    return ResourceError(
        f"This training cannot be done with {_told(limits, last.found)}.",
        problems=[f"the least that was found takes {line}" for line in exceeded(last.found, limits)],
        hint=hint,
    )
