"""What is kept of a text longer than the encoder, and how the windows of a text become one answer.

    tokens ──LengthPolicy.windows──▶ pieces of each window ──encoder──▶ logits of each ──pool──▶ logits of the text

Counts and arrays only, without torch: training, prediction, planning and whatever else the classifier
is carried to cut and pool by the same few lines.

The ids of a text are those of its windows end to end, special tokens included. Where a text has
several windows, every one of them is ``max_length`` tokens long, so the ids' number tells where each begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textlora.settings import Policy, TextSettings

if TYPE_CHECKING:
    from textlora.types import Bundle, TokenLengths

Piece = tuple[int, int]
Integers = NDArray[np.integer]
Ids = NDArray[np.int32]
# [CLS] and [SEP], or what an encoder has instead.
SPECIAL_TOKENS = 2
# The shares that TokenLengths has quantiles for.
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
# Different lengths of a data set that are kept as they are.
MOST_LENGTHS = 4_096


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """Which tokens of a long text are seen, and in how many forward passes.

    Attributes:
        policy: the first tokens, the last ones, both ends, or windows all over the text.
        max_length: tokens per forward pass, special ones included.
        head_tokens: tokens from the start under ``head+tail``.
        window_overlap: tokens that neighbouring windows share at least, while there are enough windows.
        max_windows: windows of a text at most.
    """

    policy: Policy
    max_length: int
    head_tokens: int = 128
    window_overlap: int = 0
    max_windows: int = 1

    @classmethod
    def of_settings(cls, text: TextSettings, *, max_length: int) -> LengthPolicy:
        """Return the policy of a plan; ``max_length`` is the encoder's, for a plan that leaves it open."""
        length = text.max_length or max_length
        overlap = usual_overlap(length) if text.window_overlap is None else text.window_overlap
        return cls(text.policy, length, text.head_tokens, overlap, text.max_windows)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> LengthPolicy:
        """Return the policy that a saved classifier was trained with."""
        return cls(bundle.policy, bundle.max_length, bundle.head_tokens, bundle.window_overlap, bundle.max_windows)

    @property
    def most_windows(self) -> int:
        """Forward passes of one text at most."""
        return self.max_windows if self.policy == "windows" else 1

    def whole(self, specials: int = SPECIAL_TOKENS) -> int:
        """Return the tokens, special ones included, up to which nothing of a text is lost."""
        return self.most_windows * (self.max_length - specials) + specials

    def windows(self, tokens: int, specials: int) -> tuple[tuple[Piece, ...], ...]:
        """Return the pieces of each window, as (start, stop) among the text's own tokens.

        Windows are spread evenly from the first token to the last, and each is full. Their number is
        the least whose neighbours share ``window_overlap`` tokens. If ``max_windows`` are fewer, they
        share less; if these cannot cover the text, equal gaps are left between them.

        Args:
            tokens: the text's tokens without special ones.
            specials: special tokens that each window gets.
        """
        room = self.max_length - specials
        if tokens <= room:
            return (((0, tokens),),)
        if self.policy == "tail":
            return (((tokens - room, tokens),),)
        if self.policy == "head+tail":
            head = min(self.head_tokens, room - 1)
            return (((0, head), (tokens - (room - head), tokens)),)
        number = int(self.count(np.array([tokens + specials]), specials)[0])
        # One window is the head.
        starts = (place * (tokens - room) // max(1, number - 1) for place in range(number))
        return tuple(((start, start + room),) for start in starts)

    def count(self, lengths: Integers, specials: int = SPECIAL_TOKENS) -> Integers:
        """Return the windows of texts with so many tokens, special ones included."""
        if self.most_windows == 1:
            return np.ones(len(lengths), np.int64)
        room = self.max_length - specials
        step = room - min(self.window_overlap, room - 1)
        needed = 1 + -(-np.maximum(lengths - self.max_length, 0) // step)
        return np.asarray(np.minimum(needed, self.max_windows), np.int64)

    def seen(self, lengths: Integers, specials: int = SPECIAL_TOKENS) -> Integers:
        """Return how many different tokens of texts are seen, special ones included once."""
        return np.asarray(np.minimum(lengths, self.whole(specials)), np.int64)

    def computed(self, lengths: Integers, specials: int = SPECIAL_TOKENS) -> Integers:
        """Return how many tokens are computed for texts: those of all windows, special ones included."""
        several = self.count(lengths, specials) * self.max_length
        return np.where(lengths <= self.max_length, lengths, several).astype(np.int64)


def usual_overlap(max_length: int) -> int:
    """Return an eighth of a window: enough that few sentences are cut in all windows."""
    return max(1, max_length // 8)


def split(ids: Ids, size: int) -> list[Ids]:
    """Return the ids (T,) of each window of a text, one at least."""
    return [ids[start : start + size] for start in range(0, max(1, len(ids)), size)]


def split_all(texts: Sequence[Ids], size: int) -> tuple[list[Ids], tuple[int, ...]]:
    """Return the windows of all texts, one after the other, and how many each text has."""
    found = [split(ids, size) for ids in texts]
    return [window for windows in found for window in windows], tuple(len(windows) for windows in found)


def places(counts: Sequence[int]) -> Integers:
    """Return where the windows of each text are, (B, K); K is the most of a text.

    Args:
        counts: windows of each text, W in all; a place that a text does not need is W.
    """
    total, most = sum(counts), max(counts, default=1)
    starts = np.cumsum([0, *counts])[:-1]
    own = np.arange(most)
    return np.where(own < np.asarray(counts)[:, None], starts[:, None] + own, total).astype(np.int64)


def pool(logits: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.float64]:
    """Return the logits (B, C) of texts: the mean over the logits (W, C) of their windows.

    A text of one window keeps its logits to the last bit. Training pools the same way.

    Args:
        logits: of all windows, those of a text one after the other.
        counts: windows of each text, W in all.
    """
    if len(logits) == len(counts):
        return logits
    padded = np.concatenate([logits, np.zeros((1, logits.shape[1]))])
    return np.asarray(padded[places(counts)].sum(1) / np.asarray(counts)[:, None])


@dataclass(frozen=True, slots=True)
class Loss:
    """What a policy does to the texts of a data set.

    Attributes:
        rows: texts of which something is lost.
        row_share: their share of the texts, 0 to 1.
        token_share: share of all tokens that is lost, 0 to 1.
        mean_computed: tokens computed per text on average.
        exact: whether all texts were counted, and not only quantiles known.
    """

    rows: int
    row_share: float
    token_share: float
    mean_computed: float
    exact: bool

    def __str__(self) -> str:
        """Return ``cuts 1,008 texts (14.4 %) and loses 12.1 % of all tokens``."""
        if not self.rows:
            return "no text is cut"
        about = "" if self.exact else "about "
        return f"cuts {about}{self.rows:,} texts ({self.row_share:.1%}) and loses {about}{self.token_share:.1%} of all tokens"


def loss(policy: LengthPolicy, lengths: TokenLengths, *, rows: int) -> Loss:
    """Return what the policy loses of ``rows`` texts with these lengths."""
    known = lengths.rows_by_tokens or _from_quantiles(lengths.quantiles)
    tokens, texts = (np.array(column, np.int64) for column in zip(*known.items(), strict=True))
    counted, seen = int(texts.sum()), policy.seen(tokens)
    share = float(texts[seen < tokens].sum()) / counted
    return Loss(
        rows=round(share * rows),
        row_share=share,
        token_share=1 - float((seen * texts).sum()) / max(1, int((tokens * texts).sum())),
        mean_computed=float((policy.computed(tokens) * texts).sum()) / counted,
        exact=counted == rows and bool(lengths.rows_by_tokens),
    )


def tally(counts: Integers) -> dict[int, int]:
    """Return how many texts have so many tokens; very many different lengths are rounded by up to 0.4 %."""
    counts = np.asarray(counts, np.int64)
    if len(np.unique(counts)) > MOST_LENGTHS:
        step = 2 ** np.maximum(np.log2(np.maximum(counts, 1)).astype(np.int64) - 7, 0)
        counts = (counts + step // 2) // step * step
    tokens, rows = np.unique(counts, return_counts=True)
    return dict(zip(tokens.tolist(), rows.tolist(), strict=True))


def _from_quantiles(quantiles: Sequence[int]) -> dict[int, int]:
    """Return a tally of a thousand texts that follow the quantiles of ``TokenLengths``."""
    shares = (np.arange(1_000) + 0.5) / 1_000
    return tally(np.interp(shares, QUANTILES, quantiles).round().astype(np.int64))
