"""Attention within each text of a micro-batch whose tokens lie end to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from textlora.packed.layout import Layout, Segment

FLASH_CAPABILITY = (8, 0)
# Attended pairs, over all heads, whose probabilities stay in the cache of a processor core.
CACHED_PAIRS = 2**20


def attend(qkv: torch.Tensor, layout: Layout, heads: int, *, kernel: str) -> torch.Tensor:
    """Return softmax(Q Kᵀ / √d) V for every text and head.

    Args:
        qkv: queries, keys and values side by side, (N, 3 H).
        layout: where the texts lie.
        heads: number of heads; d = H / heads.
        kernel: ``eager`` keeps the probabilities for the backward pass; ``sdpa`` computes them
            again, which needs less memory, and without a backward pass hands each text to
            PyTorch's kernel where it lies. On a GPU in half precision both mean the fused kernel
            for texts laid end to end.

    Returns:
        (N, H); zero for filler rows.
    """
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        return _fused(qkv, layout, heads)
    if kernel == "sdpa" and not (torch.is_grad_enabled() and qkv.requires_grad):
        return _in_place(qkv, layout, heads)
    mixed: torch.Tensor = _Attention.apply(qkv, layout, heads, kernel == "eager")
    return mixed


def _in_place(qkv: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
    """Attend text by text where the rows lie: nothing is padded, masked or copied but the result."""
    mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    mixed[layout.tokens :] = 0
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        own = slice(start, start + length)
        q, k, v = qkv[own].view(1, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
        context = scaled_dot_product_attention(q, k, v)[0]
        mixed[own].view(length, heads, -1).copy_(context.transpose(0, 1))
    return mixed


class _Attention(torch.autograd.Function):
    """Attention by batched products over the segments of a layout, with its gradient."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, layout: Layout, heads: int, keep: bool) -> torch.Tensor:
        mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        mixed[layout.tokens :] = 0
        kept: list[torch.Tensor] = []
        for segment in layout.segments:
            q, k, v = segment.split(qkv, 3, heads)
            context = torch.empty_like(q)
            kept += [q, k, v]
            for part in _parts(segment, len(q)):
                if keep:
                    weights = _weights(q[part], k[part], segment)
                    torch.bmm(weights, v[part], out=context[part])
                    kept.append(weights)
                else:
                    context[part] = _flash(q[part], k[part], v[part], segment)
            segment.join([context], mixed)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*kept)
            ctx.layout, ctx.keep = layout, keep
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        kept, layout = iter(ctx.saved_tensors), ctx.layout
        out = grad.new_empty(len(grad), 3 * grad.shape[1])
        out[layout.tokens :] = 0
        for segment in layout.segments:
            q, k, v = next(kept), next(kept), next(kept)
            (upstream,) = segment.split(grad, 1, len(q) // segment.texts)
            gradients = tuple(torch.empty_like(q) for _ in range(3))
            for part in _parts(segment, len(q)):
                weights = next(kept) if ctx.keep else _weights(q[part], k[part], segment)
                _attention_gradients(
                    (q[part], k[part], v[part]), weights, upstream[part], tuple(whole[part] for whole in gradients)
                )
            segment.join(gradients, out)
        return out, None, None, None


def _weights(q: torch.Tensor, k: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return the probabilities (G * heads, P, P) of each token attending to each."""
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    if not segment.full:
        mask_padding(scores.view(segment.texts, -1, *scores.shape[1:]), segment)
    return scores.softmax(-1)


def mask_padding(scores: torch.Tensor, segment: Segment) -> None:
    """Set the scores (G, heads, …, P) of padded keys to minus infinity, in place."""
    for text, length in enumerate(segment.lengths):
        scores[text, ..., length:] = -torch.inf


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segment: Segment) -> torch.Tensor:
    q4, k4, v4 = (part.view(segment.texts, -1, *part.shape[1:]) for part in (q, k, v))
    bias = None
    if not segment.full:
        bias = q.new_zeros(segment.texts, 1, 1, segment.padded)
        mask_padding(bias, segment)
    return scaled_dot_product_attention(q4, k4, v4, attn_mask=bias).reshape(q.shape)


Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _attention_gradients(qkv: Heads, weights: torch.Tensor, grad: torch.Tensor, out: Heads) -> None:
    """Write the gradients of q, k and v, each (heads, P, d), into ``out``."""
    q, k, v = qkv
    scale = q.shape[-1] ** -0.5
    torch.bmm(weights.transpose(1, 2), grad, out=out[2])
    grad_weights = torch.bmm(grad, v.transpose(1, 2))
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    torch.baddbmm(out[0], grad_scores, k, beta=0, alpha=scale, out=out[0])
    torch.baddbmm(out[1], grad_scores.transpose(1, 2), q, beta=0, alpha=scale, out=out[1])


def _parts(segment: Segment, rows: int) -> Iterator[slice]:
    """Yield the heads to work on together: all of a segment of short texts, fewer of one long text."""
    step = rows if segment.texts > 1 else max(1, CACHED_PAIRS // segment.padded**2)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _fused(qkv: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
    """Attend on a GPU with one kernel over all texts."""
    own = qkv[: layout.tokens].view(layout.tokens, 3, heads, -1)
    boundaries, longest = layout.boundaries(qkv.device), max(layout.lengths)
    if torch.cuda.get_device_capability(qkv.device) >= FLASH_CAPABILITY:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = own.unbind(1)
        mixed = varlen_attn(q, k, v, boundaries, boundaries, longest, longest)
    else:
        mixed = _jagged(own, boundaries, longest)
    filler = qkv.new_zeros(layout.rows - layout.tokens, qkv.shape[1] // 3)
    return torch.cat([mixed.reshape(layout.tokens, -1), filler])


def _jagged(own: torch.Tensor, boundaries: torch.Tensor, longest: int) -> torch.Tensor:
    """Attend on GPUs before Ampere: the memory-efficient kernel behind jagged nested tensors."""
    from torch.nested import nested_tensor_from_jagged

    parts = [
        nested_tensor_from_jagged(part.contiguous(), boundaries, max_seqlen=longest).transpose(1, 2)
        for part in own.unbind(1)
    ]
    mixed: torch.Tensor = scaled_dot_product_attention(*parts).transpose(1, 2).values()
    return mixed
