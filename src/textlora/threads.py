"""Work on a processor: one core for each piece, instead of all cores for every single operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(work: Sequence[Callable[[], Result]], *, on: str) -> Iterator[Result]:
    """Yield the results of ``work`` in order; on a CPU as many pieces run at once as torch has threads.

    Cores that share one operation wait for each other at its end, thousands of times in a forward
    pass; a piece of work for each needs them to meet only once. Each piece runs on one thread, so
    that its result does not depend on what runs beside it.

    Args:
        work: independent pieces, the longest first.
        on: the device that computes; on ``cuda`` and ``mps`` the pieces run one after the other.
    """
    threads = torch.get_num_threads()
    if on != "cpu" or threads == 1 or len(work) == 1:
        for piece in work:
            yield piece()
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(_call, work)
    finally:
        pool.shutdown(cancel_futures=True)
        # The number is each thread's own, but new threads take over the one that was set last.
        torch.set_num_threads(threads)


def _call(piece: Callable[[], Result]) -> Result:
    return piece()
