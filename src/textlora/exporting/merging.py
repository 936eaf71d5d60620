"""The adapters in the weights: an ordinary Hugging Face classifier, and what its ``config.json`` notes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from textlora import encoder, storage
from textlora.bundles import check_base, find_base
from textlora.classifier import Classifier
from textlora.drifting import measure_drift
from textlora.encoder import EncoderSpec
from textlora.errors import UsageError
from textlora.extras import QLORA
from textlora.preparation import load_dataset
from textlora.tokenization import TextTokenizer
from textlora.types import Bundle, Drift, Run


def merge(path: Path, bundle: Bundle, tokenizer: TextTokenizer, target: Path) -> tuple[Any, Drift | None]:
    """Return the classifier in ``path`` as a Hugging Face model in fp32, and what merging changed.

    The temperature is folded into the last layer of the head, so that a softmax or sigmoid of its logits gives
    the calibrated probabilities.

    Raises:
        UsageError: ``target`` is the base model's own folder.
        ResourceError: the base model is missing or is another one than in training.
    """
    spec = EncoderSpec(find_base(bundle, path), bundle.label_names, task=bundle.task)
    check_base(spec.folder, bundle)
    if target.resolve() == spec.folder.resolve():
        raise UsageError(f"{target} is the base model itself.", hint="Choose a new or an empty folder.")
    model = encoder.merged_model(spec, path)
    drift = _drift(path, model, tokenizer, bundle) if bundle.bits else None
    if notes := _notes(bundle, drift):
        model.config.textlora = notes
    fold_temperature(model, bundle.temperature)
    return model, drift


def save(model: Any, folder: Path) -> None:
    """Write weights and ``config.json``.

    Raises:
        OSError: the folder cannot be written.
    """
    with encoder.quiet_libraries(), encoder.write_errors(folder):
        model.save_pretrained(folder)


def _notes(bundle: Bundle, drift: Drift | None) -> dict[str, Any]:
    """Return what goes into ``config.json`` for whoever applies more than the logits."""
    notes: dict[str, Any] = {}
    if bundle.temperature != 1:
        notes["temperature_folded_in"] = bundle.temperature
    if bundle.thresholds:
        notes["thresholds"] = dict(zip(bundle.label_names, bundle.thresholds, strict=True))
    if bundle.decision:
        notes["threshold"] = {bundle.decision.positive: bundle.decision.threshold}
    if bundle.abstention:
        notes["least_probability"] = bundle.abstention.least_probability
    if bundle.bits:
        notes |= {"trained_over_bits": bundle.bits, "merge_drift": drift and asdict(drift)}
    return notes


def fold_temperature(model: torch.nn.Module, temperature: float) -> None:
    """Divide the last layer of the head by the temperature, so that its softmax or sigmoid is calibrated."""
    labels = model.config.num_labels
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer.out_features == labels][
        -1
    ]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)


def _drift(path: Path, merged: torch.nn.Module, tokenizer: TextTokenizer, bundle: Bundle) -> Drift | None:
    """Measure what merging into the full-precision weights changes; what training measured, where that cannot be."""
    run = path.parent
    if QLORA.obstacle or not ((run / storage.DATASET).exists() and (run / storage.RUN).exists()):
        return bundle.drift
    dataset = load_dataset(run)
    if storage.read_noun(run / storage.RUN, Run, made_by="train").dataset_fingerprint != dataset.fingerprint:
        return bundle.drift
    full = Classifier(merged, tokenizer, replace(bundle, precision="fp32"))
    return measure_drift(Classifier.from_pretrained(path, device="cpu"), full, dataset.test, name="test")
