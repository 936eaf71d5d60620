"""Frozen linear layers kept in 4 or 8 bits, and products with them.

bitsandbytes makes the codes and turns them back into numbers; the layer around them is ours. On a
CPU its own layers compute otherwise in prediction than in training: on processors with AVX512-BF16
``Linear4bit`` repacks its weights in place and rounds inputs and scales to bf16, and
``Linear8bitLt`` rounds the inputs to 8 bits, in a way that depends on the other rows of the batch
(``docs/log.md``). Here a product is that of the dequantized weights, always, so that a saved
classifier answers as the trained one did, whichever way it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import linear

# As published for QLoRA (Dettmers et al. 2023, arXiv 2305.14314): NF4 codes for 64 weights share a
# scale, and the scales are quantized to 8 bits, 256 of them together.
BLOCK = 64
SCALES_BLOCK = 256
BITS = (4, 8)


class Frozen(Protocol):
    """Frozen weights that are not kept as numbers."""

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights (out, in)."""
        ...


class QuantizedLinear(nn.Linear):
    """A frozen linear layer with weights in 4 bits (NF4, double quantization) or 8 bits.

    8 bits are LLM.int8's codes (Dettmers et al. 2022, arXiv 2208.07339): one scale per output.
    The inputs are not quantized.

    Args:
        weight: (out, in), on any device; the codes are made where it lies.
        bias: (out,) or None; kept as it is.
        bits: 4 or 8.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, bits: int) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.bits = bits
        codes, scales = (_to_nf4 if bits == 4 else _to_int8)(weight.detach().float())  # noqa: PLR2004
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._scale_names = tuple(scales)
        for name, value in scales.items():
            self.register_buffer(name, value)

    @property
    def scales(self) -> dict[str, torch.Tensor]:
        """What turns codes into numbers."""
        return {name: self.get_buffer(name) for name in self._scale_names}

    @property
    def quantized_bytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(value.nbytes for value in (self.weight, *self.scales.values()))

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights (out, in) as numbers."""
        if self.bits == 4:  # noqa: PLR2004
            return _from_nf4(self.weight, self.scales, (self.out_features, self.in_features), dtype)
        return _from_int8(self.weight, self.scales, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + b of (…, out) for x of (…, in)."""
        return product(x, self, self.bias)

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        return f"{super().extra_repr()}, bits={self.bits}"


class SideBySide:
    """Several frozen layers over the same input, read as one."""

    def __init__(self, layers: Sequence[QuantizedLinear]) -> None:
        self._layers = layers

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the layers' weights over each other, (out, in)."""
        return torch.cat([layer.dequantized(dtype) for layer in self._layers])


def quantize(model: nn.Module, bits: int, *, inside: Callable[[str], Any]) -> None:
    """Replace the linear layers of a model by quantized ones, one after the other.

    Args:
        model: a classifier in fp32.
        bits: 4 or 8.
        inside: whether a module's path belongs to what is trained and so stays as it is.
    """
    layers = [path for path, module in model.named_modules() if type(module) is nn.Linear and not inside(path)]
    for path in layers:
        layer = model.get_submodule(path)
        model.set_submodule(path, QuantizedLinear(layer.weight, layer.bias, bits=bits))


def frozen_weight(layer: Any) -> torch.Tensor | Frozen:
    """Return a frozen layer's weights: the numbers, or the layer itself where these are codes."""
    return layer if isinstance(layer, QuantizedLinear) else layer.weight


def read(weight: torch.Tensor | Frozen, dtype: torch.dtype) -> torch.Tensor:
    """Return weights as numbers, whichever they are."""
    return weight if isinstance(weight, torch.Tensor) else weight.dequantized(dtype)


def product(x: torch.Tensor, weight: torch.Tensor | Frozen, bias: torch.Tensor | None) -> torch.Tensor:
    """Return W x + b of (…, out) for x of (…, in); no gradient is computed for W and b."""
    if isinstance(weight, torch.Tensor):
        return linear(x, weight, bias)
    y: torch.Tensor = _Product.apply(x, weight, bias)
    return y


class _Product(torch.autograd.Function):
    """W x + b; the weights are read again for the backward pass instead of being kept as numbers."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Frozen, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return linear(x, weight.dequantized(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        return grad @ ctx.weight.dequantized(grad.dtype), None, None


Scales = dict[str, torch.Tensor]


def _to_nf4(weight: torch.Tensor) -> tuple[torch.Tensor, Scales]:
    """Return codes (out · in / 2, 1), two in a byte, and their scales, quantized themselves."""
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    return codes, {
        "absmax": state.absmax,
        "offset": state.offset,
        "code": state.code,
        "nested_absmax": state.state2.absmax,
        "nested_code": state.state2.code,
    }


def _from_nf4(codes: torch.Tensor, scales: Scales, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    nested = QuantState(
        scales["nested_absmax"], code=scales["nested_code"], blocksize=SCALES_BLOCK, dtype=torch.float32
    )
    state = QuantState(
        scales["absmax"],
        shape=torch.Size(shape),
        code=scales["code"],
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=scales["offset"],
        state2=nested,
    )
    return dequantize_4bit(codes, state)


def _to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, Scales]:
    """Return codes (out, in) and the largest absolute weight (out,) of each output."""
    from bitsandbytes.functional import int8_vectorwise_quant

    # bitsandbytes' kernels take fp16 only; a weight has few more digits after the codes anyway.
    codes, absmax, _ = int8_vectorwise_quant(weight.half())
    return codes, {"absmax": absmax}


def _from_int8(codes: torch.Tensor, scales: Scales, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    return int8_vectorwise_dequant(codes, scales["absmax"]).to(dtype)
