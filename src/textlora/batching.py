"""Lengths to micro-batches: texts of like length together, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Padded lengths are rounded up to this, so that few different shapes occur: oneDNN keeps a
# kernel and its memory for every shape it meets.
LENGTH_STEP = 64
# So are the rows of a micro-batch of texts laid end to end.
ROW_STEP = 128
# Attention works on texts padded to a multiple of this: softmax runs up to 1.4 times faster on whole
# vectors, and few different lengths mean few kernels that oneDNN builds and keeps.
TEXT_STEP = 32
# Pairs of tokens that a head attends between in one group of texts: what is computed from them should
# stay in the processor's cache until it is used.
GROUP_PAIRS = 2**17


# So many texts, and groups of so many, take any number; above, numbers are round, for the same reason.
EXACT_TEXTS, EXACT_GROUP = 16, 8


def text_rows(texts: int) -> int:
    """Return how many rows the last layer computes for so many texts: at least as many, and a round number if many."""
    if texts <= EXACT_TEXTS:
        return texts
    step = max(EXACT_TEXTS, 1 << (texts.bit_length() - 3))
    return -(-texts // step) * step


def group_sizes(texts: int, padded: int) -> Iterator[int]:
    """Yield how many of ``texts`` texts of ``padded`` tokens attention works on together, until all are done."""
    most = max(1, GROUP_PAIRS // padded**2)
    while texts:
        size = min(texts, most)
        if EXACT_GROUP < size < most:
            size = 1 << (size.bit_length() - 1)
        yield size
        texts -= size


def padded_length(longest: int, limit: int) -> int:
    """Return ``longest`` rounded up to the length step, at most ``limit``."""
    return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, max(limit, longest))


def packed_batches(lengths: Sequence[int] | NDArray[np.int64], budget: int) -> list[list[int]]:
    """Cut samples that need no padding into as few micro-batches of like size as the budget allows.

    Args:
        lengths: tokens of each sample.
        budget: tokens per micro-batch; a longer sample gets one of its own; 0 puts all into one.

    Returns:
        Lists of sample indices, longest samples first, every index once. Ties keep their order.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    total = int(np.sum(lengths))
    # Equal shares instead of full ones and a small rest, which would leave the processor idle.
    share = total / max(1, -(-total // budget)) if budget else total
    batches: list[list[int]] = []
    filled = 0
    for index in order.tolist():
        length = int(lengths[index])
        if not batches or (budget and (filled + length / 2 > share or filled + length > budget)):
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += length
    return batches


def padded_tokens(lengths: Sequence[int] | NDArray[np.int64], limit: int) -> int:
    """Return the tokens of a micro-batch of samples with these lengths, padding counted; see ``micro_batches``."""
    rows = sum(-(-int(length) // limit) or 1 for length in lengths)
    return rows * padded_length(min(int(max(lengths)), limit), limit)


def micro_batches(lengths: Sequence[int] | NDArray[np.int64], budget: int, *, limit: int) -> list[list[int]]:
    """Cut samples into micro-batches of at most ``budget`` tokens, padding counted.

    Args:
        lengths: tokens of each sample.
        budget: tokens per micro-batch; a longer sample gets one of its own; 0 puts all into one.
        limit: the longest padded length; a longer sample takes several rows, which stay together.

    Returns:
        Lists of sample indices, longest samples first, every index once. Ties keep their order.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    if budget == 0:
        return [order.tolist()] if len(order) else []
    batches: list[list[int]] = []
    room = 0
    for index in order.tolist():
        rows = -(-int(lengths[index]) // limit) or 1
        # The first of a micro-batch is its longest and sets the width of all.
        if room < rows:
            room = max(rows, budget // padded_length(min(int(lengths[index]), limit), limit))
            batches.append([])
        batches[-1].append(index)
        room -= rows
    return batches
