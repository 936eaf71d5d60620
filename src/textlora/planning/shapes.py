"""Parameters and their bytes, from a base model's shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textlora.models import BaseInfo
from textlora.planning.grounds import Grounds
from textlora.settings import Settings

BYTES = {"fp32": 4, "fp32_onednn": 4, "bf16": 2, "fp16": 2}
# Bytes per quantized weight. NF4: half a byte, a byte of scale for 64 weights, fp32 for 256 scales. 8 bits: a
# scale for each output comes to nothing.
QUANTIZED_BYTES = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
# The pooler of these is part of the pretrained encoder; only the last layer of the head is new.
POOLED = ("bert", "albert")
# Linear layers that widen to the inner width, and back; the others are square.
WIDENING = ("lin1", "ffn", "fc1")
NARROWING = ("lin2", "ffn_output", "fc2")
# Query, key and value in one layer.
FUSED = ("Wqkv", "in_proj")


def weights_gb(info: BaseInfo, *, value_bytes: int, bits: int | None = None) -> float:
    """Return the GB of the frozen weights as they are kept while training.

    Quantized are the linear layers of the blocks; embeddings, norms and biases never are.

    Args:
        info: shapes of the base model.
        value_bytes: bytes of a value that is not quantized.
        bits: of the linear layers' weights; None for the same as all others.
    """
    linears = linear_parameters(info) if bits else 0
    quantized = linears * QUANTIZED_BYTES[bits] if bits else 0.0
    return (quantized + (info.parameters - linears) * value_bytes) / 1e9


def linear_parameters(info: BaseInfo) -> int:
    """Return the weights of the linear layers in all blocks; ALBERT's layers share one set."""
    layers = 1 if info.model_type == "albert" else info.layers
    return layers * sum(inner * outer for inner, outer in linear_shapes(info))


def trainable_parameters(chosen: Settings, grounds: Grounds) -> int:
    """Return the parameters of adapters and head: exact for architectures that are tested, nearly so for others."""
    info, hidden, classes = grounds.info, grounds.info.hidden, grounds.classes
    # ALBERT's layers share one set of weights.
    layers = 1 if info.model_type == "albert" else chosen.lora.top_layers or info.layers
    targets = chosen.lora.target_modules or info.linear_names
    pairs = sum(inner + outer for inner, outer in linear_shapes(info, targets)) * layers
    if info.model_type == "bert" and "dense" in targets:
        pairs += 2 * hidden  # the pretrained pooler's layer has that name too
    return chosen.lora.r * pairs + _head_parameters(info.model_type, hidden, classes)


def _head_parameters(model_type: str, hidden: int, classes: int) -> int:
    classifier = hidden * classes + classes
    return classifier if model_type in POOLED else hidden * hidden + hidden + classifier


def linear_shapes(info: BaseInfo, names: Iterable[str] | None = None) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the linear layers called ``names`` in one block; all by default.

    A name may stand for several layers, as BERT's ``dense``. Unknown names count as hidden by
    hidden.
    """
    hidden, inner = info.hidden, info.intermediate
    square, up, down = (hidden, hidden), (hidden, inner), (inner, hidden)
    shapes = {name: [up] for name in WIDENING} | {name: [down] for name in NARROWING}
    shapes |= {name: [(hidden, 3 * hidden)] for name in FUSED}
    shapes["dense"] = _dense(info.linear_names, square, up, down)
    if info.model_type == "modernbert":
        shapes |= {"Wo": [square, down], "Wi": [(hidden, 2 * inner)]}
    wanted = info.linear_names if names is None else names
    return [shape for name in wanted for shape in shapes.get(name, [square])]


def _dense(
    names: Sequence[str], square: tuple[int, int], up: tuple[int, int], down: tuple[int, int]
) -> list[tuple[int, int]]:
    if "ffn" in names:
        return [square]
    return [up, down] if "o" in names else [square, up, down]
