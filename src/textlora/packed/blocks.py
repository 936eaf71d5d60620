"""Transformer blocks over tokens laid end to end; the last one for the first token of each text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from textlora.packed.attention import attend, mask_padding
from textlora.packed.layout import Layout
from textlora.packed.linear import PackedLinear, adapter, base_layer
from textlora.packed.quantized import frozen_weight, read


@dataclass(frozen=True)
class BlockParts:
    """The modules of one block: attention, sum and norm, two widening layers, sum and norm."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    attention_norm: nn.Module
    widen: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    narrow: nn.Module
    output_norm: nn.Module


class Block:
    """One transformer block for all tokens."""

    def __init__(self, parts: BlockParts, heads: int) -> None:
        self.heads = heads
        self._qkv = PackedLinear([parts.query, parts.key, parts.value])
        self._tail = _Tail(parts)

    def __call__(
        self, x: torch.Tensor, layout: Layout, *, kernel: str, only: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the block's output (N, H) for x (N, H), or its rows (M, H) at the places ``only`` (M,)."""
        mixed = attend(self._qkv(x), layout, self.heads, kernel=kernel)
        if only is not None:
            # What follows attention goes row by row.
            mixed, x = mixed.index_select(0, only), x.index_select(0, only)
        return self._tail(mixed, x)


class _Tail:
    """What follows attention, row by row."""

    def __init__(self, parts: BlockParts) -> None:
        self._out = PackedLinear([parts.out])
        self._widen = PackedLinear([parts.widen])
        self._narrow = PackedLinear([parts.narrow])
        self._parts = parts

    def __call__(self, mixed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        attended = self._parts.attention_norm(self._out(mixed, x))
        wide = self._parts.activation(self._widen(attended))
        rows: torch.Tensor = self._parts.output_norm(self._narrow(wide, attended))
        return rows


class LastBlock:
    """The last block for the first token of each text alone: the heads read nothing else.

    With one query per text, the products with the keys' and values' weights move from all T tokens
    to the query's side: scores = X (W_kᵀ q), since the keys' bias adds the same to every score, and
    context = W_v (Xᵀ a) + b_v, since the probabilities a sum to 1. Exact but for rounding.
    """

    def __init__(self, parts: BlockParts, heads: int) -> None:
        self.heads = heads
        self._query = PackedLinear([parts.query])
        self._key, self._value = parts.key, parts.value
        self._tail = _Tail(parts)

    def __call__(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return the block's output (B, H) for the texts' first tokens, from x (N, H)."""
        # More texts than there are, if need be, so that libraries build kernels for few different numbers.
        first = x.index_select(0, layout.first_rows(x.device, rounded=True))
        query = self._query(first) * (first.shape[1] // self.heads) ** -0.5
        probes = self._onto_keys(self._by_head(query)).transpose(0, 1).contiguous()
        means = _FirstAttention.apply(x, probes, layout)
        return self._tail(self._through_values(means.transpose(0, 1)), first)[: len(layout.lengths)]

    @property
    def applies(self) -> bool:
        """Whether the short cut holds: not while inputs are dropped before keys' or values' adapters."""
        return not (_drops(self._key) or _drops(self._value))

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        """Turn (B, H) into (heads, B, d)."""
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)

    def _onto_keys(self, query: torch.Tensor) -> torch.Tensor:
        """Return W_kᵀ q of each head, (heads, B, H), for q (heads, B, d)."""
        weight = read(frozen_weight(base_layer(self._key)), query.dtype)
        probes = torch.bmm(query, weight.view(self.heads, -1, weight.shape[1]))
        if found := adapter(self._key):
            down, up = (matrix.to(query.dtype) for matrix in found[:2])
            probes = probes + torch.bmm(query, up.view(self.heads, -1, up.shape[1])) @ down
        return probes

    def _through_values(self, means: torch.Tensor) -> torch.Tensor:
        """Return W_v m + b_v of each head side by side, (B, H), for m (heads, B, H)."""
        base = base_layer(self._value)
        weight = read(frozen_weight(base), means.dtype).view(self.heads, -1, means.shape[-1])
        values = torch.bmm(means, weight.transpose(1, 2))
        if found := adapter(self._value):
            down, up = (matrix.to(means.dtype) for matrix in found[:2])
            values = values + torch.bmm(means @ down.t(), up.view(self.heads, -1, up.shape[1]).transpose(1, 2))
        joined = values.transpose(0, 1).reshape(means.shape[1], -1)
        return joined if base.bias is None else joined + base.bias


def _drops(layer: nn.Module) -> bool:
    found = adapter(layer)
    return found is not None and found[2].training and found[2].p > 0


class _FirstAttention(torch.autograd.Function):
    """m = Xᵀ softmax(X u) of every text, for the probes u of each head; zero for probes beyond the texts."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, probes: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return (B, heads, H) for x (N, H) and probes (B, heads, H)."""
        means = torch.empty_like(probes)
        kept, text = [], 0
        for segment in layout.segments:
            (own,) = segment.split(x, 1, 1)
            scores = torch.bmm(probes[text : text + segment.texts], own.transpose(1, 2)).float()
            mask_padding(scores, segment)
            weights = scores.softmax(-1).to(x.dtype)
            torch.bmm(weights, own, out=means[text : text + segment.texts])
            kept.append(weights)
            text += segment.texts
        means[text:] = 0
        ctx.save_for_backward(x, probes, *kept)
        ctx.layout = layout
        return means

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        x, probes, *kept = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_probes = torch.empty_like(probes)
        text = 0
        for segment, weights in zip(ctx.layout.segments, kept, strict=True):
            part = slice(text, text + segment.texts)
            (own,) = segment.split(x, 1, 1)
            # (G, heads, P) from here on.
            grad_weights = torch.bmm(grad[part], own.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            torch.bmm(grad_scores, own, out=grad_probes[part])
            if grad_x is not None:
                both = torch.cat([grad_scores, weights], dim=1).transpose(1, 2)
                segment.join([torch.bmm(both, torch.cat([probes[part], grad[part]], dim=1))], grad_x)
            text += segment.texts
        grad_probes[text:] = 0
        return grad_x, grad_probes, None
