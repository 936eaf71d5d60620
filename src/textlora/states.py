"""What a frozen encoder makes of texts: the mean of their hidden states, layer by layer.

Letters in shapes: N texts, S layers, T tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textlora import encoder, packed, windows
from textlora.batching import micro_batches, packed_batches, padded_tokens
from textlora.memory import Budget, Pass
from textlora.tokenization import TokenIds


def mean_states(
    model: Any, texts: Sequence[TokenIds], layers: Sequence[int], *, window: int, pad_id: int, budget: Budget
) -> NDArray[np.float32]:
    """Return the mean over the tokens of each text of what each of some layers gives, (N, S, H).

    Args:
        model: what ``encoder.load_frozen`` returned.
        texts: token ids of each text, its windows end to end; the special tokens count.
        layers: 0 is the embeddings, k what the first k layers give; rising.
        window: tokens of each window of a text that has several.
        pad_id: fills short texts.
        budget: tokens per forward pass.

    Raises:
        ResourceError: memory ran out, and smaller passes did not help.
    """
    lengths = np.array([len(ids) for ids in texts])
    compute = _packed if encoder.runs_packed(model) else _padded

    def work(under_way: Pass) -> NDArray[np.float32]:
        found = np.zeros((len(texts), len(layers), model.config.hidden_size), np.float32)
        for rows in _cut(model, lengths, budget.tokens, window):
            under_way.holds(len(rows), _tokens(model, lengths[rows], window))
            pieces, counts = windows.split_all([texts[row] for row in rows], window)
            owners = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts))
            sums = [_summed(states, owners, len(rows)) for states in compute(model, pieces, layers, pad_id)]
            found[rows] = np.stack(sums, axis=1) / lengths[rows, None, None]
        return found

    return budget.run(work, stage="hidden states")


def _cut(model: Any, lengths: NDArray[np.int64], tokens: int, window: int) -> list[list[int]]:
    if encoder.runs_packed(model):
        return packed_batches(lengths, tokens)
    return micro_batches(lengths, tokens, limit=window)


def _tokens(model: Any, lengths: NDArray[np.int64], window: int) -> int:
    return int(lengths.sum()) if encoder.runs_packed(model) else padded_tokens(lengths, window)


def _summed(windows_of_texts: torch.Tensor, owners: torch.Tensor, texts: int) -> NDArray[np.float32]:
    """Return the sum over the windows of each text (n, H), from those of the windows (W, H)."""
    sums = torch.zeros(texts, windows_of_texts.shape[1])
    return np.asarray(sums.index_add_(0, owners, windows_of_texts).numpy())


@torch.inference_mode()
def _packed(model: Any, pieces: Sequence[TokenIds], layers: Sequence[int], pad_id: int) -> Iterator[torch.Tensor]:
    """Yield the sum over the tokens of each window (W, H), layer by layer."""
    inputs = packed.pack(pieces, pad_id)
    layout = packed.Layout(inputs["lengths"])
    owners = torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor(layout.lengths)).to(model.device)
    for number, states in enumerate(model.packed.states(inputs["input_ids"].to(model.device), layout)):
        if number in layers:
            sums = torch.zeros(len(pieces), states.shape[1], device=model.device)
            yield sums.index_add_(0, owners, states[: layout.tokens].float()).cpu()
        if number == layers[-1]:
            return


@torch.inference_mode()
def _padded(model: Any, pieces: Sequence[TokenIds], layers: Sequence[int], pad_id: int) -> Iterator[torch.Tensor]:
    """Do as ``_packed`` does with Hugging Face's own forward pass."""
    inputs = encoder.pad(pieces, pad_id, limit=max(len(ids) for ids in pieces))
    moved = {name: value.to(model.device) for name, value in inputs.items()}
    states = model(**moved, output_hidden_states=True).hidden_states
    mask = moved["attention_mask"][:, :, None]
    for layer in layers:
        yield (states[layer].float() * mask).sum(1).cpu()
