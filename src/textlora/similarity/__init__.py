"""Near-duplicates: which texts are alike, by the share of their character 5-grams.

    texts -> shingles: sets of hashed 5-grams -> sketches: MinHash signatures, hashed in bands
                                                    -> buckets: pairs that share a band
    pairs -> shingles again -> comparing: their true Jaccard similarity

Numpy only; texts come and go in blocks, and ``preparation`` decides where they wait meanwhile.
"""

from __future__ import annotations

from textlora.similarity.buckets import candidate_pairs
from textlora.similarity.comparing import Sets, jaccard
from textlora.similarity.forest import Forest
from textlora.similarity.shingles import SHINGLE, Shingles, shingle
from textlora.similarity.sketches import Banding, banding, content_hashes, sketch

__all__ = [
    "SHINGLE",
    "Banding",
    "Forest",
    "Sets",
    "Shingles",
    "banding",
    "candidate_pairs",
    "content_hashes",
    "jaccard",
    "shingle",
    "sketch",
]
