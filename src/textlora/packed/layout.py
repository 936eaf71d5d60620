"""Where the texts of a micro-batch lie when their tokens are laid end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, islice

import torch

from textlora.batching import ROW_STEP, TEXT_STEP, group_sizes, text_rows


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

    @property
    def rows(self) -> Iterator[tuple[slice, int]]:
        """Yield the rows of each text and their number."""
        start = self.start
        for length in self.lengths:
            yield slice(start, start + length), length
            start += length

    def split(self, rows: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
        """Return the segment's part of ``rows`` by head, zero where padded.

        Args:
            rows: ``parts`` tensors of width H side by side, (N, parts * H).
            parts: how many.
            heads: attention heads; d = H / heads.

        Returns:
            ``parts`` tensors (G * heads, P, d).
        """
        width = rows.shape[1] // (parts * heads)
        by_head = rows.new_empty(parts, self.texts, heads, self.padded, width)
        for text, (own, length) in enumerate(self.rows):
            by_head[:, text, :, :length] = rows[own].view(length, parts, heads, width).permute(1, 2, 0, 3)
            by_head[:, text, :, length:] = 0
        return by_head.flatten(1, 2).unbind(0)

    def join(self, by_head: Sequence[torch.Tensor], rows: torch.Tensor) -> None:
        """Write tensors (G * heads, P, d) side by side to the segment's part of ``rows``; undoes ``split``."""
        width = by_head[0].shape[-1]
        for part, values in enumerate(by_head):
            by_text = values.view(self.texts, -1, self.padded, width).transpose(1, 2)
            for text, (own, length) in enumerate(self.rows):
                target = rows[own].view(length, len(by_head), -1, width)
                target[:, part] = by_text[text, :length]


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
            lengths = tuple(group)
            rest = iter(lengths)
            for size in group_sizes(len(lengths), padded):
                segment = Segment(start, tuple(islice(rest, size)), padded)
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

    def first_rows(self, device: torch.device, *, rounded: bool = False) -> torch.Tensor:
        """Row of every text's first token, (B,); ``rounded`` with the first row again until their number is round."""
        filler = text_rows(len(self.starts)) - len(self.starts) if rounded else 0
        return torch.tensor((*self.starts, *(0,) * filler), device=device)

    def boundaries(self, device: torch.device) -> torch.Tensor:
        """Rows at which texts start, and the row behind the last, (B + 1,), int32."""
        return torch.tensor((*self.starts, self.tokens), dtype=torch.int32, device=device)
