"""The forward pass of a classifier or masked language model over texts laid end to end, and its place in Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from textlora.packed.architectures import ARCHITECTURES
from textlora.packed.blocks import Block, LastBlock
from textlora.packed.layout import Layout


def supports(config: Any) -> bool:
    """Return whether a Hugging Face configuration describes an encoder that can run packed."""
    if config.model_type not in ARCHITECTURES:
        return False
    relative = getattr(config, "position_embedding_type", "absolute") != "absolute"
    chunked = getattr(config, "chunk_size_feed_forward", 0)
    return not (relative or chunked or getattr(config, "is_decoder", False))


def pack(ids: Sequence[Any], pad_id: int) -> dict[str, Any]:
    """Lay texts end to end: ``input_ids`` (N,) with filler at the end, and their ``lengths``.

    Args:
        ids: token ids of each text, as arrays (T,).
        pad_id: id of the filler.
    """
    layout = Layout([len(text) for text in ids])
    row = torch.full((layout.rows,), pad_id, dtype=torch.long)
    for start, text in zip(layout.starts, ids, strict=True):
        row[start : start + len(text)] = torch.from_numpy(text)
    return {"input_ids": row, "lengths": layout.lengths}


def pack_states(states: Sequence[torch.Tensor], start: int) -> dict[str, Any]:
    """Lay hidden states end to end: ``hidden`` (N, H), the texts' ``lengths``, and the block to go on with.

    Args:
        states: hidden states of each text, (T, H).
        start: number of the block that takes them.
    """
    layout = Layout([len(text) for text in states])
    rows = states[0].new_zeros(layout.rows, states[0].shape[1])
    torch.cat(list(states), out=rows[: layout.tokens])
    return {"hidden": rows, "lengths": layout.lengths, "start": start}


class PackedForward:
    """The forward pass of a Hugging Face sequence classifier or masked language model over texts laid end to end.

    Args:
        classifier: a supported ``…ForSequenceClassification``, with PEFT's layers inside or not, or ``…ForMaskedLM``.
        kernel: ``eager`` or ``sdpa``, see ``attend``; may be changed at any time.
    """

    def __init__(self, classifier: Any, *, kernel: str) -> None:
        architecture = ARCHITECTURES[classifier.config.model_type]
        self._classifier = classifier
        self._architecture = architecture
        self.kernel = kernel
        heads = classifier.config.num_attention_heads
        parts = architecture.blocks(classifier)
        self._blocks = [Block(part, heads) for part in parts]
        self._last = LastBlock(parts[-1], heads)
        self._norm: Any = parts[0].attention_norm

    @property
    def _dtype(self) -> torch.dtype:
        # Never quantized, as the weights of linear layers may be.
        dtype: torch.dtype = self._norm.weight.dtype
        return dtype

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self._blocks)

    def logits(self, input_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return logits (B, C) for token ids (N,) of texts with ``lengths`` (B,)."""
        layout = Layout(lengths)
        return self.logits_from(self.hidden(input_ids, layout, blocks=self.depth - 1), layout, start=self.depth - 1)

    def hidden(self, input_ids: torch.Tensor, layout: Layout, *, blocks: int) -> torch.Tensor:
        """Return what the embeddings and the first ``blocks`` blocks make of the ids, (N, H)."""
        encoder = getattr(self._classifier, self._architecture.encoder)
        x = self._architecture.embed(encoder, input_ids, layout.positions.to(input_ids.device))
        # Embeddings may be kept in fp32 where the blocks compute in bf16.
        x = x.to(self._dtype)
        for block in self._blocks[:blocks]:
            x = block(x, layout, kernel=self.kernel)
        return x

    def states(self, input_ids: torch.Tensor, layout: Layout) -> Iterator[torch.Tensor]:
        """Yield what the embeddings give, and then what each block gives, (N, H)."""
        x = self.hidden(input_ids, layout, blocks=0)
        yield x
        for block in self._blocks:
            x = block(x, layout, kernel=self.kernel)
            yield x

    def last_rows(self, input_ids: torch.Tensor, lengths: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
        """Return the last block's output (M, H) for the tokens at the places ``rows`` (M,) alone."""
        layout = Layout(lengths)
        x = self.hidden(input_ids, layout, blocks=self.depth - 1)
        return self._blocks[-1](x, layout, kernel=self.kernel, only=rows)

    def logits_from(self, x: torch.Tensor, layout: Layout, *, start: int) -> torch.Tensor:
        """Return logits (B, C) from the input (N, H) of block number ``start``."""
        for block in self._blocks[start:-1]:
            x = block(x, layout, kernel=self.kernel)
        if self._last.applies:
            first = self._last(x, layout)
        else:
            whole = self._blocks[-1](x, layout, kernel=self.kernel)
            first = whole.index_select(0, layout.first_rows(whole.device))
        return self._architecture.head(self._classifier, first)


def install(classifier: Any, *, kernel: str) -> PackedForward:
    """Let the classifier run packed when it is called with what ``pack`` or ``pack_states`` made.

    Every other call stays as it was.

    Returns:
        The packed forward, which is also ``classifier.packed``.
    """
    from transformers.modeling_outputs import SequenceClassifierOutput

    packed = PackedForward(classifier, kernel=kernel)
    original: Callable[..., Any] = classifier.forward

    def forward(
        input_ids: torch.Tensor | None = None,
        *args: Any,
        lengths: Sequence[int] | None = None,
        hidden: torch.Tensor | None = None,
        start: int = 0,
        **kwargs: Any,
    ) -> Any:
        if lengths is None:
            return original(input_ids, *args, **kwargs)
        if hidden is not None:
            logits = packed.logits_from(hidden, Layout(lengths), start=start)
        else:
            logits = packed.logits(input_ids, lengths)
        return SequenceClassifierOutput(logits=logits)

    classifier.forward = forward
    object.__setattr__(classifier, "packed", packed)
    return packed


def install_masked(model: Any, *, kernel: str) -> PackedForward:
    """Let a ``…ForMaskedLM`` run packed when it is called with what ``pack`` made and ``rows``.

    ``rows`` (M,) are the places among all tokens whose words are asked for; the logits are (M, V), those of
    the others are never computed. Every other call stays as it was.

    Returns:
        The packed forward, which is also ``model.packed``.
    """
    from transformers.modeling_outputs import MaskedLMOutput

    packed = PackedForward(model, kernel=kernel)
    words = ARCHITECTURES[model.config.model_type].words
    original: Callable[..., Any] = model.forward

    def forward(
        input_ids: torch.Tensor | None = None,
        *args: Any,
        lengths: Sequence[int] | None = None,
        rows: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if lengths is None or input_ids is None or rows is None:
            return original(input_ids, *args, **kwargs)
        return MaskedLMOutput(logits=words(model, packed.last_rows(input_ids, lengths, rows)))

    model.forward = forward
    object.__setattr__(model, "packed", packed)
    return packed
