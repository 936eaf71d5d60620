"""What full-precision base weights change for a classifier that was trained over quantized ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from textlora import encoder
from textlora.classifier import Classifier
from textlora.encoder import EncoderSpec
from textlora.tasks import label_matrix
from textlora.types import Drift, Split

# Enough for the drift's size; its accuracies are rough.
DRIFT_TEXTS = 500


def measure_drift(quantized: Classifier, full: Classifier, split: Split, *, name: str) -> Drift:
    """Compare the answers over quantized base weights with those over full-precision ones.

    Args:
        quantized: the classifier as trained.
        full: the same over the full-precision base weights, merged or not.
        split: rows to compare on; at most ``DRIFT_TEXTS`` of them, evenly spread.
        name: the split's name.
    """
    rows = range(0, len(split), -(-len(split) // DRIFT_TEXTS))
    texts = [split.texts[row] for row in rows]
    truth = label_matrix([split.labels[row] for row in rows], len(quantized.label_names))
    before, after = quantized.logits(texts), full.logits(texts)
    moved = np.abs(after - before)
    first, second = (quantized.decide(quantized.probabilities(logits)) for logits in (before, after))
    return Drift(
        split=name,
        texts=len(texts),
        largest=float(moved.max()),
        mean=float(moved.mean()),
        flipped=int((first != second).any(axis=1).sum()),
        accuracy=float((first == truth).all(axis=1).mean()),
        accuracy_full=float((second == truth).all(axis=1).mean()),
    )


def over_full_precision(classifier: Classifier, base: Path) -> Classifier:
    """Return the classifier's adapters and head over the base model's full-precision weights."""
    bundle = classifier.bundle
    spec = EncoderSpec(base, bundle.label_names, bundle.precision, bundle.attention, task=bundle.task)
    with tempfile.TemporaryDirectory() as scratch:
        encoder.save_adapter(classifier.model, Path(scratch), base_model=bundle.base_model)
        model = encoder.load_for_prediction(spec, Path(scratch))
    return Classifier(model.to(classifier.model.device).eval(), classifier.tokenizer, bundle)
