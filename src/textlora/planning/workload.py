"""How much there is to compute: the data's lengths, cut into micro-batches as training does it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from textlora.batching import ROW_STEP, TEXT_STEP, group_sizes, micro_batches, packed_batches, padded_length, text_rows
from textlora.explanation import MISTAKE_FORWARDS, MISTAKES
from textlora.planning.grounds import Grounds
from textlora.rehearsal import PREDICTED_TOKENS
from textlora.settings import Settings
from textlora.windows import QUANTILES, LengthPolicy

# So many steps show nearly all shapes that occur.
SIMULATED_STEPS = 160
# Share of the test rows that are taken for mistakes to be explained; there are seldom more, and twenty are shown.
WRONG_SHARE = 0.2
WORDS_PER_TOKEN = 0.75


@dataclass(frozen=True, slots=True)
class Load:
    """One pass over some rows, as computed: padding counted.

    Attributes:
        tokens: tokens of the pass.
        pairs: pairs of tokens that attend to each other; a text of T tokens has T * T.
        micro_batches: forward passes.
        largest: tokens of the largest micro-batch.
        largest_pairs: pairs in the micro-batch that has most of them.
        row_counts: different numbers of rows among the micro-batches.
        text_counts: different numbers of texts (windows), as the last layer rounds them.
        text_groups: padded length and number of the texts of each group that attention works on together.
    """

    tokens: int
    pairs: int
    micro_batches: int
    largest: int
    largest_pairs: int
    row_counts: frozenset[int]
    text_counts: frozenset[int]
    text_groups: frozenset[tuple[int, int]]


NOTHING = Load(0, 0, 0, 0, 0, frozenset(), frozenset(), frozenset())


def predicted_tokens(chosen: Settings) -> int:
    """Return the tokens of a micro-batch when the classifier predicts."""
    return min(PREDICTED_TOKENS, chosen.prediction_tokens or PREDICTED_TOKENS)


def steps(rows: int, batch_size: int, epochs: float) -> int:
    """Return the optimiser steps of a training, as Trainer counts them."""
    return math.ceil(math.ceil(rows / batch_size) * epochs)


def load(rows: int, batch_size: int, chosen: Settings, grounds: Grounds, *, budget: int | None = None) -> Load:
    """Cut texts of the data's lengths into micro-batches as training does, and count.

    Args:
        rows: texts of the pass.
        batch_size: texts that are cut together.
        chosen: resolved settings.
        grounds: for the lengths.
        budget: tokens per micro-batch; the plan's by default.
    """
    if rows == 0:
        return NOTHING
    length = chosen.text.max_length or grounds.info.max_length
    longest = grounds.lengths.quantiles[-1]
    texts = _spread(grounds.lengths.quantiles, min(rows, SIMULATED_STEPS * batch_size), longest)
    policy = LengthPolicy.of_settings(chosen.text, max_length=length)
    drawn = [int(count) for count in policy.computed(np.array(texts, np.int64))]
    random.Random(0).shuffle(drawn)  # noqa: S311 - no secret, only the same order every time
    if chosen.text.padding == "max_length":
        drawn = [max(length, tokens) for tokens in drawn]
    tokens = chosen.compute.tokens_per_micro_batch or 0 if budget is None else budget
    batches = [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]
    packed = chosen.compute.engine == "packed"
    passes = [found for batch in batches for found in _passes(batch, tokens, length, packed=packed)]
    share = rows / len(drawn)
    return Load(
        tokens=round(sum(found.tokens for found in passes) * share),
        pairs=round(sum(found.pairs for found in passes) * share),
        micro_batches=math.ceil(len(passes) * share),
        largest=max(found.tokens for found in passes),
        largest_pairs=max(found.pairs for found in passes),
        row_counts=frozenset(found.tokens for found in passes),
        text_counts=frozenset(found.texts for found in passes),
        text_groups=frozenset(group for found in passes for group in found.groups),
    )


def explained_texts(grounds: Grounds) -> int:
    """Return how many texts are classified to explain mistakes: one for each word that is left out, up to a limit."""
    mistakes = min(MISTAKES, math.ceil(WRONG_SHARE * grounds.rows["test"]))
    return mistakes * min(MISTAKE_FORWARDS, round(WORDS_PER_TOKEN * grounds.lengths.mean) + 1)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One forward pass: tokens and pairs computed, texts, groups of texts in attention."""

    tokens: int
    pairs: int
    texts: int
    groups: frozenset[tuple[int, int]]


def _passes(lengths: Sequence[int], budget: int, limit: int, *, packed: bool) -> Iterator[_Pass]:
    """Yield the forward passes over the samples of one optimiser step."""
    if packed:
        for rows in packed_batches(lengths, budget):
            # Attention ends where a window ends.
            texts = [window for row in rows for window in _windows(lengths[row], limit)]
            tokens = -(-sum(texts) // ROW_STEP) * ROW_STEP
            padded = [-(-length // TEXT_STEP) * TEXT_STEP for length in texts]
            pairs = sum(length * length for length in padded)
            yield _Pass(tokens, pairs, text_rows(len(texts)), frozenset(_groups(padded)))
        return
    for rows in micro_batches(lengths, budget, limit=limit):
        texts = [window for row in rows for window in _windows(lengths[row], limit)]
        width = padded_length(max(texts), limit)
        number = len(texts)
        yield _Pass(width * number, width * width * number, number, frozenset({(width, number)}))


def _windows(length: int, limit: int) -> list[int]:
    """Return the tokens of each window of a text; see ``textlora.windows``."""
    return [min(limit, length - start) for start in range(0, length, limit)]


def _groups(padded: Sequence[int]) -> Iterator[tuple[int, int]]:
    for length, texts in groupby(padded):
        for size in group_sizes(len(list(texts)), length):
            yield length, size


def _spread(quantiles: Sequence[int], number: int, limit: int) -> list[int]:
    """Return ``number`` lengths that follow the quantiles, cut at ``limit``, shortest first."""
    lengths, place = [], 0
    for index in range(number):
        share = (index + 0.5) / number
        while QUANTILES[place + 1] < share:
            place += 1
        low, high = quantiles[place], quantiles[place + 1]
        within = (share - QUANTILES[place]) / (QUANTILES[place + 1] - QUANTILES[place])
        lengths.append(max(1, min(limit, round(low + within * (high - low)))))
    return lengths
