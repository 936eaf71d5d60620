"""The settings of ``adapt``: name, default, help text and check of each in one place.

What a plan of ``textlora plan`` has too goes by the same name here. ``--set training.epochs=1`` and the docs
read this table. ``None`` means "decided when the texts, the model and the machine are known".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from textlora.errors import UsageError, did_you_mean
from textlora.settings import Section, nest


class AdaptationData(Section):
    """How rows become texts."""

    clean_html: bool = Field(True, description="Turn HTML line breaks into spaces and entities into characters.")
    max_quarantined_share: float = Field(
        0.2, gt=0, le=1, description="Stop when a larger share of a file's rows is broken: the file itself is suspect."
    )
    validation_share: float = Field(
        0.05, gt=0, lt=0.5, description="Share of the texts held out to measure perplexity, 1,000 pieces at most."
    )


class AdaptationText(Section):
    """How texts become pieces."""

    max_length: int | None = Field(
        None,
        ge=8,
        description="Tokens of a piece, special ones included; automatic: what the encoder takes, at most 512.",
    )


class MaskingSettings(Section):
    """Which tokens are to be guessed."""

    probability: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="Share of the tokens to be guessed: 80 % of them masked, 10 % replaced, 10 % left.",
    )


class HeadSettings(Section):
    """The head that names masked words, where the base model has none."""

    steps: int | None = Field(
        None,
        ge=0,
        description="Steps that train the head alone, before the encoder; automatic: 100 for a fresh head, else none.",
    )
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="Learning rate of these steps.")


class AdaptationTraining(Section):
    """Optimisation."""

    epochs: float = Field(3, gt=0, le=1000, description="Passes over the texts.")
    batch_size: int = Field(64, ge=1, description="Pieces per optimiser step, whatever the micro-batching.")
    learning_rate: float = Field(1e-4, gt=0, lt=1, description="Peak learning rate.")
    warmup_steps: float = Field(0.06, ge=0, description="Steps of warm-up; below 1 a share of all steps.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm limit.")
    evaluations: int = Field(10, ge=1, le=1000, description="Validations (and checkpoints) in all.")
    early_stopping_patience: int = Field(
        3, ge=0, description="Stop after so many validations without gain; 0 is never."
    )


class AdaptationCompute(Section):
    """Arithmetic and memory."""

    device: Literal["cpu", "cuda", "mps"] | None = Field(None, description="Where to compute.")
    precision: Literal["fp32", "fp32_onednn", "bf16", "fp16"] | None = Field(
        None, description="Arithmetic of a pass; weights, gradients and optimiser are always fp32."
    )
    attention: Literal["eager", "sdpa"] | None = Field(None, description="Attention kernel.")
    tokens_per_micro_batch: int | None = Field(None, ge=1, description="Tokens per forward and backward pass.")


class AdaptationLimits(Section):
    """What it may take."""

    minutes: float | None = Field(None, gt=0, description="Minutes in all (--time-limit 2h); fewer steps are taken.")


class AdaptationSettings(Section):
    """All settings of an adaptation."""

    seed: int = Field(42, ge=0, lt=2**32, description="Seeds the head, the held-out texts, the order and the masks.")
    data: AdaptationData = AdaptationData()
    text: AdaptationText = AdaptationText()
    masking: MaskingSettings = MaskingSettings()
    head: HeadSettings = HeadSettings()
    training: AdaptationTraining = AdaptationTraining()
    compute: AdaptationCompute = AdaptationCompute()
    limits: AdaptationLimits = AdaptationLimits()


def flatten(settings: AdaptationSettings) -> dict[str, Any]:
    """Return ``{"seed": 42, "training.epochs": 3, …}`` for all settings."""
    flat: dict[str, Any] = {}
    for name in AdaptationSettings.model_fields:
        value = getattr(settings, name)
        inner = type(value).model_fields if isinstance(value, Section) else None
        flat |= {name: value} if inner is None else {f"{name}.{each}": getattr(value, each) for each in inner}
    return flat


def names() -> list[str]:
    """Return the dotted names of all settings, in order."""
    return list(flatten(AdaptationSettings()))


def describe(name: str) -> str:
    """Return the help text of a setting."""
    section, _, field = name.rpartition(".")
    owner: Any = type(getattr(AdaptationSettings(), section)) if section else AdaptationSettings
    return owner.model_fields[field].description or ""


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["training.epochs=1", "compute.precision=bf16"]`` into a mapping of typed values.

    Raises:
        UsageError: for a missing ``=`` or an unknown name (with "did you mean"), all at once.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            problems.append(f"{text!r} has no '='; write NAME=VALUE, for instance training.epochs=1.")
        elif name not in names():
            problems.append(_unknown(name))
        else:
            found[name] = _typed(value)
    if problems:
        raise UsageError("Cannot use --set:", problems=problems, hint=_hint())
    return found


def _typed(value: str) -> Any:
    if value == "auto":
        return None
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def _unknown(name: str) -> str:
    return f"adapt has no setting {name!r}.{_suggestion(name)}"


def _suggestion(name: str) -> str:
    """Return ``" Did you mean 'training.epochs'?"`` for ``epochs``, ``epoch`` or ``training.epoch``, or ``""``."""
    if close := did_you_mean(name, names()):
        return close
    by_field = {full.rpartition(".")[2]: full for full in names()}
    field = did_you_mean(name.rpartition(".")[2], by_field).partition("'")[2].partition("'")[0]
    return f" Did you mean {by_field[field]!r}?" if field else ""


def _hint() -> str:
    return f"Settings of adapt: {', '.join(names())}."


def build(values: Mapping[str, Any]) -> AdaptationSettings:
    """Check some values by dotted name and return all settings.

    Raises:
        UsageError: unknown names or values out of range, all at once.
    """
    known = {name: value for name, value in values.items() if name in names()}
    problems = [_unknown(name) for name in values if name not in known]
    built = None
    try:
        built = AdaptationSettings.model_validate(nest(known))
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, each['loc'][:2]))} is {each['input']!r}, expected "
            f"{each['msg'].removeprefix('Input should be ').removeprefix('Value error, ')}."
            for each in error.errors()
        ]
    if problems or built is None:
        raise UsageError("Wrong values for adapt:", problems=problems, hint=_hint())
    return built
