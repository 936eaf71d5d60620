"""How far a job has come, in rows: their number is known for little data, and estimated from bytes for much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textlora.scoring.blocks import Block
from textlora.scoring.sources import Source

Progress = Callable[[str, int, int], None]
"""Told the stage (``resume`` or ``predict``), the rows done in it, and about how many there are."""

COUNTED = 1 << 24
"""Bytes up to which rows are counted beforehand, which takes a moment."""


class Course:
    """Counts rows and broken lines of all sources.

    Args:
        sources: the files.
        progress: told after each block.
    """

    def __init__(self, sources: Sequence[Source], progress: Progress) -> None:
        self._sizes = [source.size for source in sources]
        small = sum(self._sizes) <= COUNTED
        self._counted = sum(1 for source in sources for _ in source.table) if small else None
        self._progress = progress
        self._done = 0
        self._total = self._counted or 0
        self.resumed = 0

    def skip(self, block: Block) -> None:
        """Count a block that an earlier call has done."""
        self._count(block)
        self.resumed = self._done
        self._progress("resume", self._done, self._total)

    def start(self) -> None:
        """Say that work begins."""
        self._tell()

    def advance(self, block: Block) -> None:
        """Count a block that is done now."""
        self._count(block)
        self._tell()

    def end(self) -> None:
        """Say that all is done, if an estimate has not said it yet."""
        if self._total != self._done:
            self._total = self._done
            self._tell()

    def _count(self, block: Block) -> None:
        self._done += len(block)
        if self._counted is None:
            before = sum(self._sizes[: block.source])
            seen = before + block.share * self._sizes[block.source]
            # There is one row more at least until the end is seen.
            self._total = max(self._done + 1, round(self._done * sum(self._sizes) / max(seen, 1)))

    def _tell(self) -> None:
        self._progress("predict", self._done - self.resumed, max(0, self._total - self.resumed))
