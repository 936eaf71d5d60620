"""Limits on real runs: memory under a control group of that size, time by the clock, disk by what was written."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "movie_reviews.csv"
SETTINGS = (
    "--base-model", "embedded", "--set", "training.batch_size=16", "--set", "training.epochs=1",
    "--set", "data.near_duplicates=0",
)  # fmt: skip
CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
# What a group may hold: version 1, version 2.
LIMIT_FILES = ("memory.limit_in_bytes", "memory.max")
PEAK_FILES = ("memory.max_usage_in_bytes", "memory.peak")


class Group:
    """A control group of this system with a limit on memory."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        (limited,) = (folder / name for name in LIMIT_FILES if (folder / name).exists())
        limited.write_text(str(limit))
        self._peak = next(folder / name for name in PEAK_FILES if (folder / name).exists())

    @property
    def peak_gb(self) -> float:
        """The most that the group's processes have held together, page cache included."""
        return int(self._peak.read_text()) / 1e9

    def enter(self) -> None:
        """Move the calling process in; for ``preexec_fn``."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture
def group() -> Iterator[Callable[[float], Group]]:
    """Makes a control group with a limit in GB; skips where this process may not."""
    made: list[Path] = []

    def make(limit_gb: float) -> Group:
        for root in CGROUPS:
            folder = root / f"textlora-test-{secrets.token_hex(4)}"
            try:
                folder.mkdir()
                made.append(folder)
                return Group(folder, int(limit_gb * 1e9))
            except (OSError, ValueError, StopIteration):
                continue
        pytest.skip("no control group with a limit on memory can be made here")

    yield make
    for folder in made:
        folder.rmdir()


def fit(out: Path, *options: str, inside: Group | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``textlora fit`` in a process of its own, under a limit if there is one."""
    return subprocess.run(
        [sys.executable, "-m", "textlora", "fit", str(EXAMPLE), "--out", str(out), *SETTINGS, *options],
        preexec_fn=inside.enter if inside else None, capture_output=True, text=True, check=False,
    )  # fmt: skip


def planned(out: Path, name: str) -> str:
    found = re.search(rf"^{name} = (\S+)", (out / "plan.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.9, 1.6, 1.45])
def test_a_training_ends_within_the_memory_it_was_allowed(tmp_path, group, limit):
    inside = group(limit)
    done = fit(tmp_path / "run", "--memory-limit", f"{limit}GB", inside=inside)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["memory_events"] == []
    assert run["peak_memory_gb"] < limit
    assert inside.peak_gb <= limit
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_trained(tmp_path, group):
    done = fit(tmp_path / "run", "--memory-limit", "1GB", inside=group(1.0))
    assert done.returncode == 4
    assert "This training cannot be done with memory below 1 GB." in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_time_limit_is_kept(tmp_path):
    whole = fit(tmp_path / "whole", "--set", "training.epochs=6")
    assert whole.returncode == 0, whole.stderr
    began = time.monotonic()
    done = fit(tmp_path / "run", "--time-limit", "2m")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_a_disk_limit_is_kept(tmp_path):
    done = fit(tmp_path / "run", "--disk-limit", "50MB")
    assert done.returncode == 0, done.stderr
    written = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert written < 50e6
