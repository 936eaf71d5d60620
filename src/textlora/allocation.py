"""How glibc's allocator treats the memory of dead tensors: keeps it for the next, or gives it back.

Elsewhere than on Linux, and with another C library, these functions do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable

from textlora import hardware

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
MOST_MAPPINGS = 65_536
# Where freed memory is given back, tensors of so many bytes are mapped one by one.
MAPPED = 1 << 20
KEEP = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER))
GIVE_BACK = ((M_MMAP_MAX, MOST_MAPPINGS), (M_MMAP_THRESHOLD, MAPPED), (M_TRIM_THRESHOLD, MAPPED))


def keep_freed_memory() -> None:
    """Have freed memory kept for the next tensor.

    By default every large tensor is mapped and unmapped anew, and the kernel clears each of its
    pages on first touch. In training that was tens of thousands of page faults a step; keeping the
    memory halved the time (``docs/log.md``).

    Under ``ulimit -v`` or ``-d`` it is given back all the same: kept memory splinters, and what lies
    free between the splinters counts against the limit without being of use.
    """
    _set(GIVE_BACK if hardware.process_limits() else KEEP)


def return_freed_memory() -> None:
    """Have the free parts of the heap given to the system, now and from now on."""
    _set(GIVE_BACK)
    trim()


def trim() -> None:
    """Give the pages that lie free in the heap to the system, once."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(options: Iterable[tuple[int, int]]) -> None:
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options:
            mallopt(option, value)
