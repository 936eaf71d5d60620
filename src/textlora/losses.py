"""The training loss: cross-entropy or binary cross-entropy, with class weights, label smoothing or focus.

A loss is a sum over a step's samples divided by a weight of the step:

    loss = sum_i terms_i / sum_i weights_i

Both sums run over all samples of an optimiser step, whatever the micro-batches that compute them.
PyTorch's ``reduction="mean"`` divides by the weights of the micro-batch instead: with class weights
the gradient would then depend on how the step was cut.

Letters in shapes: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from textlora.settings import LossSettings
from textlora.tasks import TASKS
from textlora.types import Label, Task


@dataclass(frozen=True)
class Loss:
    """A loss that can be summed up in parts.

    Attributes:
        task: ``single_label``: softmax over the classes; ``multi_label``: one sigmoid a class.
        class_weights: (C,) weight of each class; in multi-label data of its positive rows
            (PyTorch's ``pos_weight``). ``None`` is 1 for all.
        label_smoothing: share of the target that is spread evenly: over the classes (Szegedy et al.
            2016, arXiv 1512.00567), or over yes and no in multi-label data.
        focal_gamma: exponent of the focal loss, (1 - p)^gamma times the loss, where p is the probability
            of the truth (Lin et al. 2017, arXiv 1708.02002); ``None`` or 0 is none.
    """

    task: Task = "single_label"
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    focal_gamma: float | None = None

    def terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each sample's part of the sum (B,) for logits (B, C) in fp32.

        Args:
            logits: (B, C).
            labels: what ``targets`` made, (B,) or (B, C).
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        return TERMS[TASKS[self.task].loss](self, logits, labels, weights)

    def weights(self, labels: Tensor) -> Tensor:
        """Return each sample's part of the divisor (B,).

        The weight of its class, as in PyTorch's ``CrossEntropyLoss``; in multi-label data the number of
        classes, as in ``BCEWithLogitsLoss``.
        """
        if self.task == "multi_label":
            return torch.full((len(labels),), float(labels.shape[1]), device=labels.device)
        if self.class_weights is None:
            return torch.ones(len(labels), device=labels.device)
        return self.class_weights.to(labels.device)[labels]

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of samples that are a whole step."""
        return self.terms(logits, labels).sum() / self.weights(labels).sum()

    @property
    def plain(self) -> Loss:
        """The loss without weights, smoothing and focus: what a validation reports, to compare runs by."""
        return replace(self, class_weights=None, label_smoothing=0.0, focal_gamma=None)


def targets(labels: Sequence[Label], task: Task, classes: int) -> Tensor:
    """Return the labels as a loss takes them: indices (B,), or zeros and ones (B, C) in multi-label data."""
    if task == "single_label":
        return torch.tensor(labels, dtype=torch.long)
    rows = torch.zeros(len(labels), classes)
    for row, label in zip(rows, labels, strict=True):
        row[list(label)] = 1.0  # type: ignore[arg-type]
    return rows


def make_loss(settings: LossSettings, task: Task, label_names: Sequence[str]) -> Loss:
    """Return the loss that a resolved plan asks for."""
    given = settings.class_weights
    weights = None
    if isinstance(given, Mapping):
        weights = torch.tensor([float(given.get(name, 1.0)) for name in label_names])
    focal = settings.focal_gamma if settings.name == "focal" else None
    return Loss(task, weights, settings.label_smoothing, focal)


def _cross_entropy(loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    terms = functional.cross_entropy(
        logits, labels, weight=weights, label_smoothing=loss.label_smoothing, reduction="none"
    )
    if not loss.focal_gamma:
        return terms
    truth = functional.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    return _away_from_one(truth) ** loss.focal_gamma * terms


def _binary_cross_entropy(loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    smoothed = labels * (1 - loss.label_smoothing) + loss.label_smoothing / 2
    terms = functional.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights, reduction="none")
    if loss.focal_gamma:
        truth = functional.logsigmoid(torch.where(labels > 0, logits, -logits))
        terms = _away_from_one(truth) ** loss.focal_gamma * terms
    return terms.sum(dim=1)


def _away_from_one(log_probability: Tensor) -> Tensor:
    """Return 1 - p, never 0: below 1 the slope of its power would be infinite there."""
    return (-torch.expm1(log_probability)).clamp(min=torch.finfo(log_probability.dtype).tiny)


TERMS = {"cross_entropy": _cross_entropy, "binary_cross_entropy": _binary_cross_entropy}
