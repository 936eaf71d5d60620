"""What an engine promises: windows to logits, and how texts are best put together for it."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import storage
from textlora.batching import micro_batches, padded_tokens

Lengths = NDArray[np.int64]
Logits = NDArray[np.float64]
Ids = NDArray[np.int32]


class Engine(ABC):
    """Computes logits; knows nothing of texts, labels and probabilities.

    Attributes:
        model: what computes them, in the library's own terms.
        max_length: tokens of a window at most, special ones included.
    """

    model: Any
    max_length: int

    @property
    @abstractmethod
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""

    @property
    @abstractmethod
    def usual_tokens(self) -> int:
        """Tokens of a micro-batch that suit the device."""

    @abstractmethod
    def logits(self, windows: Sequence[Ids]) -> Logits:
        """Return the head's outputs (W, C) for the ids (T,) of each window, in one forward pass."""

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files that the weights were read from, where these are whole."""

    def weights(self) -> Iterable[str | bytes]:
        """Yield all that makes these weights different from others."""
        return (storage.file_fingerprint(file) for file in self.files)

    def save(self, folder: Path) -> None:
        """Write the weights into an existing folder, in the form that they were loaded from."""
        for file in self.files:
            shutil.copyfile(file, folder / file.name)

    def cut(self, lengths: Lengths, budget: int) -> list[list[int]]:
        """Cut texts with these lengths (N,) into micro-batches of at most ``budget`` tokens, the longest first."""
        return micro_batches(lengths, budget, limit=self.max_length)

    def tokens(self, lengths: Lengths) -> int:
        """Return the tokens that a micro-batch of texts with these lengths takes, padding counted."""
        return padded_tokens(lengths, self.max_length)

    def together(self, pieces: Sequence[Callable[[], Logits]]) -> Iterator[Logits]:
        """Yield the results of independent forward passes, in order; side by side where that is faster."""
        return (piece() for piece in pieces)

    def ready(self) -> AbstractContextManager[None]:
        """Set up what the whole process has to compute with while inside."""
        return nullcontext()
