"""Clocks, interleaved rounds, medians: what every benchmark measures with.

Legs that are compared take turns round by round in one process, so that whatever else the machine
does meets all of them. What counts is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

# What a ratio compares. Processor time is the fairer one on a machine that others use too.
CLOCKS = ("cpu", "wall")


@dataclass(frozen=True)
class Cost:
    """What some work has cost.

    Attributes:
        cpu: processor time of all threads, in seconds.
        wall: time on the wall, in seconds.
        items: how many reviews (or whatever was worked on) that was.
    """

    cpu: float
    wall: float
    items: int = 1

    def each(self, clock: str) -> float:
        """Return the seconds per item."""
        return float(getattr(self, clock)) / self.items


class Watch:
    """Processor and wall time of this process between ``start`` and ``stop``; may run several times."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self._started = (0.0, 0.0)

    def start(self) -> None:
        """Start, or go on."""
        self._started = (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        """Add what has passed since the last start."""
        self.cpu += time.process_time() - self._started[0]
        self.wall += time.perf_counter() - self._started[1]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run while inside."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def cost(self, items: int = 1) -> Cost:
        """Return what was measured, for so many items."""
        return Cost(self.cpu, self.wall, items)


Leg = Callable[[int], Cost]


def interleave(legs: Mapping[str, Leg], rounds: int) -> dict[str, list[Cost]]:
    """Run every leg once a round; each round starts with another leg.

    Args:
        legs: by name; called with the number of the round, which may choose the inputs.
        rounds: how many.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in legs}
    names = list(legs)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            cost = legs[name](number)
            costs[name].append(cost)
            tell(
                f"  round {number + 1}/{rounds}  {name:<14} {1000 * cost.each('cpu'):9.2f} ms of processor time, "
                f"{1000 * cost.each('wall'):9.2f} ms of wall time each ({cost.items})"
            )
    return costs


def middle(costs: Sequence[Cost], clock: str) -> float:
    """Return the median over the rounds of the seconds per item."""
    return median(cost.each(clock) for cost in costs)


def ratio(costs: Mapping[str, Sequence[Cost]], slow: str, fast: str, clock: str = "cpu") -> float:
    """Return how many times as fast ``fast`` is as ``slow``."""
    return middle(costs[slow], clock) / middle(costs[fast], clock)


def summary(costs: Mapping[str, Sequence[Cost]]) -> dict[str, Any]:
    """Return medians in milliseconds per item, and every round's raw values."""
    return {
        name: {
            **{f"{clock}_ms": round(1000 * middle(found, clock), 4) for clock in CLOCKS},
            "rounds": [asdict(cost) for cost in found],
        }
        for name, found in costs.items()
    }


def tell(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


@dataclass(frozen=True)
class Child:
    """A finished child process: its cost and what it printed; its peak of memory it knows best itself."""

    cost: Cost
    output: str

    @property
    def answer(self) -> Any:
        """The JSON value in its last line."""
        return json.loads(self.output.strip().splitlines()[-1])


def run_child(command: Sequence[str]) -> Child:
    """Run a command in a process of its own and wait for it.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        # wait4 alone tells the time of this child and not of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said = [_all_of(stream) for stream in (output, errors)]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said[1][-2000:]}")
    return Child(Cost(usage.ru_utime + usage.ru_stime, wall), said[0])


def _all_of(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()
