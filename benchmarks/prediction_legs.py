"""The ways to predict that ``benchmarks.predict`` compares: from texts to probabilities, tokenizing included."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks.reviews import MAX_LENGTH
from benchmarks.training_legs import Tuning, sorted_passes
from textlora import Classifier, encoder
from textlora.tasks import softmax

ONNX_INSTALL = "pip install onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2"
# Texts and tokens that the exporter traces the model with; both stay free afterwards.
TRACED = (2, 16)


class PredictionLeg(Protocol):
    """Anything that gives probabilities (N, C) for texts."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, C), columns in the order of the label indices."""
        ...


class PipelineLeg:
    """``pipeline("text-classification")`` on the merged folder, called as its documentation shows."""

    def __init__(self, folder: Path) -> None:
        with encoder.quiet_libraries():
            self.pipe = pipeline("text-classification", model=str(folder), tokenizer=str(folder), device="cpu")
        self.order = self.pipe.model.config.label2id

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, C), columns in the order of the label indices."""
        answers = self.pipe(list(texts), truncation=True, max_length=MAX_LENGTH, top_k=None)
        rows = np.zeros((len(texts), len(self.order)))
        for row, answer in zip(rows, answers, strict=True):
            for entry in answer:
                row[self.order[entry["label"]]] = entry["score"]
        return rows


class _Sorted:
    """Tokenizes all texts, predicts them in passes of like length, and puts the answers back in order."""

    tuning = Tuning()

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, C), columns in the order of the label indices."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        passes = sorted_passes([len(text) for text in ids], self.tuning.tokens)
        parts = [self._logits(self._padded([ids[row] for row in rows])) for rows in passes]
        answers = np.concatenate(parts).astype(np.float64)
        return softmax(answers)[np.argsort(np.concatenate(passes))]

    def _padded(self, ids: list[list[int]]) -> Any:
        return self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", pad_to_multiple_of=self.tuning.multiple)

    def _logits(self, inputs: Any) -> np.ndarray:
        raise NotImplementedError


class TunedPredictionLeg(_Sorted):
    """Plain Hugging Face as fast as it gets: ``precision``, sorted by length, hardly any padding."""

    def __init__(self, folder: Path, precision: str) -> None:
        super().__init__(folder)
        self.precision = precision
        with encoder.quiet_libraries():
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=encoder.DTYPES[precision])
        self.model = model.eval()

    def use(self, tuning: Tuning) -> None:
        """Predict with another kernel or other passes from now on."""
        self.tuning = tuning
        self.model.set_attn_implementation(tuning.kernel)

    def _logits(self, inputs: Any) -> np.ndarray:
        with torch.inference_mode(), encoder.arithmetic(self.precision):
            return self.model(**inputs).logits.float().numpy()


class OnnxLeg(_Sorted):
    """ONNX Runtime in int8: weights by channel, activations as they come, all cores.

    Raises:
        ImportError: a package of ONNX is not installed.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        import onnxruntime

        super().__init__(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        path = export_int8(folder, scratch)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [found.name for found in self.session.get_inputs()]

    def use(self, tuning: Tuning) -> None:
        """Predict with other passes from now on; the kernel has no meaning here."""
        self.tuning = tuning

    def _logits(self, inputs: Any) -> np.ndarray:
        found: np.ndarray = self.session.run(["logits"], {name: inputs[name].numpy() for name in self.names})[0]
        return found


def export_int8(folder: Path, scratch: Path) -> Path:
    """Write a merged folder as an int8 ONNX file with free batch and length; return the file."""
    import onnxruntime  # noqa: F401 - the exporter would say less clearly that it is missing
    import onnxscript  # noqa: F401
    from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    with encoder.quiet_libraries():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.ones(TRACED, dtype=torch.long)
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    config = OnnxConfig(dynamic=True, quantizer=quantizer)
    with _silence():
        exported = OnnxExporter().export(model, {"input_ids": ids, "attention_mask": ids.clone()}, config=config)
        exported.save_pretrained(scratch)
    return next(scratch.glob("*.onnx"))


@contextmanager
def _silence() -> Iterator[None]:
    """Swallow what the exporters of transformers and torch print about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class OurPredictionLeg:
    """``Classifier.predict_proba``."""

    def __init__(self, folder: Path) -> None:
        self.classifier = Classifier.from_pretrained(folder, device="cpu")

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, C), columns in the order of the label indices."""
        return self.classifier.predict_proba(texts)
