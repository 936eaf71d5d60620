"""Connected components that grow by pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Forest:
    """Disjoint sets of places; the smallest place of a set stands for it.

    Args:
        parents: (N,) a place of the same set that is no larger, or itself; else all are alone.
    """

    def __init__(self, count: int, parents: NDArray[np.int32] | None = None) -> None:
        self._parents = np.arange(count, dtype=np.int32) if parents is None else parents

    def roots(self, places: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        """Return what stands for the sets of some places (P,), or of all."""
        found = self._parents if places is None else self._parents[places]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                break
            found = above
        # Later looks are shorter.
        self._parents[slice(None) if places is None else places] = found
        return found

    def unite(self, pairs: NDArray[np.int64]) -> None:
        """Join the sets of each pair of places (P, 2)."""
        while len(pairs):
            one, other = self.roots(pairs[:, 0]), self.roots(pairs[:, 1])
            apart = one != other
            pairs, one, other = pairs[apart], one[apart], other[apart]
            np.minimum.at(self._parents, np.maximum(one, other), np.minimum(one, other))
