"""Where the texts of a micro-batch lie when their tokens are laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch

# Attention works on texts padded to a multiple of this: softmax runs up to 1.4 times faster on whole
# vectors, and few different lengths mean few kernels that oneDNN builds and keeps.
TEXT_STEP = 32
# The matrix products run over a multiple of this many rows, again for few different shapes.
ROW_STEP = 128


@dataclass(frozen=True)
class Segment:
    """Consecutive texts that attention pads to one length.

    Attributes:
        start: row of the first text's first token.
        lengths: tokens of each text, (G,).
        padded: the common length P.
    """

    start: int
    lengths: tuple[int, ...]
    padded: int

    @property
    def texts(self) -> int:
        """Number of texts G."""
        return len(self.lengths)

    @property
    def stop(self) -> int:
        """Row behind the last text."""
        return self.start + sum(self.lengths)

    @property
    def full(self) -> bool:
        """Whether no text is padded."""
        return all(length == self.padded for length in self.lengths)

    @cached_property
    def padding(self) -> torch.Tensor:
        """True where a padded text holds no token, (G, P)."""
        return torch.arange(self.padded)[None, :] >= torch.tensor(self.lengths)[:, None]

    @cached_property
    def _slots(self) -> torch.Tensor:
        """Place of every token among the G * P padded ones, (tokens,)."""
        return torch.nonzero(~self.padding.flatten()).flatten()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the segment's tokens of ``rows`` (N, F) as (G, P, F), zero where padded."""
        own = rows[self.start : self.stop]
        if self.full:
            return own.view(self.texts, self.padded, -1)
        padded = rows.new_zeros(self.texts * self.padded, rows.shape[1])
        if self.texts == 1:
            padded[: len(own)] = own
        else:
            padded.index_copy_(0, self._slots.to(rows.device), own)
        return padded.view(self.texts, self.padded, -1)

    def scatter(self, padded: torch.Tensor, rows: torch.Tensor) -> None:
        """Write tokens (G, P, F) back to their rows of ``rows`` (N, F); padding is dropped."""
        flat = padded.reshape(self.texts * self.padded, -1)
        own = rows[self.start : self.stop]
        if self.full:
            own.copy_(flat)
        elif self.texts == 1:
            own.copy_(flat[: len(own)])
        else:
            torch.index_select(flat, 0, self._slots.to(rows.device), out=own)


class Layout:
    """The rows of a micro-batch: all tokens of its texts, then some filler.

    Args:
        lengths: tokens of each text, in the order in which they lie.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(int(length) for length in lengths)
        self.tokens = sum(self.lengths)
        self.rows = -(-self.tokens // ROW_STEP) * ROW_STEP
        self.starts = (0, *accumulate(self.lengths))[:-1]

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The texts by padded length; texts sorted by length make the fewest."""
        found, start = [], 0
        for padded, group in groupby(self.lengths, key=lambda length: -(-length // TEXT_STEP) * TEXT_STEP):
            segment = Segment(start, tuple(group), padded)
            found.append(segment)
            start = segment.stop
        return tuple(found)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Place of every token in its text, 0 for filler, (N,)."""
        positions = torch.zeros(self.rows, dtype=torch.long)
        for start, length in zip(self.starts, self.lengths, strict=True):
            positions[start : start + length] = torch.arange(length)
        return positions

    def first_rows(self, device: torch.device) -> torch.Tensor:
        """Row of every text's first token, (B,)."""
        return torch.tensor(self.starts, device=device)

    def boundaries(self, device: torch.device) -> torch.Tensor:
        """Rows at which texts start, and the row behind the last, (B + 1,), int32."""
        return torch.tensor((*self.starts, self.tokens), dtype=torch.int32, device=device)
