"""The engine: forward and backward over tokens laid end to end, without padding.

A micro-batch is one row of tokens after the other, (N,), and the texts' lengths. Linear layers,
norms and activations do not care where a text ends; attention does its work within each text; the
last block computes the first token of each text alone, or the masked ones. What comes out equals Hugging Face's own
forward but for rounding, and the weights stay where Hugging Face and PEFT keep them.

    layout: where texts lie -> quantized -> linear, attention -> blocks -> architectures -> forward -> loading
"""

from __future__ import annotations

from textlora.packed.architectures import ARCHITECTURES
from textlora.packed.attention import attend
from textlora.packed.forward import PackedForward, install, install_masked, pack, pack_states, supports
from textlora.packed.layout import Layout

__all__ = [
    "ARCHITECTURES",
    "Layout",
    "PackedForward",
    "attend",
    "install",
    "install_masked",
    "pack",
    "pack_states",
    "supports",
]
