"""Which tokens are to be guessed, and what stands in their place.

As in BERT (Devlin et al. 2019, arXiv 1810.04805, section 3.1): 15 % of the tokens are chosen; of these 80 %
become the mask, 10 % a random word, 10 % stay. The choice is drawn anew whenever a piece is seen (as in RoBERTa),
from a seed that follows from the step, so that a resumed training meets the same masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textlora.tokenization import TokenIds

MASKED, REPLACED = 0.8, 0.1


@dataclass(frozen=True, slots=True)
class MaskedPiece:
    """A piece with tokens to be guessed.

    Attributes:
        ids: what the model sees, (T,).
        places: the tokens to be guessed, (M,) in order; may be empty.
        words: what stood there, (M,).
    """

    ids: TokenIds
    places: NDArray[np.int64]
    words: TokenIds


@dataclass(frozen=True, slots=True)
class Masking:
    """How pieces are masked.

    Attributes:
        probability: share of the tokens to be guessed.
        mask_id: id of the mask.
        special_ids: ids that are never to be guessed.
        vocabulary: random words are drawn from ids below this.
    """

    probability: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocabulary: int

    def mask_all(self, pieces: Sequence[TokenIds], seed: Sequence[int]) -> list[MaskedPiece]:
        """Return the pieces with masks that follow from the seed and the pieces before them."""
        draw = np.random.default_rng(list(seed))
        return [self.mask(ids, draw) for ids in pieces]

    def mask(self, ids: TokenIds, draw: np.random.Generator) -> MaskedPiece:
        """Return a piece (T,) with masks drawn from a generator."""
        chosen = (draw.random(len(ids)) < self.probability) & ~np.isin(ids, self.special_ids)
        places = np.flatnonzero(chosen)
        fate, other = draw.random(len(places)), draw.integers(self.vocabulary, size=len(places))
        words = ids[places]
        seen = ids.copy()
        seen[places] = np.where(fate < MASKED, self.mask_id, np.where(fate < MASKED + REPLACED, other, words))
        return MaskedPiece(seen, places, words)
