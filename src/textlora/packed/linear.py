"""Linear layers with LoRA adapters or without, several of them side by side as one product."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from textlora.packed.quantized import Frozen, QuantizedLinear, SideBySide, frozen_weight, product, read

# Micro-batches may be predicted side by side, and the weights are laid together at first use.
_FUSING = threading.Lock()


class PackedLinear:
    """One or several linear layers over the same input, their outputs side by side.

    Several frozen weights (and biases) are laid into one block of memory, of which the layers' own become
    views; so nothing is kept twice, and what is written into a layer arrives here too. Weights that are trained
    themselves are laid together for each pass instead, so that each layer gets its gradient.

    Args:
        layers: ``nn.Linear`` modules, or PEFT's LoRA layers around them.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return W x + b + (alpha / r) B A x + residual, the layers' outputs side by side.

        Args:
            x: (N, in).
            residual: (N, out), or None for nothing.
        """
        weight, bias = self.weights()
        adapters = [adapter(layer) for layer in self.layers]
        if not any(adapters):
            return _plus(product(x, weight, bias), residual)
        dropout = next(found[2] for found in adapters if found)
        if dropout.p and dropout.training:
            return _plus(product(x, weight, bias) + self._dropped(x, adapters), residual)
        down, up = self._block(adapters, x.dtype)
        adapted: torch.Tensor = _AdaptedLinear.apply(x, residual, weight, bias, down, up)
        return adapted

    def weights(self) -> tuple[torch.Tensor | Frozen, torch.Tensor | None]:
        """Return the weights (out, in) and biases (out,) of all layers, without adapters."""
        bases = [base_layer(layer) for layer in self.layers]
        if len(bases) == 1:
            return frozen_weight(bases[0]), bases[0].bias
        if bases[0].weight.requires_grad:
            return torch.cat([base.weight for base in bases]), torch.cat([base.bias for base in bases])
        if isinstance(bases[0], QuantizedLinear):
            return SideBySide(bases), torch.cat([base.bias for base in bases])
        # A move to another device or precision has given the layers memory of their own again.
        with _FUSING:
            if self._weight is None or self._weight.data_ptr() != bases[0].weight.data_ptr():
                self._weight = _fuse([base.weight for base in bases])
                self._bias = _fuse([base.bias for base in bases])
            return self._weight, self._bias

    def _block(self, adapters: Sequence[Any], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all A over each other (R, in), and all scaled B as blocks of one matrix (out, R)."""
        down = torch.cat([found[0] for found in adapters if found])
        blocks = [
            found[1] if found else down.new_zeros(base_layer(layer).out_features, 0)
            for layer, found in zip(self.layers, adapters, strict=True)
        ]
        up = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
        return down.to(dtype), up.to(dtype)

    def _dropped(self, x: torch.Tensor, adapters: Sequence[Any]) -> torch.Tensor:
        """Return the adapters' part of the output when inputs are dropped before them."""
        parts = []
        for layer, found in zip(self.layers, adapters, strict=True):
            if found:
                down, up, dropout = found
                parts.append(linear(linear(dropout(x), down.to(x.dtype)), up.to(x.dtype)))
            else:
                parts.append(x.new_zeros(len(x), base_layer(layer).out_features))
        return torch.cat(parts, dim=-1)


def base_layer(layer: Any) -> Any:
    """Return the frozen linear layer, without PEFT's wrapper."""
    return getattr(layer, "base_layer", layer)


def adapter(layer: Any) -> tuple[torch.Tensor, torch.Tensor, Any] | None:
    """Return A (r, in), scaled B (out, r) and dropout of the active adapter, or None.

    Raises:
        NotImplementedError: more than one adapter is active.
    """
    if not hasattr(layer, "lora_A") or layer.disable_adapters or layer.merged:
        return None
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if not active:
        return None
    if len(active) > 1:
        raise NotImplementedError(f"packed layers take one adapter, and {len(active)} are active")
    name = active[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name], Dropout.of(layer, name)


class Dropout:
    """PEFT's dropout before an adapter: ``nn.Dropout``, or ``nn.Identity`` for none."""

    def __init__(self, p: float, training: bool) -> None:
        self.p = p
        self.training = training

    @classmethod
    def of(cls, layer: Any, name: str) -> Dropout:
        """Return the dropout of a LoRA layer's adapter."""
        module = layer.lora_dropout[name]
        return cls(getattr(module, "p", 0.0), module.training)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Drop elements of ``x``."""
        return nn.functional.dropout(x, self.p, self.training)


def _fuse(weights: Sequence[nn.Parameter]) -> torch.Tensor:
    # A prediction may come first; what is made in inference mode could not be trained over later.
    with torch.inference_mode(mode=False):
        if _adjacent(weights):  # laid together by another classifier over the same base
            return weights[0].detach().as_strided((sum(map(len, weights)), *weights[0].shape[1:]), weights[0].stride())
        fused = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, fused.split([len(weight) for weight in weights]), strict=True):
        weight.data = part
    return fused


def _adjacent(weights: Sequence[torch.Tensor]) -> bool:
    """Return whether the weights lie one behind the other in one block of memory."""
    places = [(each.untyped_storage().data_ptr(), each.storage_offset()) for each in weights]
    ends = [(block, start + each.numel()) for (block, start), each in zip(places, weights, strict=True)]
    return all(each.is_contiguous() for each in weights) and places[1:] == ends[:-1]


def _plus(y: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    return y if residual is None else y + residual


class _AdaptedLinear(torch.autograd.Function):
    """y = x Wᵀ + b + (x Aᵀ) Bᵀ + residual with W and b frozen: no gradient is computed for them.

    The bias rides along with the thin product, as one more column of B against a column of ones:
    adding it to the wide product would take a pass over all outputs.
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - torch passes them on by position
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor | Frozen,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
    ) -> torch.Tensor:
        if bias is not None:
            down, up, one = _with_ones(down, up, bias)
            inner = linear(x, down, one)
        else:
            inner = linear(x, down)
        numbers = read(weight, x.dtype).t()
        y = x @ numbers if residual is None else torch.addmm(residual, x, numbers)
        y.addmm_(inner, up.t())
        ctx.save_for_backward(x, inner, down, up)
        # Frozen, so nothing can change it before the backward pass; as codes where it is quantized.
        ctx.weight = weight
        ctx.rank = down.shape[0] - (bias is not None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        x, inner, down, up = ctx.saved_tensors
        grad_inner = grad @ up
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ read(ctx.weight, grad.dtype)
            grad_x.addmm_(grad_inner, down)
        # The thin side first and contiguous: twice as fast on a CPU as the other way round.
        grad_up = (inner.t().contiguous() @ grad).t()
        grad_down = grad_inner.t().contiguous() @ x
        residual = grad if ctx.needs_input_grad[1] else None
        return grad_x, residual, None, None, grad_down[: ctx.rank], grad_up[:, : ctx.rank]


def _with_ones(
    down: torch.Tensor, up: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return A with a row of zeros, B with the bias as a column, and the one that the row adds."""
    one = down.new_zeros(len(down) + 1)
    one[-1] = 1
    return torch.cat([down, down.new_zeros(1, down.shape[1])]), torch.cat([up, bias[:, None]], dim=1), one
