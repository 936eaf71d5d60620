"""A Hugging Face classifier as ``model.onnx``, in fp32 or in 8 bits, by the exporters of transformers."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from textlora import hardware
from textlora.engines.onnx_engine import MODEL, OUTPUT, WEIGHTS
from textlora.errors import ResourceError
from textlora.exporting import first_token
from textlora.extras import ONNX, ONNX_RUNTIME, ONNX_SCRIPT

# Texts and tokens that the exporter traces the model with; both stay free afterwards.
TRACED = (2, 16)
# One protobuf file holds two gigabytes; beyond, the weights lie beside it.
MOST_BYTES = 1_900_000_000
# Of products of two 8-bit numbers two are added in 16 bits where none of these is there, and that overflows.
WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def check_packages() -> None:
    """Raise unless the packages that write ONNX are there.

    Raises:
        ResourceError: one is missing or too old; names the command that installs it.
    """
    obstacles = [extra.obstacle for extra in (ONNX, ONNX_SCRIPT, ONNX_RUNTIME) if extra.obstacle]
    if obstacles:
        raise ResourceError("An ONNX export needs packages:", problems=obstacles, hint=ONNX.command)


def write(model: Any, folder: Path, *, int8: bool) -> None:
    """Write ``model.onnx`` and ``config.json``.

    The file takes ``input_ids`` and ``attention_mask``, both (B, T) int64 with any B and T, and gives
    ``logits`` (B, C).

    Args:
        model: a Hugging Face classifier in fp32; its last layer is shortened, so it cannot be used afterwards.
        folder: an existing folder.
        int8: quantize the linear layers: weights to 8 bits with a scale for each output, inputs as they come.

    Raises:
        OSError: the folder cannot be written.
    """
    program = _program(model, int8=int8)
    for value, name in zip(program.graph.outputs, (OUTPUT,), strict=True):
        value.name = name
    _save(program, folder)
    model.config.save_pretrained(folder)


def _program(model: Any, *, int8: bool) -> Any:
    from transformers.exporters import OnnxConfig, OnnxExporter

    first_token.shorten(model)
    ids = torch.ones(TRACED, dtype=torch.long)
    config = OnnxConfig(dynamic=True, quantizer=_quantizer() if int8 else None)
    with _silence():
        exported = OnnxExporter().export(model.eval(), {"input_ids": ids, "attention_mask": ids.clone()}, config=config)
    return exported.program


def _quantizer() -> Any:
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    narrow = not WIDE_SUMS & set(hardware.processor_features())
    return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True, reduce_range=narrow))


def _save(program: Any, folder: Path) -> None:
    import onnx_ir

    size = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    onnx_ir.save(program, folder / MODEL, external_data=WEIGHTS if size > MOST_BYTES else None)


@contextmanager
def _silence() -> Iterator[None]:
    """Swallow what the exporters of transformers and torch print about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
