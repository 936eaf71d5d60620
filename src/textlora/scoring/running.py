"""A scoring job: blocks of rows through a classifier into shards, shards into outputs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora import __version__, storage
from textlora.errors import TextloraWarning
from textlora.scoring.blocks import Block, all_blocks
from textlora.scoring.columns import Added
from textlora.scoring.course import Course, Progress
from textlora.scoring.nouns import ScoredFile
from textlora.scoring.outputs import Output, make_outputs
from textlora.scoring.scorer import Scorer
from textlora.scoring.shards import Entry, Shards, open_shards
from textlora.scoring.sources import Asked, Source, Target

Engine = Callable[[Iterator[Block], int], Iterator[tuple[Block, Any]]]
"""From blocks, and the number of the first, to each block with its predictions (a record batch), in order."""


MakeEngine = Callable[[Asked, Sequence[Source], Scorer], Engine]
"""From what was asked for, all files in order and a scorer of this process to the engine of a job."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        targets: the files to write.
        parts: folder for the shards.
        model: fingerprint of the classifier.
        added: the columns of the prediction.
        engine: what predicts.
    """

    targets: tuple[Target, ...]
    parts: Path
    model: str
    added: Added
    engine: Engine

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files to read, in order."""
        return tuple(source for target in self.targets for source in target.sources)


def local(_: Asked, sources: Sequence[Source], scorer: Scorer) -> Engine:
    """Return the engine that predicts in this process."""

    def engine(blocks: Iterator[Block], __: int) -> Iterator[tuple[Block, Any]]:
        for block in blocks:
            yield block, scorer.predict(block.cells(sources[block.source]))

    return engine


def run(job: Job, progress: Progress) -> tuple[ScoredFile, ...]:
    """Score all sources and write all targets, each as soon as it is whole; return what became of each.

    Raises:
        UsageError: another process writes the same output.
        DataError: a file cannot be read on.
        ResourceError: the output cannot be written, or memory ran out.
    """
    outputs = make_outputs(job.targets, job.added)
    for target in job.targets:
        storage.make_folder(target.out.parent)
    with open_shards(job.parts, {"textlora": __version__, "model": job.model}) as shards:
        course = Course(job.sources, progress)
        rest = _resumed(shards, outputs, all_blocks(job.sources), course)
        course.start()
        taken_over, waiting = len(shards.entries), list(outputs)
        for block, predictions in job.engine(rest, taken_over):
            while waiting[0].end <= block.source:
                waiting.pop(0).write(shards)
            waiting[0].add(shards, block, predictions)
            course.advance(block)
        for output in waiting:
            output.write(shards)
        course.end()
        results = tuple(output.result(shards, taken_over) for output in outputs)
        shards.remove()
    return results


def _resumed(shards: Shards, outputs: Sequence[Output], blocks: Iterator[Block], course: Course) -> Iterator[Block]:
    """Return the blocks that are not done; what is done counts as far as the files are still the same."""
    if shards.refused:
        _warn(f"Unfinished work beside the output was made with {shards.refused} and is not used: all rows are scored.")
    for number, entry in enumerate(shards.entries):
        block = next(blocks, None)
        difference = _difference(block, outputs, entry)
        if difference:
            _warn(f"{difference} since an earlier call; {course.resumed:,} rows of it still count.")
            shards.cut(number)
            return blocks if block is None else itertools.chain([block], blocks)
        course.skip(block)  # type: ignore[arg-type] # there is one where there is no difference
    return blocks


def _difference(block: Block | None, outputs: Sequence[Output], entry: Entry) -> str:
    """Return what has changed between a shard and the block in its place, or ``""``."""
    if block is None or block.source != entry.source:
        return "The files are others"
    output = next(output for output in outputs if block.source < output.end)
    name = output.source(block.source).table.name
    if entry.stamp != output.stamp(block.source):
        return f"How {name} is read or written has changed"
    return "" if entry.digest == block.digest else f"{name} has changed"


def _warn(message: str) -> None:
    warnings.warn(message, TextloraWarning, stacklevel=3)
