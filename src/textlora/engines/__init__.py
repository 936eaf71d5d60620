"""What computes a classifier's logits: the model in torch, or a file in ONNX Runtime.

base           what an engine promises
torch_engine   adapters over a base model, or a merged folder of Hugging Face
onnx_engine    an exported file in ONNX Runtime; loads no torch
"""

from __future__ import annotations

from pathlib import Path

from textlora.engines.base import Engine
from textlora.tokenization import TextTokenizer
from textlora.types import Bundle

__all__ = ["Engine", "load", "wrap"]


def load(folder: Path, bundle: Bundle, tokenizer: TextTokenizer, *, device: str | None) -> Engine:
    """Open the weights of a bundle.

    Args:
        folder: where they lie.
        bundle: what else is known of them.
        tokenizer: the bundle's.
        device: ``cpu``, ``cuda`` or ``mps``; by default the fastest there is.

    Raises:
        UsageError: the device does not go with the format.
        ResourceError: weights or base model are missing, damaged or others than in training.
    """
    if bundle.format.startswith("onnx"):
        from textlora.engines import onnx_engine

        return onnx_engine.load(folder, tokenizer, device=device)
    from textlora.engines import torch_engine

    if bundle.format == "hf":
        return torch_engine.load_merged(folder, bundle, tokenizer, device=device)
    return torch_engine.load(folder, bundle, tokenizer, device=device)


def wrap(model: object, bundle: Bundle, tokenizer: TextTokenizer) -> Engine:
    """Return an engine as it is, and a torch module in one."""
    if isinstance(model, Engine):
        return model
    from textlora.engines.torch_engine import TorchEngine

    return TorchEngine(model, bundle, tokenizer)
