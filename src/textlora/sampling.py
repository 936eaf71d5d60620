"""Class-balanced sampling: every class is drawn equally often in an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class BalancedSampler:
    """Row numbers of an epoch in which the classes are equally frequent.

    As many rows as there are. A class larger than its share gives a random part of its rows, another
    one in each epoch; a smaller one goes through all of its rows several times, so that no row is
    drawn more than once oftener than another of its class. Epochs follow from the seed and their
    number alone, as a resume needs.

    Args:
        labels: class of each row (N,).
        seed: same seed, same epochs.
    """

    def __init__(self, labels: Sequence[int] | NDArray[np.int64], seed: int) -> None:
        classes = np.asarray(labels, np.int64)
        self._members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
        self._rows = len(classes)
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return the rows of an epoch."""
        return self._rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the epoch's row numbers in random order."""
        random = np.random.default_rng((self._seed, self._epoch))
        # What does not divide goes to the first classes of a random order.
        sizes = np.full(len(self._members), self._rows // len(self._members))
        sizes[random.permutation(len(sizes))[: self._rows - sizes.sum()]] += 1
        drawn = [_cycled(members, size, random) for members, size in zip(self._members, sizes.tolist(), strict=True)]
        yield from random.permutation(np.concatenate(drawn)).tolist()


def _cycled(members: NDArray[np.intp], size: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Return ``size`` rows, going through ``members`` in a new random order each time around."""
    rounds = -(-size // len(members))
    return np.concatenate([random.permutation(members) for _ in range(rounds)])[:size]
