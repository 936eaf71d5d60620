"""What else could be trained with these data on this machine, and what it would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from textlora import settings
from textlora.planning.estimating import estimate
from textlora.planning.grounds import Grounds
from textlora.settings import Settings
from textlora.types import Alternative, Rehearsal


class Rehearse(Protocol):
    """Returns what was measured for settings, or None."""

    def __call__(self, chosen: Settings, grounds: Grounds, *, full: bool = False) -> Rehearsal | None:
        """Return the terms; ``full`` for all weights trained."""


FULL = "full fine-tuning"


def alternatives(chosen: Settings, grounds: Grounds, rehearse: Rehearse) -> tuple[Alternative, ...]:
    """Return what full fine-tuning, LoRA, LoRA on the upper half and QLoRA would take, side by side.

    Args:
        chosen: resolved settings; all else stays as it is there.
        grounds: data, base model and machine.
        rehearse: returns the measured terms for settings.
    """
    found = [_alternative(FULL, full_settings(chosen), grounds, rehearse, "", full=True)]
    for name, changes, how in _variants(chosen, grounds):
        found.append(_alternative(name, _changed(chosen, changes), grounds, rehearse, how))
    return tuple(found)


def full_settings(chosen: Settings) -> Settings:
    """Return the settings as far as they describe full fine-tuning: fp32, Hugging Face's own forward pass."""
    compute = chosen.compute.model_copy(
        update={"engine": "transformers", "precision": "fp32", "attention": "sdpa", "prefix_cache": False}
    )
    lora = chosen.lora.model_copy(update={"top_layers": None})
    quantization = chosen.quantization.model_copy(update={"bits": None})
    return chosen.model_copy(update={"compute": compute, "lora": lora, "quantization": quantization})


def _variants(chosen: Settings, grounds: Grounds) -> list[tuple[str, Mapping[str, object], str]]:
    layers, half = grounds.info.layers, max(1, grounds.info.layers // 2)
    whole = {"lora.top_layers": layers, "compute.prefix_cache": False, "quantization.bits": None}
    cached = chosen.compute.engine == "packed" and chosen.training.epochs > 1
    top = {**whole, "lora.top_layers": half, "compute.prefix_cache": cached}
    return [
        ("LoRA", whole, f"--set lora.top_layers={layers}"),
        (f"LoRA, top {half}{', cached' if cached else ''}", top, f"--set lora.top_layers={half}"),
        ("QLoRA, 8 bits", {**whole, "quantization.bits": 8}, "--set quantization.bits=8"),
        ("QLoRA, 4 bits", {**whole, "quantization.bits": 4}, "--set quantization.bits=4"),
    ]


def _changed(chosen: Settings, changes: Mapping[str, object]) -> Settings:
    return settings.build({**settings.flatten(chosen), **changes})


def _alternative(
    name: str, chosen: Settings, grounds: Grounds, rehearse: Rehearse, how: str, *, full: bool = False
) -> Alternative:
    found = estimate(chosen, grounds, rehearse(chosen, grounds, full=full), full=full)
    return Alternative(name, how, found)
