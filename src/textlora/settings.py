"""Every setting of a plan: name, default, help text and check in one place.

``--set lora.r=16``, ``plan.toml``, the recipes and the docs all read this table. The value
``None`` on an automatic setting means "the planner decides"; a resolved plan has none left.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from textlora import goals
from textlora.errors import UsageError, did_you_mean

LEAST_SIMILARITY = 0.5
"""Smallest Jaccard similarity that near-duplicates are looked for at."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where they would pass as the numbers 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            raise ValueError("something else than true or false")
        return value


class DataSettings(Section):
    """How rows become splits."""

    sample: float | None = Field(
        None, gt=0, le=1, description="Share of the rows to draw, as pandas' sample(frac=…) does."
    )
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the rows for validation.")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the rows for the test.")
    clean_html: bool = Field(True, description="Turn HTML line breaks into spaces and entities into characters.")
    max_characters: int = Field(1_000_000, ge=100, description="Longer cells are set aside.")
    max_quarantined_share: float = Field(
        0.2, gt=0, le=1, description="Stop when a larger share of the lines is broken: the file itself is suspect."
    )
    near_duplicates: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Texts that share so much of their character 5-grams (Jaccard) stay in one split; 0 does not look for them.",
    )
    group_column: str | None = Field(
        None, min_length=1, description="Rows with the same value in this column stay in one split."
    )
    time_column: str | None = Field(
        None, min_length=1, description="Split by this column: the oldest rows train, the newest are the test."
    )
    slice_columns: tuple[str, ...] = Field(
        (), description="Columns kept with the rows, such as their source, to score the rows of each value apart."
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between the labels of a row, where rows have several (multi-label).",
    )

    @field_validator("near_duplicates")
    @classmethod
    def refuse_unrelated(cls, value: float) -> float:
        """Refuse thresholds at which texts that have nothing to do with each other would be compared."""
        if 0 < value < LEAST_SIMILARITY:
            raise ValueError(f"0 or a number from {LEAST_SIMILARITY:g} to 1")
        return value


class ModelSettings(Section):
    """The pretrained encoder."""

    base_model: str = Field(
        "distilbert-base-uncased",
        min_length=1,
        description="Hub id, local folder, or 'embedded' for the built-in MiniLM-L6.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")


Policy = Literal["head", "tail", "head+tail", "windows"]


class TextSettings(Section):
    """What happens to texts longer than the encoder takes."""

    policy: Policy = Field(
        "head+tail",
        description="Which part of a long text is kept; windows: all of it, in several forward passes whose logits are averaged.",
    )
    max_length: int | None = Field(None, ge=8, description="Tokens per forward pass, special tokens included.")
    head_tokens: int = Field(128, ge=1, description="Tokens kept from the start under head+tail.")
    window_overlap: int | None = Field(
        None, ge=0, description="Tokens that neighbouring windows share at least, under windows."
    )
    max_windows: int = Field(
        8, ge=1, le=64, description="Windows of a text at most, under windows; a longer text has gaps between them."
    )
    padding: Literal["longest", "max_length"] = Field(
        "longest", description="Pad to the longest of the micro-batch or to max_length."
    )


class LoraSettings(Section):
    """The adapters."""

    r: int = Field(16, ge=1, le=512, description="Rank.")
    lora_alpha: float = Field(32, gt=0, description="Scaling numerator: the update is scaled by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: tuple[str, ...] | None = Field(
        None, description="Names of the adapted linear layers; automatic: all of them."
    )
    top_layers: int | None = Field(
        None, ge=1, description="Adapt only the last so many transformer layers; automatic: all of them."
    )


class TrainingSettings(Section):
    """Optimisation."""

    learning_rate: float = Field(5e-4, gt=0, lt=1, description="Peak learning rate.")
    epochs: float = Field(3, gt=0, le=1000, description="Passes over the training split.")
    batch_size: int = Field(32, ge=1, description="Samples per optimiser step, whatever the micro-batching.")
    eval_batch_size: int = Field(64, ge=1, description="Samples per evaluation step.")
    warmup_steps: float = Field(0.06, ge=0, description="Steps of warm-up; below 1 a share of all steps.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="Learning-rate schedule."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm limit.")
    evaluations_per_epoch: int = Field(1, ge=1, le=100, description="Validations (and checkpoints) per epoch.")
    early_stopping_patience: int = Field(
        0, ge=0, description="Stop after so many validations without gain; 0 is never."
    )
    best_metric: Literal["loss", "accuracy", "f1_macro"] = Field(
        "accuracy", description="Validation score that picks the best checkpoint."
    )
    trunk_dropout: bool = Field(False, description="Dropout inside the frozen encoder.")


class LossSettings(Section):
    """What training minimises, and how it deals with rare classes."""

    name: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="Cross-entropy (binary for each label in multi-label data), or focal: hard rows count more.",
    )
    focal_gamma: float = Field(2.0, ge=0, description="Exponent of the focal loss; 0 is cross-entropy.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each target that is spread evenly over the answers."
    )
    class_weights: Literal["none", "auto"] | Mapping[str, float] = Field(
        "none",
        description="Weight of each class: none, auto (rare ones count more), or a table such as {joy = 2.0}, 1 for the others.",
    )
    sampling: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class is drawn equally often, small ones several times an epoch."
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def check_weights(cls, value: Any) -> Any:
        """Refuse what is neither a word nor a table of positive numbers."""
        if value in ("none", "auto") if isinstance(value, str) else _is_table_of_weights(value):
            return value
        raise ValueError("none, auto, or a table of numbers above 0 such as {joy = 2.0, anger = 0.5}")


def _is_table_of_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
        for weight in value.values()
    )


class ComputeSettings(Section):
    """Arithmetic and memory."""

    device: Literal["cpu", "cuda", "mps"] | None = Field(None, description="Where to compute.")
    engine: Literal["packed", "transformers"] | None = Field(
        None, description="Forward pass: ours over texts laid end to end, or Hugging Face's own over padded ones."
    )
    prefix_cache: bool | None = Field(
        None, description="Run the frozen layers below the adapters once and keep what they give on disk."
    )
    precision: Literal["fp32", "fp32_onednn", "bf16", "fp16"] | None = Field(
        None, description="Arithmetic of the frozen encoder; adapters and head are always fp32."
    )
    attention: Literal["eager", "sdpa"] | None = Field(None, description="Attention kernel.")
    tokens_per_micro_batch: int | None = Field(
        None, ge=0, description="Tokens per forward pass (padding counted); 0 turns micro-batching off."
    )


class QuantizationSettings(Section):
    """QLoRA: the frozen encoder in fewer bits."""

    bits: Literal[4, 8] | None = Field(
        None, description="Keep the frozen linear layers in 4 bits (NF4) or 8 bits; needs textlora[qlora]."
    )


class LimitSettings(Section):
    """What the job may take; the planner keeps below it."""

    memory_gb: float | None = Field(
        None, gt=0, description="Peak memory in GB (--memory-limit 4GB); with a CUDA GPU of its own memory."
    )
    minutes: float | None = Field(None, gt=0, description="Minutes from training to report (--time-limit 20m).")
    disk_gb: float | None = Field(None, gt=0, description="Space on the disk in GB (--disk-limit 2GB).")


class DecisionSettings(Section):
    """What probabilities mean, and what is made of them."""

    calibrate: bool = Field(
        True, description="Fit a temperature on the validation rows, and keep it where it makes probabilities truer."
    )
    goal: str | None = Field(
        None,
        description="What the threshold of two labels, or of each label in multi-label data, is fitted for: accuracy, f1, recall@precision=0.95, precision@recall=0.9 or cost:FP=1,FN=5.",
    )
    positive: str | None = Field(
        None, min_length=1, description="Which of two labels precision, recall and costs are about."
    )
    error_rate: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="Say 'not sure' where labels cannot be ruled out at this rate of errors (split conformal sets).",
    )

    @field_validator("goal")
    @classmethod
    def refuse_other_goals(cls, value: str | None) -> str | None:
        """Refuse what is no goal."""
        return value if value is None else str(goals.parse(value))


class Settings(Section):
    """All settings of a plan."""

    seed: int = Field(
        42, ge=0, lt=2**32, description="Seeds the sample, the splits, the head and the order of training."
    )
    tracking: tuple[str, ...] = Field((), description="Experiment trackers: tensorboard, wandb, mlflow, …")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    text: TextSettings = TextSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    loss: LossSettings = LossSettings()
    compute: ComputeSettings = ComputeSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    limits: LimitSettings = LimitSettings()
    decision: DecisionSettings = DecisionSettings()

    @property
    def prediction_tokens(self) -> int | None:
        """Tokens of a micro-batch when the classifier predicts, if memory is limited; None for what suits the device."""
        return None if self.limits.memory_gb is None else self.compute.tokens_per_micro_batch


def setting_names() -> list[str]:
    """Return the dotted names of all settings, in order."""
    names: list[str] = []
    for name, info in Settings.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, Section):
            names += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            names.append(name)
    return names


def describe(name: str) -> str:
    """Return the help text of a dotted setting name."""
    head, _, tail = name.partition(".")
    info = Settings.model_fields[head]
    if not tail:
        return info.description or ""
    section: type[Section] = getattr(Settings(), head).__class__
    return section.model_fields[tail].description or ""


def flatten(settings: Settings) -> dict[str, Any]:
    """Return ``{"lora.r": 16, …}`` for all settings."""
    flat: dict[str, Any] = {}
    for name in setting_names():
        head, _, tail = name.partition(".")
        value = getattr(settings, head)
        flat[name] = getattr(value, tail) if tail else value
    return flat


# What None means where it does not mean "the planner decides".
NONE_MEANS = {
    "data.sample": "all rows",
    "data.group_column": "none",
    "data.time_column": "none",
    "data.label_separator": "none",
    "quantization.bits": "off",
    "limits.memory_gb": "none",
    "limits.minutes": "none",
    "limits.disk_gb": "none",
    "decision.goal": "accuracy; multi-label: f1",
    "decision.positive": "the last one",
    "decision.error_rate": "off",
}


def show(name: str, value: Any) -> str:
    """Return a setting's value as text for a person."""
    if value is None:
        return NONE_MEANS.get(name, "automatic")
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return show_table(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


SHOWN_WEIGHTS = 6


def show_table(values: Mapping[str, float]) -> str:
    """Return ``anger 0.58, joy 1.15`` for a person, cut after a few."""
    parts = [f"{name} {value:.3g}" for name, value in values.items()]
    more = f" and {len(parts) - SHOWN_WEIGHTS} more" if len(parts) > SHOWN_WEIGHTS else ""
    return (", ".join(parts[:SHOWN_WEIGHTS]) or "none") + more


def automatic_names() -> list[str]:
    """Return the settings that the planner decides when nobody else does."""
    return [name for name, value in flatten(Settings()).items() if value is None and name not in NONE_MEANS]


def setting_rows() -> list[tuple[str, str, str]]:
    """Return name, default and meaning of every setting, for tables."""
    return [(name, show(name, value), describe(name)) for name, value in flatten(Settings()).items()]


def suggestion(name: str) -> str:
    """Return ``" Did you mean 'training.epochs'?"`` for ``"epochs"`` or a misspelt name, or ``""``."""
    known = setting_names()
    whole = [full for full in known if full.endswith(f".{name}")]
    return did_you_mean(whole[0] if whole else name, known)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"lora.r": 16}`` into ``{"lora": {"r": 16}}``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        head, _, tail = name.partition(".")
        if tail:
            nested.setdefault(head, {})[tail] = value
        else:
            nested[head] = value
    return nested


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["lora.r=16", "tracking=tensorboard"]`` into a flat mapping of typed values.

    Values are read as TOML where that works (``16``, ``true``, ``["q_lin"]``), else as text; a
    comma-separated text becomes a list where a list is expected. ``auto`` hands an automatic
    setting back to the planner.

    Raises:
        UsageError: for a missing ``=`` or an unknown name (with "did you mean"), all at once.
    """
    known = setting_names()
    flat: dict[str, Any] = {}
    problems: list[str] = []
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            problems.append(f"{text!r} has no '='; write NAME=VALUE, for instance lora.r=16.")
        elif name not in known:
            problems.append(f"There is no setting {name!r}.{suggestion(name)}")
        else:
            flat[name] = _typed(name, value)
    if problems:
        raise UsageError(
            "Cannot use --set:",
            problems=problems,
            hint="`textlora plan --settings` lists every setting with its meaning.",
        )
    return flat


LIST_SETTINGS = ("tracking", "data.slice_columns", "lora.target_modules")


def _typed(name: str, value: str) -> Any:
    if value == "auto" and flatten(Settings())[name] is None:
        return None
    try:
        parsed: Any = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value
    if name in LIST_SETTINGS and isinstance(parsed, str):
        parsed = [part.strip() for part in parsed.split(",") if part.strip()]
    # A revision or a folder may look like a number or a date.
    return parsed if isinstance(parsed, str) or not _is_text(name) else value


def _is_text(name: str) -> bool:
    head, _, tail = name.partition(".")
    model: type[Section] = getattr(Settings(), head).__class__ if tail else Settings
    annotation = model.model_fields[tail or head].annotation
    return annotation is str or (str in get_args(annotation) and type(None) in get_args(annotation))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay flat mappings over each other; later ones win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    return merged


def build(flat: Mapping[str, Any], *, where: str = "settings") -> Settings:
    """Check a flat mapping and return the settings.

    Args:
        flat: dotted names to values; absent ones take their default.
        where: what to call the source in an error, for instance a file name.

    Raises:
        UsageError: unknown names or values out of range, all at once.
    """
    known = setting_names()
    problems = [f"There is no setting {name!r}.{suggestion(name)}" for name in flat if name not in known]
    settings = None
    try:
        settings = Settings.model_validate(nest({name: value for name, value in flat.items() if name in known}))
    except ValidationError as error:
        problems += [_problem(details) for details in error.errors()]
    if problems or settings is None:
        raise UsageError(
            f"Wrong values in {where}:",
            problems=problems,
            hint="`textlora plan --settings` lists every setting with its meaning.",
        )
    return settings


def check_part(flat: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Check some settings on their own, so that an error names where they stand.

    Returns:
        The same names with values of the right type.

    Raises:
        UsageError: unknown names or values out of range, all at once.
    """
    checked = flatten(build(flat, where=where))
    return {name: checked[name] for name in flat}


def _problem(details: Any) -> str:
    names = [str(part) for part in details["loc"] if not isinstance(part, int)]
    name = ".".join(names[:2])
    message = str(details["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    message = message.replace("String should have ", "a text of ")
    return f"{name} is {details['input']!r}, expected {message}."


def flatten_toml(document: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten one level of TOML tables to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": item for inner, item in value.items()})
        else:
            flat[name] = value
    return flat


def recipe_names() -> list[str]:
    """Return the names of the recipes that textlora ships."""
    folder = resources.files("textlora") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def recipe(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a recipe's values and the reason of each, both by dotted name.

    The file's top-level ``reason`` stands for every value without one of its own.

    Raises:
        UsageError: there is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        raise UsageError(
            f"There is no recipe {name!r}.{did_you_mean(name, names)}", hint=f"Recipes: {', '.join(names)}."
        )
    text = (resources.files("textlora") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    overall = str(document.pop("reason"))
    reasons = document.pop("reasons", {})
    values = flatten_toml(document)
    return values, dict.fromkeys(values, overall) | {key: str(value) for key, value in flatten_toml(reasons).items()}
