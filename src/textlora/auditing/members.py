"""What the linear classifiers of an audit see of a text: its words, and what a frozen encoder makes of it.

Letters in shapes: N rows, n some of them, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textlora import storage, tfidf
from textlora.errors import ResourceError

WORDS_CHARACTERS = 64_000_000
"""Characters of texts whose words are counted at most; a vocabulary of word pairs takes 14 bytes for each."""
STATE_STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Inverse regularisation strengths for standardised states: there are about as many features as rows."""


class Member(Protocol):
    """A way to see texts that a linear classifier can learn from."""

    name: str
    strengths: Sequence[float]

    def rows(self, places: NDArray[np.intp]) -> Any:
        """Return the features of some rows (n, F)."""

    def classifier(self, strength: float) -> Any:
        """Return an unfitted classifier of scikit-learn."""


class Words:
    """Words and word pairs, weighted by TF-IDF.

    Args:
        matrix: (N, F), sparse.
    """

    name = "words"
    strengths: Sequence[float] = tfidf.STRENGTHS

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words | None:
        """Count the words of all texts; None where there are none, or too many to hold."""
        if sum(map(len, texts)) > WORDS_CHARACTERS:
            return None
        matrix = tfidf.vectorized(texts)[1]
        return None if matrix is None else cls(matrix)

    def rows(self, places: NDArray[np.intp]) -> Any:
        """Return the features of some rows (n, F)."""
        return self._matrix[places]

    def classifier(self, strength: float) -> Any:
        """Return an unfitted logistic regression."""
        return tfidf.logistic(strength)


class States:
    """Mean hidden states, in a file that is filled block by block; a stopped audit goes on where it was.

    Args:
        folder: holds the file; made when missing.
        count: N.
        width: F.
    """

    name = "hidden states"
    strengths: Sequence[float] = STATE_STRENGTHS

    def __init__(self, folder: Path, count: int, width: int) -> None:
        self._shape = (count, width)
        self._file = storage.make_folder(folder) / "states.bin"
        self._marker = folder / "done"

    @property
    def done(self) -> int:
        """How many rows, from the first one, are there."""
        try:
            done = int(self._marker.read_text(encoding="utf-8"))
            return done if self._file.stat().st_size >= 4 * done * self._shape[1] else 0
        except (OSError, ValueError):
            return 0

    def append(self, states: NDArray[np.float32]) -> None:
        """Add the states of the next rows (n, F).

        Raises:
            ResourceError: the disk is full.
        """
        done = self.done
        with storage.disk_errors(self._file):
            with self._file.open("r+b" if done else "wb") as stream:
                stream.seek(4 * done * self._shape[1])
                stream.write(np.ascontiguousarray(states, np.float32).tobytes())
                stream.truncate()
            storage.write_text(self._marker, str(done + len(states)))

    def rows(self, places: NDArray[np.intp] | slice, width: int = 0) -> NDArray[np.float32]:
        """Return the features of some rows (n, F), or the last ``width`` of them."""
        return np.array(np.memmap(self._file, np.float32, "r", shape=self._shape)[places, -width:])

    def classifier(self, strength: float) -> Any:
        """Return an unfitted logistic regression on standardised features."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), tfidf.logistic(strength))


def check_disk(folder: Path, count: int, width: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        ResourceError: says how much is needed and how much there is.
    """
    from textlora import hardware

    needed, free = 4 * count * width / 1e9, hardware.free_disk_gb(folder)
    if needed > free:
        raise ResourceError(
            f"The hidden states of {count:,} rows take {needed:.1f} GB of disk, and {folder} has {free:.1f} GB free.",
            hint="Free some space, choose a folder on another disk with --out, or audit a part: --set data.sample=0.1",
        )
