"""What a search varies: a range for each setting that the user has left free. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from textlora import settings
from textlora.settings import Policy, Settings
from textlora.types import TokenLengths
from textlora.windows import LengthPolicy, loss, usual_overlap

RATES = (1e-4, 2e-3)
RANKS = (4, 64)
EPOCHS = (1, 5)
POLICIES = ("head+tail", "head", "tail")
WINDOWS: Policy = "windows"
# Windows see all of a text; they are tried where that costs no more than this factor.
WINDOWS_COST = 1.5


@dataclass(frozen=True, slots=True)
class Rate:
    """A positive number, searched on a logarithmic scale and kept with two digits."""

    setting: str
    low: float
    high: float

    def value(self, drawn: Any) -> float:
        """Return the setting's value for what was drawn."""
        return float(f"{float(drawn):.2g}")

    def drawn(self, value: Any) -> float:
        """Return what stands for a value."""
        return float(value)

    def __str__(self) -> str:
        """Return the range in words."""
        return f"{self.low:g} to {self.high:g}, by factors"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; ``power``: a power of two, of which the exponent is drawn."""

    setting: str
    low: int
    high: int
    power: bool = False

    def value(self, drawn: Any) -> int:
        """Return the setting's value for what was drawn."""
        return 2 ** int(drawn) if self.power else int(drawn)

    def drawn(self, value: Any) -> int:
        """Return what stands for a value, or for the nearest one there is."""
        return round(math.log2(value)) if self.power else int(value)

    def __str__(self) -> str:
        """Return the range in words."""
        low, high = self.value(self.low), self.value(self.high)
        return f"{low} to {high}{', powers of two' if self.power else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    setting: str
    options: tuple[str, ...]

    def value(self, drawn: Any) -> str:
        """Return what was drawn."""
        return str(drawn)

    def drawn(self, value: Any) -> str:
        """Return the value."""
        return str(value)

    def __str__(self) -> str:
        """Return the options."""
        return ", ".join(self.options)


Dimension = Rate | Whole | Choice


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched.

    Attributes:
        dimensions: the searched settings.
        alpha_by_rank: ``lora.lora_alpha`` for each unit of rank, so that the rank is searched and not the size
            of the update; None where the user has fixed one of the two.
    """

    dimensions: tuple[Dimension, ...]
    alpha_by_rank: float | None = None

    def assignments(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a trial, by dotted name, for what was drawn for each dimension."""
        found: dict[str, Any] = {one.setting: one.value(drawn[one.setting]) for one in self.dimensions}
        if self.alpha_by_rank is not None and "lora.r" in found:
            found["lora.lora_alpha"] = found["lora.r"] * self.alpha_by_rank
        return found

    def searched(self, chosen: Settings) -> dict[str, Any]:
        """Return the values that settings have for the searched ones."""
        flat = settings.flatten(chosen)
        return {one.setting: flat[one.setting] for one in self.dimensions}

    def told(self) -> dict[str, str]:
        """Return every range in words, by setting."""
        return {one.setting: str(one) for one in self.dimensions}


def make_space(default: Settings, *, layers: int, lengths: TokenLengths | None, fixed: Collection[str]) -> Space:
    """Return what to search around a default, whose own values are all in it.

    Args:
        default: resolved settings.
        layers: transformer layers of the encoder.
        lengths: of the texts; a length policy is searched where texts are cut.
        fixed: settings that the user has given a value.
    """
    training, lora = default.training, default.lora
    rank = round(math.log2(lora.r))
    epochs = math.ceil(training.epochs)
    top = lora.top_layers or layers
    least, most = (round(math.log2(bound)) for bound in RANKS)
    found: list[Dimension] = [
        Rate("training.learning_rate", min(RATES[0], training.learning_rate), max(RATES[1], training.learning_rate)),
        Whole("lora.r", min(least, rank), max(most, rank), power=True),
        Whole("lora.top_layers", min(top, max(1, layers // 3)), layers),
        Whole("training.epochs", min(EPOCHS[0], epochs), max(EPOCHS[1], epochs)),
    ]
    policies = _policies(default, lengths)
    if len(policies) > 1:
        found.append(Choice("text.policy", policies))
    free = tuple(one for one in found if one.setting not in fixed)
    tied = not {"lora.r", "lora.lora_alpha"} & set(fixed)
    return Space(free, lora.lora_alpha / lora.r if tied else None)


def _policies(default: Settings, lengths: TokenLengths | None) -> tuple[str, ...]:
    """Return the length policies that differ for these texts."""
    if lengths is None:
        return ()
    limit = default.text.max_length or lengths.max_length
    policy = LengthPolicy.of_settings(default.text, max_length=limit)
    head = replace(policy, policy="head", max_length=limit)
    if not loss(head, lengths, rows=1).row_share:
        return ()
    windows = replace(head, policy=WINDOWS, window_overlap=default.text.window_overlap or usual_overlap(limit))
    cost = loss(windows, lengths, rows=1).mean_computed / max(1.0, loss(head, lengths, rows=1).mean_computed)
    found = (*POLICIES, WINDOWS) if cost <= WINDOWS_COST else POLICIES
    return found if default.text.policy in found else (*found, default.text.policy)
