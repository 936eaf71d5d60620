"""Texts as sets of character 5-grams, hashed; capitals, punctuation and white space do not count.

Characters and not words: they serve languages without spaces as well, and a typo costs a few of
them rather than a whole word.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
"""Characters of an n-gram."""

_SPACE = 32
_BASIC_PLANE = 1 << 16
# Odd, so that multiplying loses nothing; digits of the golden ratio and of square roots.
_FACTORS = tuple(
    np.uint64(factor)
    for factor in (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1, 0x510E527FADE682D1)
)


@dataclass(frozen=True, slots=True)
class Shingles:
    """The hashed n-grams of N texts laid end to end, repetitions included.

    Attributes:
        hashes: (S,) 64 well-mixed bits each.
        starts: (N + 1,) where each text begins; no text is empty.
    """

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many n-grams each text has (N,)."""
        return np.diff(self.starts)


def shingle(texts: Sequence[str]) -> Shingles:
    """Return the n-grams of texts without line breaks.

    Texts are compared in the compatibility form of Unicode (NFKC) without capitals; whatever is no
    letter, digit or symbol divides words. Every word counts with a space before it. A text shorter
    than an n-gram is one of its own, and so is one of punctuation alone.
    """
    if not texts:
        return Shingles(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    characters, starts = _normalised(texts)
    windows = np.maximum(np.diff(starts) - (SHINGLE - 1), 1)
    begins = np.concatenate([[0], np.cumsum(windows)])
    # Every window's first character: n-grams never reach into the next text.
    places = np.arange(begins[-1]) + np.repeat(starts[:-1] - begins[:-1], windows)
    short = np.flatnonzero(np.diff(starts) < SHINGLE)
    hashes = mix(_windows(characters)[places])
    hashes[begins[short]] = [_short_hash(characters[starts[n] : starts[n + 1]], texts[n]) for n in short.tolist()]
    return Shingles(hashes, begins)


def _normalised(texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the characters of all texts that count, one space before each word, and where the texts begin."""
    joined = unicodedata.normalize("NFKC", "\n" + "\n".join(texts)).casefold()
    codes: NDArray[Any]
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
        words = _counts()[codes]
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        words = (codes >= _BASIC_PLANE) | _counts()[np.minimum(codes, _BASIC_PLANE - 1)]
    kept = words.copy()
    kept[:-1] |= words[1:]
    begins = np.flatnonzero(codes == ord("\n"))
    before = np.concatenate([[0], np.cumsum(kept)])
    starts = np.append(before[begins], before[-1])
    return np.where(words, codes, np.uint8(_SPACE))[kept], starts


@cache
def _counts() -> NDArray[np.bool_]:
    """Return which characters of Unicode's first plane are part of a word (65536,): all but punctuation, space, control."""
    return np.array([unicodedata.category(chr(code))[0] not in "PZC" for code in range(_BASIC_PLANE)])


def _windows(characters: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a number for the n-gram that begins at each character (L,); the last few are cut short."""
    found = np.zeros(len(characters) + 1, np.uint64)
    for place, factor in enumerate(_FACTORS):
        later = characters[place:]
        found[: len(later)] += later.astype(np.uint64) * factor
    return found


def _short_hash(characters: NDArray[Any], text: str) -> int:
    """Return the hash of a text that has no whole n-gram."""
    content = characters.astype(np.uint32).tobytes() or text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers (S,) whose bits all depend on all bits of the given ones.

    Source: the finaliser of SplitMix64; Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
