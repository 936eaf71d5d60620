"""What a result must say about where it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from textlora import hardware, storage

LIBRARIES = ("textlora", "torch", "transformers", "peft", "accelerate", "tokenizers", "onnxruntime", "onnx")


def facts() -> dict[str, Any]:
    """Return processor, versions, commit and date."""
    import torch

    machine = hardware.describe_machine(storage.cache_folder())
    return {
        "processor": machine.processor,
        "cores": machine.cores,
        "threads": torch.get_num_threads(),
        "features": list(machine.features),
        "memory_gb": round(machine.memory_gb, 1),
        "rates_gflops": {name: round(rate, 1) for name, rate in machine.rates.items()},
        "platform": machine.platform,
        # Above the number of cores, others were computing too.
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """Return the short hash of the sources' commit, with ``+`` if they were changed since, or ``""``."""
    root = Path(__file__).parents[1]
    # Results are what a benchmark writes itself.
    changed = ["git", "diff", "--quiet", "HEAD", "--", "src", "benchmarks/*.py"]
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=root
        )
        dirty = subprocess.run(changed, check=False, cwd=root).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip() + ("+" if dirty else "")
