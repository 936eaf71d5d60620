"""How long the texts are, in tokens of a base model."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from textlora import checks
from textlora.preparation.ledger import Ledger
from textlora.preparation.rows import Rows
from textlora.settings import TextSettings
from textlora.types import DatasetInfo, Finding, TokenLengths
from textlora.windows import QUANTILES, LengthPolicy, loss, tally, usual_overlap

HISTOGRAM_BIN = 32

_BATCH = 1_024


class TokenCounter(Protocol):
    """Counts tokens as a base model's tokenizer makes them, special ones included, uncut."""

    @property
    def base_model(self) -> str:
        """Whose tokenizer it is."""

    @property
    def max_length(self) -> int:
        """The encoder's limit in tokens."""

    def count(self, texts: Sequence[str], /) -> Sequence[int]:
        """Return the number of tokens of each text."""


def measure(info: DatasetInfo, rows: Rows, counter: TokenCounter | None, ledger: Ledger) -> DatasetInfo:
    """Add how long the texts of the kept rows are in tokens."""
    if counter is None:
        return info
    total = int((rows.reasons == 0).sum())
    counts = array("i")
    texts = _texts(rows)
    while block := list(itertools.islice(texts, _BATCH)):
        counts.extend(counter.count(block))
        ledger.progress("count tokens", len(counts), total)
    lengths = _token_lengths(np.frombuffer(counts, np.int32), counter)
    found = (checks.length_finding(lengths, total), *_windows_finding(lengths, total))
    return replace(info, token_lengths=lengths, findings=(*info.findings, *found))


def _windows_finding(lengths: TokenLengths, rows: int) -> tuple[Finding, ...]:
    """Say what would be different with windows, where texts are cut."""
    if not lengths.rows_cut:
        return ()
    length, usual = lengths.max_length, TextSettings().max_windows
    policy = LengthPolicy("windows", length, window_overlap=usual_overlap(length), max_windows=usual)
    found = loss(policy, lengths, rows=rows)
    lost = f"{found.rows:,} would be cut, {found.token_share:.1%} of all text" if found.rows else "none would be cut"
    more = found.mean_computed / lengths.mean_cut
    message = (
        f"With text.policy=windows (up to {usual} of {length} tokens) {lost}, for {more:.2f} times the computation."
    )
    return (Finding("windows", "info", message, found.rows),)


def _texts(rows: Rows) -> Iterator[str]:
    for _, block in rows.spill.chosen(rows.reasons == 0):
        for text in block["text"].to_pylist():
            yield text.decode()


def _token_lengths(counts: NDArray[np.int32], counter: TokenCounter) -> TokenLengths:
    cut = np.minimum(counts, counter.max_length)
    # Twice the limit: enough to see the tail, and the same bins for all data of one encoder.
    bins = max(1, 2 * counter.max_length // HISTOGRAM_BIN)
    histogram = np.bincount(np.minimum(counts // HISTOGRAM_BIN, bins - 1), minlength=bins)
    return TokenLengths(
        base_model=counter.base_model,
        max_length=counter.max_length,
        quantiles=tuple(int(value) for value in np.quantile(counts, QUANTILES, method="inverted_cdf")),
        mean=float(counts.mean()),
        mean_cut=float(cut.mean()),
        rows_cut=int((counts > counter.max_length).sum()),
        tokens_cut_share=float(1 - cut.sum() / max(1, counts.sum())),
        histogram=tuple(int(value) for value in histogram),
        rows_by_tokens=tally(counts),
    )
