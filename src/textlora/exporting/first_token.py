"""The last layer for the first token alone: the heads read nothing else, and a file need not compute more.

Letters in shapes: B texts, T tokens, H hidden, A heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from textlora import packed
from textlora.packed.blocks import BlockParts


def shorten(model: Any) -> None:
    """Replace the last layer of a Hugging Face classifier by one that computes the first token's row.

    Other layers and the head stay Hugging Face's own. Architectures whose layers are not known stay whole.
    """
    if not packed.supports(model.config):
        return
    parts = packed.ARCHITECTURES[model.config.model_type].blocks(model)[-1]
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList) and any(module is parts.query for module in layers[-1].modules()):
            layers[-1] = FirstTokenLayer(parts, heads=model.config.num_attention_heads)
            return


class FirstTokenLayer(nn.Module):
    """One transformer layer for the first token of each text.

    Args:
        parts: its modules.
        heads: A.
    """

    def __init__(self, parts: BlockParts, *, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = parts.query, parts.key, parts.value, parts.out
        self.widen, self.narrow = parts.widen, parts.narrow
        self.attention_norm, self.output_norm = parts.attention_norm, parts.output_norm
        self.activation, self.heads = parts.activation, heads

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return (B, 1, H) for hidden states (B, T, H) and a mask (B, 1, T, T); what a decoder would get is not read."""
        first = hidden_states[:, :1]
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        mixed = nn.functional.scaled_dot_product_attention(
            self._split(self.query(first)),
            self._split(self.key(hidden_states)),
            self._split(self.value(hidden_states)),
            attn_mask=mask,
        )
        attended = self.attention_norm(self.out(mixed.transpose(1, 2).flatten(2)) + first)
        output: torch.Tensor = self.output_norm(self.narrow(self.activation(self.widen(attended))) + attended)
        return output

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (B, A, T, H / A) for (B, T, H)."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
