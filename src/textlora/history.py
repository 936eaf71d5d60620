"""``history.jsonl``: what training logged, line by line, and the losses in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.types import MemoryEvent

# Marks the lines that tell of a halved micro-batch.
SHORTAGE = "out of memory"


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one of Trainer's log entries.

    Raises:
        ResourceError: the file cannot be written.
    """
    with storage.disk_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def append_shortage(path: Path, event: MemoryEvent) -> None:
    """Add that memory ran out."""
    append(path, {"event": SHORTAGE, **asdict(event)})


def read_until(path: Path, step: int) -> tuple[list[dict[str, float]], list[MemoryEvent]]:
    """Return the entries up to ``step`` and the memory events, and cut the file to them.

    Events from after the step stay: the memory is as small when its steps are taken again.
    """
    entries, events, kept = [], [], []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # a line cut short by a kill
            continue
        if entry.pop("event", None) == SHORTAGE:
            events.append(MemoryEvent(**entry))
        elif entry["step"] <= step:
            entries.append(entry)
        else:
            continue
        kept.append(line)
    storage.write_text(path, "".join(line + "\n" for line in kept))
    return entries, events


def _losses(history: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """Return (steps covered, mean loss over them) of each training entry."""
    covered: list[tuple[float, float]] = []
    before = 0.0
    for entry in history:
        if "loss" in entry:
            covered.append((entry["step"] - before, entry["loss"]))
            before = entry["step"]
    return covered


def _weighted(parts: list[tuple[float, float]], *, fallback: float) -> float:
    steps = sum(weight for weight, _ in parts)
    return sum(weight * loss for weight, loss in parts) / steps if steps else fallback


def mean_loss(history: Sequence[Mapping[str, float]], *, fallback: float) -> float:
    """Return the mean training loss over all steps, or ``fallback`` where none was logged."""
    return _weighted(_losses(history), fallback=fallback)


def final_loss(history: Sequence[Mapping[str, float]], *, fallback: float) -> float:
    """Return the mean training loss over the last tenth of the steps, at least one entry."""
    parts = _losses(history)
    last = max(1, len(parts) // 10)
    return _weighted(parts[-last:], fallback=fallback)
