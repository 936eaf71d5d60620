"""Rows in blocks: little enough to hold, always cut at the same rows, and known again by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from textlora.readers import BadRow, Row
from textlora.scoring.sources import Source

ROWS = 2_048
"""Records of a block: enough texts to sort by length, and what a killed job loses at most."""
CHARACTERS = 1 << 24
"""A block ends with the record that goes beyond this."""


@dataclass(slots=True)
class Block:
    """Consecutive records of one file.

    Attributes:
        number: its place among the blocks of all files.
        source: index of its file.
        share: of the file that is read with it.
        rows: the whole records.
        bad: the broken ones.
        digest: SHA-256 of all of them.
    """

    number: int
    source: int
    share: float = 0.0
    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    digest: str = ""

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.rows) + len(self.bad)

    def cells(self, source: Source) -> list[Any]:
        """Return the text cells of the whole records; lone surrogates are replaced as the tokenizer does it."""
        place = source.table.columns.index(source.text)
        return [_clean(row.values[place]) for row in self.rows]


def _clean(value: Any) -> Any:
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def all_blocks(sources: Sequence[Source]) -> Iterator[Block]:
    """Yield the records of all files, one file after the other, in blocks."""
    number = 0
    for index, source in enumerate(sources):
        for block in _blocks(number, index, source):
            yield block
            number = block.number + 1


def _blocks(number: int, index: int, source: Source) -> Iterator[Block]:
    block, digest, characters = Block(number, index), hashlib.sha256(), 0
    for record in source.table:
        # The writing of a record is its size as well: what it takes in memory is near that.
        written = repr(record).encode("utf-8", "surrogatepass")
        digest.update(written)
        characters += len(written)
        (block.bad if isinstance(record, BadRow) else block.rows).append(record)  # type: ignore[arg-type]
        if len(block) == ROWS or characters >= CHARACTERS:
            yield _closed(block, digest.hexdigest(), source)
            block, digest, characters = Block(block.number + 1, index), hashlib.sha256(), 0
    if len(block):
        yield _closed(block, digest.hexdigest(), source)


def _closed(block: Block, digest: str, source: Source) -> Block:
    block.digest, block.share = digest, source.table.meter.share
    return block
