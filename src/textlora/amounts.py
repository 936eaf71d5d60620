"""Sizes and times as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable

from textlora.errors import UsageError

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|MB|G|M)", re.IGNORECASE)
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)


def gigabytes(text: str) -> float | None:
    """Read a size such as ``4GB`` or ``500MB``; None for anything else."""
    match = SIZE.fullmatch(text.strip())
    return float(match[1]) / (1000 if match[2].upper().startswith("M") else 1) if match else None


def minutes(text: str) -> float | None:
    """Read a time such as ``20m`` or ``1h30m``; None for anything else."""
    match = DURATION.fullmatch(text.strip().replace(" ", ""))
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 60 * hours + minutes + seconds / 60


# option: setting, how it is read, what is expected
LIMITS: dict[str, tuple[str, Callable[[str], float | None], str]] = {
    "--memory-limit": ("limits.memory_gb", gigabytes, "a size such as 4GB or 500MB"),
    "--time-limit": ("limits.minutes", minutes, "a time such as 20m or 1h30m"),
    "--disk-limit": ("limits.disk_gb", gigabytes, "a size such as 4GB or 500MB"),
}


def limits(*texts: str | None) -> dict[str, float]:
    """Return the limits, in the order of ``LIMITS``, as settings; all wrong ones in one error."""
    found: dict[str, float] = {}
    wrong = []
    for (option, (name, read, expected)), text in zip(LIMITS.items(), texts, strict=True):
        if text is None:
            continue
        if value := read(text):
            found[name] = value
        else:
            wrong.append(f"{option} is {text!r}, expected {expected}")
    if wrong:
        raise UsageError("Cannot read the limits:", problems=wrong)
    return found
