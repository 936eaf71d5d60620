"""Texts as pieces of token ids on disk: read once, cleaned, equal ones dropped, nothing of a long text lost.

    texts ──blocks──▶ ids.bin (all texts end to end) ──equal texts dropped──▶ pieces: start, length, held out or not

A text longer than a piece gives as many pieces as it takes, of equal length but for a token; a piece is never
of two texts. Some texts are held out whole. Memory: 24 bytes a text and 17 a piece, beside the block in hand.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import checks, storage
from textlora.adaptation.nouns import Corpus
from textlora.adaptation.settings import AdaptationSettings
from textlora.adaptation.sources import Source, given_names
from textlora.errors import DataError
from textlora.tokenization import TextTokenizer, TokenIds

IDS, PIECES, INDEX = "ids.bin", "pieces.npz", "corpus.json"
# Raise it when the same texts would be written in another way.
VERSION = 1
BLOCK_TEXTS, BLOCK_CHARACTERS = 1_000, 4_000_000
MOST_HELD_OUT = 1_000
LEAST_TEXTS = 2
DIGEST = 16
Progress = Callable[[str, int, int, str], None]


class Pieces(Sequence[TokenIds]):
    """Pieces (T,) with their special tokens, read from the file when they are asked for.

    Args:
        path: ids of all texts, end to end, without special tokens.
        dtype: how an id is written.
        spans: start and length of each piece, (N, 2).
        specials: special tokens before and after a piece.
    """

    def __init__(
        self, path: Path, dtype: str, spans: NDArray[np.int64], specials: tuple[Sequence[int], Sequence[int]]
    ) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._spans = spans
        self._before, self._after = (np.array(ids, np.int32) for ids in specials)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> TokenIds:  # type: ignore[override]
        """Return the ids (T,) of a piece."""
        start, length = (int(value) for value in self._spans[index])
        own = np.fromfile(self._path, self._dtype, count=length, offset=start * self._dtype.itemsize)
        return np.concatenate([self._before, own.astype(np.int32), self._after])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each piece, special ones included, (N,)."""
        return self._spans[:, 1] + len(self._before) + len(self._after)


@dataclass(frozen=True)
class OpenCorpus:
    """A corpus on disk: its facts, the pieces to train on, those held out."""

    facts: Corpus
    train: Pieces
    held_out: Pieces


def open_or_build(
    folder: Path,
    sources: Sequence[Source],
    tokenizer: TextTokenizer,
    settings: AdaptationSettings,
    *,
    progress: Progress,
) -> OpenCorpus:
    """Return the corpus in ``folder`` if it was made of the same texts in the same way, or make it.

    Args:
        folder: written whole or not at all.
        sources: read once, in order.
        tokenizer: its policy's ``max_length`` is the longest piece.
        settings: how texts are cleaned, cut and held out.
        progress: called with stage, texts done, texts in all or 0, and a note.

    Raises:
        DataError: fewer than two different texts, or too many broken rows in a source.
        ResourceError: the disk is full or the folder cannot be written.
    """
    key = _key(sources, tokenizer, settings)
    known = _read(folder, tokenizer) if key else None
    if known and known[1] == key:
        return known[0]
    with storage.atomic_folder(folder) as temporary:
        _build(temporary, sources, tokenizer, settings, key, progress)
    made = _read(folder, tokenizer)
    if made is None:
        raise DataError(f"{folder} was changed while it was written.", hint="Run the same command again.")
    return made[0]


def _key(sources: Sequence[Source], tokenizer: TextTokenizer, settings: AdaptationSettings) -> str:
    """Return what the corpus is made of, or ``""`` where a source cannot tell whether it is the same."""
    keys = [source.key for source in sources]
    if None in keys:
        return ""
    return storage.fingerprint([_way(tokenizer, settings), *(key for key in keys if key)])


def _way(tokenizer: TextTokenizer, settings: AdaptationSettings) -> str:
    """Return what decides how texts become pieces."""
    way = (VERSION, settings.seed, settings.data.clean_html, settings.data.validation_share)
    return f"{way!r} {tokenizer.fingerprint}"


@dataclass
class _Rows:
    """What is known of the texts read so far: digests end to end and tokens, and the rows that gave none."""

    digests: bytearray
    lengths: array[int]
    read: int = 0
    without_text: int = 0
    broken: int = 0


def _build(  # noqa: PLR0917 - where, from what, how, and what to call it
    folder: Path,
    sources: Sequence[Source],
    tokenizer: TextTokenizer,
    settings: AdaptationSettings,
    key: str,
    progress: Progress,
) -> None:
    rows = _Rows(bytearray(), array("q"))
    dtype = "<u2" if tokenizer.largest_id < 1 << 16 else "<u4"
    with (folder / IDS).open("wb") as stream:
        for block in _blocks(_texts(sources, settings, rows, progress)):
            for text, ids in zip(block, tokenizer.whole(block), strict=True):
                rows.digests += hashlib.blake2b(text.encode("utf-8"), digest_size=DIGEST).digest()
                rows.lengths.append(len(ids))
                stream.write(np.array(ids, dtype).tobytes())
    digests = np.frombuffer(rows.digests, np.dtype((np.void, DIGEST)))
    kept = np.sort(np.unique(digests, return_index=True)[1])
    lengths = np.frombuffer(rows.lengths, np.int64)
    starts = np.cumsum(lengths) - lengths
    kept = kept[lengths[kept] > 0]
    if len(kept) < LEAST_TEXTS:
        raise DataError(
            f"{len(kept)} different text{'' if len(kept) == 1 else 's'} in {', '.join(given_names(sources))}; at "
            f"least {LEAST_TEXTS} are needed, since some are held out.",
            problems=_accounts(rows, len(kept)),
        )
    room = tokenizer.max_length - tokenizer.specials
    spans, owners = _cut(starts[kept], lengths[kept], room)
    held = _held_out(owners, len(kept), settings)
    digest = storage.fingerprint([_way(tokenizer, settings), digests[kept].tobytes()])
    sizes = _sizes(spans[:, 1] + tokenizer.specials, held, owners)
    np.savez(folder / PIECES, spans=spans, held=held)
    document = {"key": key, "dtype": dtype, "facts": {**_facts(rows, sources, owners), **sizes, "fingerprint": digest}}
    (folder / INDEX).write_text(json.dumps(document), encoding="utf-8")


def _accounts(rows: _Rows, kept: int) -> list[str]:
    counts = {
        "rows read": rows.read, "without a text": rows.without_text, "broken": rows.broken,
        "equal to one before": len(rows.lengths) - kept,
    }  # fmt: skip
    return [f"{name}: {count:,}" for name, count in counts.items()]


def _texts(sources: Sequence[Source], settings: AdaptationSettings, rows: _Rows, progress: Progress) -> Iterator[str]:
    """Yield the cleaned texts; what is no text is counted."""
    for place, source in enumerate(sources):
        before, faults = rows.read, rows.broken
        for found in source.read():
            rows.read += 1
            if rows.read % BLOCK_TEXTS == 0:
                progress("read", rows.read, _expected(rows.read, place, source.share(), len(sources)), "")
            text = "" if found is None else checks.clean_text(found, markup=settings.data.clean_html)
            rows.broken += found is None
            rows.without_text += found is not None and not text
            if text:
                yield text
        _refuse_broken(source, rows.read - before, rows.broken - faults, settings.data.max_quarantined_share)
    progress("read", rows.read, rows.read, "")


def _expected(read: int, place: int, share: float, sources: int) -> int:
    """Return how many rows there will be, as if all sources were of one size; 0 where that is not known."""
    done = (place + share) / sources
    return round(read / done) if 0 < share < 1 else 0


def _refuse_broken(source: Source, read: int, broken: int, limit: float) -> None:
    if broken > limit * read:
        raise DataError(
            f"{broken:,} of {read:,} rows of {source.name} are broken ({broken / read:.0%}), more than the {limit:.0%} that are "
            "tolerated: the file itself is suspect.",
            hint=f"Mend the file, or go on without the broken rows: --set data.max_quarantined_share={min(1.0, broken / read + 0.01):.2f}",
        )


def _blocks(texts: Iterator[str]) -> Iterator[list[str]]:
    """Yield lists of texts that are tokenized together."""
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text)
        characters += len(text)
        if len(block) >= BLOCK_TEXTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _cut(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return start and length of every piece, (P, 2), and the text that it is of, (P,)."""
    counts = -(-lengths // room)
    owners = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The i-th of k equal shares of n tokens begins at n i / k.
    begin, end = (lengths[owners] * (number + more) // counts[owners] for more in (0, 1))
    return np.stack([starts[owners] + begin, end - begin], axis=1), owners


def _held_out(owners: NDArray[np.int64], texts: int, settings: AdaptationSettings) -> NDArray[np.bool_]:
    """Return which pieces (P,) belong to held-out texts: drawn with the seed, whole texts, at least one."""
    counts = np.bincount(owners, minlength=texts)
    target = min(MOST_HELD_OUT, settings.data.validation_share * len(owners))
    order = np.random.default_rng([settings.seed, 1]).permutation(texts)
    chosen, taken = [], 0
    for text in order.tolist():
        if taken + counts[text] <= target:
            chosen.append(text)
            taken += counts[text]
        if taken + 1 > target:
            break
    # Fewer texts than that, or none short enough: the shortest.
    return np.isin(owners, chosen or [order[np.argmin(counts[order])]])


def _facts(rows: _Rows, sources: Sequence[Source], owners: NDArray[np.int64]) -> dict[str, Any]:
    """Return the accounts of the rows."""
    texts = int(owners[-1]) + 1
    empty = rows.lengths.count(0)
    return {
        "sources": given_names(sources),
        "read": rows.read,
        "texts": texts,
        "duplicates": len(rows.lengths) - empty - texts,
        "without_text": rows.without_text + empty,
        "broken": rows.broken,
        "long_texts": int((np.bincount(owners) > 1).sum()),
        "only_training_splits": all(source.prepared for source in sources),
    }


def _sizes(tokens: NDArray[np.int64], held: NDArray[np.bool_], owners: NDArray[np.int64]) -> dict[str, int]:
    """Return the sizes of both parts; ``tokens`` are those of each piece (P,)."""
    return {
        "pieces": int((~held).sum()),
        "tokens": int(tokens[~held].sum()),
        "held_out": int(held.sum()),
        "held_out_texts": len(np.unique(owners[held])),
        "held_out_tokens": int(tokens[held].sum()),
    }


def _read(folder: Path, tokenizer: TextTokenizer) -> tuple[OpenCorpus, str] | None:
    """Return the corpus in a folder and what it was made of, or None without a whole one."""
    try:
        document = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        with np.load(folder / PIECES) as arrays:
            spans, held = arrays["spans"], arrays["held"]
        facts = Corpus(**{**document["facts"], "sources": tuple(document["facts"]["sources"])})
        dtype = document["dtype"]
        size = (folder / IDS).stat().st_size
        if size < spans.sum(axis=1).max() * np.dtype(dtype).itemsize:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    parts = [Pieces(folder / IDS, dtype, spans[which], tokenizer.special_ids) for which in (~held, held)]
    return OpenCorpus(facts, *parts), document["key"]


def first_pieces(pieces: Pieces, count: int) -> list[TokenIds]:
    """Return some pieces, evenly spread, to measure on."""
    step = max(1, len(pieces) // count)
    return [pieces[place] for place in itertools.islice(range(0, len(pieces), step), count)]
