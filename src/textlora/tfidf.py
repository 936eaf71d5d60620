"""The linear model on word counts that a classifier is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STRENGTHS = (1.0, 4.0, 16.0)
"""Inverse regularisation strengths that the baseline may choose from."""


def vectorized(texts: Sequence[str]) -> tuple[Any, Any]:
    """Return a vectorizer and its matrix (N, terms): terms that occur in two texts or more; in tiny data all terms.

    Words and word pairs. The matrix is None where the texts hold no words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    for least in (2, 1):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=least)
        try:
            return vectorizer, vectorizer.fit_transform(texts)
        except ValueError:  # no term is left
            continue
    return None, None


def logistic(strength: float) -> Any:
    """Return an unfitted logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)
