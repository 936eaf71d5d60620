"""Classes of different size: weights worked out from the training split, and what does not fit the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textlora.errors import did_you_mean
from textlora.planning.grounds import USER, Choice, Choices, Grounds

DIGITS = 4


def resolve_loss(chosen: Choices, grounds: Grounds) -> None:
    """Replace ``class_weights=auto`` by numbers, and let multi-label checkpoints be chosen by F1."""
    weights, metric = chosen["loss.class_weights"], chosen["training.best_metric"]
    if weights.value == "auto":
        table, formula = automatic_weights(grounds)
        chosen["loss.class_weights"] = Choice(table, f"{weights.reason}: {formula}", weights.source)
    if grounds.task == "multi_label" and metric.value == "accuracy" and metric.source not in USER:
        reason = "accuracy counts only rows with all labels right, which says little of each label"
        chosen["training.best_metric"] = Choice("f1_macro", reason, "decided")


def automatic_weights(grounds: Grounds) -> tuple[dict[str, float], str]:
    """Return a weight for each label from the training rows, and the formula in words.

    Inverse frequency, as scikit-learn's ``class_weight="balanced"``: rows / (classes x rows of the
    class), whose mean over the rows is 1. In multi-label data rows without the label over rows with it.
    """
    rows = grounds.rows["train"]
    counts = [max(1, count) for count in grounds.class_counts]
    if grounds.task == "multi_label":
        # A label that all rows have keeps its say.
        values = [max(1, rows - count) / count for count in counts]
        formula = "training rows without the label / rows with it"
    else:
        values = [rows / (len(counts) * count) for count in counts]
        formula = "training rows / (classes × rows of the class)"
    return {name: round(value, DIGITS) for name, value in zip(grounds.label_names, values, strict=True)}, formula


def loss_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    """Return what contradicts itself or the data in the ``loss`` section."""
    return [
        *_weight_problems(chosen["loss.class_weights"], grounds.label_names),
        *_focal_problems(chosen),
        *_sampling_problems(chosen, grounds),
    ]


def _weight_problems(weights: Choice, names: Sequence[str]) -> list[str]:
    if weights.value == "auto":
        return [
            f"loss.class_weights is {weights.told}, which training cannot resolve; `textlora plan` makes numbers of it."
        ]
    if not isinstance(weights.value, Mapping):
        return []
    return [
        f"loss.class_weights names {name!r} ({weights.reason}), which is no label.{did_you_mean(name, names)} Labels: {', '.join(names)}."
        for name in weights.value
        if name not in names
    ]


def _focal_problems(chosen: Choices) -> list[str]:
    name, gamma, smoothing = (chosen[f"loss.{key}"] for key in ("name", "focal_gamma", "label_smoothing"))
    if name.value == "focal" and smoothing.value:
        return [
            f"loss.label_smoothing is {smoothing.told} and loss.name focal: the one pulls sure answers back, the other "
            "ignores them; choose one of the two."
        ]
    if name.value != "focal" and gamma.source in USER and gamma.value != 2.0:  # noqa: PLR2004 - the default, which an old plan file repeats
        return [f"loss.focal_gamma is {gamma.told}, but loss.name is {name.value}; add loss.name=focal."]
    return []


def _sampling_problems(chosen: Choices, grounds: Grounds) -> list[str]:
    sampling, weights = chosen["loss.sampling"], chosen["loss.class_weights"]
    if sampling.value != "balanced":
        return []
    if grounds.task == "multi_label":
        return [
            f"loss.sampling is {sampling.told}, but rows have several labels, which cannot all be drawn equally often; "
            "use loss.class_weights=auto."
        ]
    if isinstance(weights.value, Mapping):
        return [
            f"loss.sampling is {sampling.told} and loss.class_weights are given: rare classes would count twice; choose one of the two."
        ]
    return []
