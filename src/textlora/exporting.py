"""``export``: the trained classifier in other tools' formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from textlora import encoder, models, storage
from textlora.bundles import BUNDLE, check_base, find_base, find_bundle
from textlora.classifier import Classifier
from textlora.drifting import measure_drift
from textlora.encoder import EncoderSpec
from textlora.errors import TrainingError, UsageError, did_you_mean
from textlora.extras import QLORA
from textlora.preparation import load_dataset
from textlora.tokenization import TextTokenizer
from textlora.types import Bundle, Drift, Run
from textlora.windows import LengthPolicy, split_all

FORMATS = ("hf",)
# fp32 rounding of W + B A against W x + B (A x).
TOLERANCE = 1e-3
PROBE = ("A quiet, moving film.", "Two hours I will not get back, though the music was fine.", "no " * 400)


@dataclass(frozen=True, slots=True)
class Exported:
    """A written export.

    Attributes:
        folder: where it lies.
        format: one of ``FORMATS``.
        difference: largest difference of logits between the export and the adapter, both fp32.
        drift: what merging into full-precision weights changed, where training had quantized ones.
    """

    folder: Path
    format: str
    difference: float
    drift: Drift | None = None


def export(folder: Path, *, to: str = "hf", out: Path | None = None) -> Exported:
    """Merge the adapters into the base model and write an ordinary Hugging Face folder.

    The folder loads in ``pipeline("text-classification", folder)`` without PEFT or textlora.
    Pass ``truncation=True`` to the pipeline: it keeps the head of long texts, whatever policy the
    classifier was trained with.

    Adapters that were trained over quantized weights are merged into the full-precision ones. The
    answers move a little; how far is measured on the run's test texts and written into
    ``config.json`` too. So are the thresholds of a multi-label classifier, which no other tool applies by itself.
    The temperature is folded into the last layer of the head, so that probabilities are the calibrated ones.

    Args:
        folder: a run folder or a bundle.
        to: the format.
        out: target folder; ``export/hf`` in the run folder by default.

    Raises:
        UsageError: unknown format, no classifier in ``folder``, or ``out`` holds other files.
        ResourceError: the base model is missing or is another one than in training.
        TrainingError: the merged model's logits differ from the adapter's.
    """
    if to not in FORMATS:
        raise UsageError(
            f"There is no export format {to!r}.{did_you_mean(to, FORMATS)}", hint=f"Formats: {', '.join(FORMATS)}."
        )
    path = find_bundle(folder)
    target = out or folder / storage.EXPORT / to
    _check_target(target)
    bundle = storage.read_noun(path / BUNDLE, Bundle, made_by="train")
    spec = EncoderSpec(find_base(bundle, path), bundle.label_names, task=bundle.task)
    check_base(spec.folder, bundle)
    if target.resolve() == spec.folder.resolve():
        raise UsageError(f"{target} is the base model itself.", hint="Choose a new or an empty folder.")
    tokenizer = TextTokenizer.load(path, LengthPolicy.of_bundle(bundle), base_model=bundle.base_model)
    reference = _logits(encoder.load_adapter(spec, path), tokenizer)
    merged = encoder.merged_model(spec, path)
    drift, notes = _drift_and_notes(path, merged, tokenizer, bundle)
    _fold_temperature(merged, bundle.temperature)
    difference = float((reference / bundle.temperature - _logits(merged, tokenizer)).abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"The merged model differs from the adapter: logits by {difference:.2g}, allowed {TOLERANCE:g}."
        )
    if notes:
        merged.config.textlora = notes
    storage.make_folder(target.parent)
    with storage.atomic_folder(target) as temporary:
        with encoder.quiet_libraries(), encoder.write_errors(temporary):
            merged.save_pretrained(temporary)
        tokenizer.tokenizer.model_max_length = bundle.max_length
        tokenizer.save(temporary)
    return Exported(target, to, difference, drift)


def _drift_and_notes(
    path: Path, merged: torch.nn.Module, tokenizer: TextTokenizer, bundle: Bundle
) -> tuple[Drift | None, dict[str, Any]]:
    """Return what merging changed, and what goes into ``config.json`` for whoever applies more than the logits."""
    drift: Drift | None = None
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
        drift = _drift(path, Classifier(merged, tokenizer, replace(bundle, precision="fp32")))
        notes |= {"trained_over_bits": bundle.bits, "merge_drift": drift and asdict(drift)}
    return drift, notes


def _fold_temperature(model: torch.nn.Module, temperature: float) -> None:
    """Divide the last layer of the head by the temperature, so that its softmax or sigmoid is calibrated."""
    labels = model.config.num_labels
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer.out_features == labels][
        -1
    ]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)


def _drift(path: Path, merged: Classifier) -> Drift | None:
    """Measure what merging into the full-precision weights changes; what training measured, where that cannot be.

    Args:
        path: the bundle.
        merged: the merged model.
    """
    run = path.parent
    if QLORA.obstacle or not ((run / storage.DATASET).exists() and (run / storage.RUN).exists()):
        return merged.bundle.drift
    dataset = load_dataset(run)
    if storage.read_noun(run / storage.RUN, Run, made_by="train").dataset_fingerprint != dataset.fingerprint:
        return merged.bundle.drift
    return measure_drift(Classifier.from_pretrained(path, device="cpu"), merged, dataset.test, name="test")


def _check_target(target: Path) -> None:
    """Let only a new or empty folder or an older export be replaced, nothing else of the user's."""
    found = sorted(storage.make_folder(target).iterdir()) if target.exists() else []
    foreign = [file.name for file in found if not any(fnmatch(file.name, pattern) for pattern in models.FILES)]
    if foreign:
        raise UsageError(
            f"{target} holds {foreign[0]}, which an export would replace.", hint="Choose a new or an empty folder."
        )


def _logits(model: torch.nn.Module, tokenizer: TextTokenizer) -> torch.Tensor:
    pieces, _ = split_all(tokenizer.encode(PROBE).ids, tokenizer.max_length)
    inputs = encoder.pad(pieces, tokenizer.pad_id, limit=tokenizer.max_length)
    with torch.inference_mode():
        return model.eval()(**inputs).logits
