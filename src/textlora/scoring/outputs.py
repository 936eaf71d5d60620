"""An output under way: how a block's rows look in it, and how it is put together from shards."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.scoring.blocks import Block
from textlora.scoring.columns import Added
from textlora.scoring.formats import Delimited, Format, choose
from textlora.scoring.nouns import ScoredFile
from textlora.scoring.schemas import output_schema
from textlora.scoring.shards import Shards
from textlora.scoring.sources import Source, Target


@dataclass(frozen=True, slots=True)
class Output:
    """A target with the format it is written in.

    Attributes:
        target: what is written, from which files.
        first: number of its first source among those of all targets.
        format: writes it.
        added: the columns of the prediction.
    """

    target: Target
    first: int
    format: Format
    added: Added

    @property
    def end(self) -> int:
        """Number of the source behind its last one."""
        return self.first + len(self.target.sources)

    @property
    def suffix(self) -> str:
        """Suffix of its shards."""
        return self.target.out.suffix.lower()

    def source(self, number: int) -> Source:
        """Return one of its sources by its number among those of all targets."""
        return self.target.sources[number - self.first]

    def stamp(self, number: int) -> str:
        """Return the fingerprint of everything that shapes the shards of a source, its content aside."""
        table = self.source(number).table
        shape = (table.name, self.source(number).text, table.encoding, table.delimiter, table.columns, self.format)
        return storage.fingerprint(map(str, shape))

    def add(self, shards: Shards, block: Block, predictions: Any) -> None:
        """Write a block with its predictions, an Arrow record batch, as the next shard."""
        columns = {name: predictions.column(name).to_pylist() for name in self.added.names}
        given = [labels for labels in columns["prediction"] if labels is not None]
        labels = Counter(itertools.chain.from_iterable(given) if self.added.several else given)
        rows = list(self._rows(block, zip(*columns.values(), strict=True)))
        broken = self._broken(block)
        shards.add(
            self.suffix,
            lambda path: self.format.write(path, rows),
            (lambda path: self._quarantine.write(path, broken)) if broken else None,
            source=block.source,
            stamp=self.stamp(block.source),
            digest=block.digest,
            scored=len(given),
            without_text=len(block.rows) - len(given),
            quarantined=len(broken),
            truncated=sum(map(bool, columns["truncated"])),
            not_sure=sum(map(bool, columns.get("not_sure", ()))),
            labels=dict(labels),
        )

    def _rows(self, block: Block, predicted: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield whole rows: input columns, where they came from if that is asked for, predictions."""
        table = self.source(block.source).table
        places = {name: place for place, name in enumerate(table.columns)}
        order = [places.get(name) for name in self.target.columns]
        for row, cells in zip(block.rows, predicted, strict=True):
            values = row.values if self.target.columns == table.columns else _ordered(row.values, order)
            yield (*values, *((table.name, row.number) if self.target.located else ()), *cells)

    def _broken(self, block: Block) -> list[tuple[Any, ...]]:
        name = self.source(block.source).table.name
        located = (name,) if self.target.located else ()
        return [(*located, record.line, record.reason, record.raw) for record in block.bad]

    @property
    def _quarantine(self) -> Delimited:
        return Delimited((*(("source_file",) if self.target.located else ()), "line", "reason", "raw"))

    def write(self, shards: Shards) -> None:
        """Put the output together, its broken lines first: where the output is, all is done."""
        out, numbers = self.target.out, self._numbers(shards)
        broken = [shards.quarantine(number) for number in numbers if shards.entries[number].quarantined]
        listed = quarantine_path(out)
        for path in (out, listed):
            storage.remove_leftovers(path)
        if broken:
            with storage.atomic_path(listed) as temporary:
                self._quarantine.join(broken, temporary)
        else:
            listed.unlink(missing_ok=True)  # of an earlier call
        with storage.atomic_path(out) as temporary:
            self.format.join((shards.path(number, self.suffix) for number in numbers), temporary)

    def _numbers(self, shards: Shards) -> list[int]:
        return [number for number, entry in enumerate(shards.entries) if self.first <= entry.source < self.end]

    def result(self, shards: Shards, taken_over: int) -> ScoredFile:
        """Return what became of its rows; the first ``taken_over`` shards are of an earlier call."""
        numbers = self._numbers(shards)
        entries = [shards.entries[number] for number in numbers]
        labels = sum((Counter(entry.labels) for entry in entries), Counter())
        quarantined = sum(entry.quarantined for entry in entries)
        return ScoredFile(
            out=self.target.out,
            text_column=self.target.sources[0].text,
            scored=sum(entry.scored for entry in entries),
            without_text=sum(entry.without_text for entry in entries),
            quarantined=quarantined,
            truncated=sum(entry.truncated for entry in entries),
            quarantine=quarantine_path(self.target.out) if quarantined else None,
            not_sure=sum(entry.not_sure for entry in entries) if self.added.sets else None,
            sources=len(self.target.sources),
            resumed=sum(shards.entries[number].records for number in numbers if number < taken_over),
            labels={name: labels[name] for name in self.added.label_names},
        )


def _ordered(values: Sequence[Any], order: Sequence[int | None]) -> tuple[Any, ...]:
    return tuple(None if place is None else values[place] for place in order)


def quarantine_path(out: Path) -> Path:
    """Return where the broken lines of an output's sources are listed."""
    return out.with_name(f"{out.name}.quarantine.csv")


def make_outputs(targets: Sequence[Target], added: Added) -> list[Output]:
    """Return the outputs of the targets, in order."""
    outputs: list[Output] = []
    for target in targets:
        columns = (*target.kept, *added.names)
        chosen = choose(target.out.suffix.lower(), columns, partial(output_schema, target, added))
        outputs.append(Output(target, outputs[-1].end if outputs else 0, chosen, added))
    return outputs
