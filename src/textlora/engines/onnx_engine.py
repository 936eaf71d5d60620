"""Logits by ONNX Runtime, from an exported file; torch and transformers are not needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textlora import hardware
from textlora.engines.base import Engine, Ids, Logits
from textlora.errors import ResourceError, UsageError
from textlora.extras import ONNX_RUNTIME
from textlora.tokenization import TextTokenizer

CONFIG = "config.json"
MODEL = "model.onnx"
# Of a model beyond two gigabytes, the most that a protobuf file may have.
WEIGHTS = "model.onnx.data"
OUTPUT = "logits"
TOKENS_PER_MICRO_BATCH = 2_048


class OnnxEngine(Engine):
    """A session of ONNX Runtime over ``model.onnx``, on the processor.

    Args:
        folder: where the file lies.
        tokenizer: for the padding and the length of a window.

    Raises:
        ResourceError: the file is missing or damaged, or ONNX Runtime is not installed.
    """

    device = "cpu"
    usual_tokens = TOKENS_PER_MICRO_BATCH

    def __init__(self, folder: Path, tokenizer: TextTokenizer) -> None:
        self._folder = folder
        self.model = _session(folder / MODEL)
        self.max_length = tokenizer.max_length
        self._pad_id = tokenizer.pad_id
        self._inputs = [found.name for found in self.model.get_inputs()]

    def logits(self, windows: Sequence[Ids]) -> Logits:
        """Return the head's outputs (W, C) for the ids (T,) of each window, in one forward pass."""
        inputs = pad(windows, self._pad_id)
        try:
            found = self.model.run([OUTPUT], {name: inputs[name] for name in self._inputs})[0]
        except Exception as error:  # a class of ONNX Runtime's own, for every kind of failure
            if "allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return np.asarray(found, dtype=np.float64)

    @property
    def files(self) -> list[Path]:
        """Configuration and model."""
        names = (CONFIG, MODEL, WEIGHTS)
        return [file for file in map(self._folder.joinpath, names) if file.is_file()]


def pad(windows: Sequence[Ids], pad_id: int) -> dict[str, np.ndarray]:
    """Stack token ids to ``input_ids``, ``attention_mask`` and ``token_type_ids``, all (W, T), T the longest."""
    width = max(len(ids) for ids in windows)
    input_ids = np.full((len(windows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(windows), width), dtype=np.int64)
    for row, ids in enumerate(windows):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def load(folder: Path, tokenizer: TextTokenizer, *, device: str | None) -> OnnxEngine:
    """Open an ONNX export.

    Raises:
        UsageError: it shall compute elsewhere than on the processor.
        ResourceError: the file is missing or damaged, or ONNX Runtime is not installed.
    """
    if device not in (None, "cpu"):
        raise UsageError(
            f"An ONNX export computes on the processor, not on {device!r}.",
            hint="Leave the device out, or use the run folder or the export 'hf' on a GPU.",
        )
    return OnnxEngine(folder, tokenizer)


def _session(file: Path) -> Any:
    if ONNX_RUNTIME.obstacle:
        raise ResourceError(f"{file} needs ONNX Runtime: {ONNX_RUNTIME.obstacle}.", hint=ONNX_RUNTIME.command)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    # Every micro-batch has a shape of its own; plans made for one shape help no other.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Waiting threads shall sleep, and leave their cores to others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each kind of damage
        raise ResourceError(
            f"{file} cannot be loaded: {str(error).splitlines()[0]}", hint="Run `textlora export` again."
        ) from error


def threads() -> int:
    """Return how many cores to compute on: ``OMP_NUM_THREADS`` as for torch, else all that may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else hardware.usable_cores()
