"""Data larger than memory: what is held while files are read, and what a kill leaves behind."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from textlora.errors import UsageError
from textlora.preparation import load_dataset, prepare

LABELS = ("negative", "positive")
MEGABYTE = 10**6


def write_reviews(path: Path, megabytes: int, *, words: int = 240) -> int:
    """Write a CSV of different texts in natural proportions of frequent and rare words; return the rows."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words_known = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(30_000)]
    frequencies = [1 / (rank + 5) for rank in range(len(words_known))]
    phrases = [" ".join(draw.choices(words_known, frequencies, k=20)) for _ in range(5_000)]
    rows = written = 0
    with path.open("w", encoding="utf-8") as stream:
        stream.write("review,sentiment\n")
        while written < megabytes * MEGABYTE:
            block = "".join(
                f"{row} {'. '.join(draw.choices(phrases, k=words // 20))},{LABELS[row % 2]}\n"
                for row in range(rows, rows + 1_000)
            )
            written += stream.write(block)
            rows += 1_000
    return rows


MEASURE = """
import json, re, sys, time
from pathlib import Path

from textlora.preparation import load_dataset, prepare

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

source, small, out = map(Path, sys.argv[1:])
prepare(small, out=out / "small")  # all that is imported and kept once
before, start = peak(), time.perf_counter()
dataset = prepare(source, out=out / "large")
seconds = time.perf_counter() - start
ids = sum(1 for _ in load_dataset(out / "large").train.ids)
characters = sum(map(len, dataset.train.texts))
print(json.dumps({"kept": dataset.info.counts.kept, "ids": ids, "characters": characters,
                  "before": before, "peak": peak(), "seconds": seconds}))
"""


def measure(tmp_path: Path, megabytes: int) -> dict[str, float]:
    """Prepare a file of a size in a process of its own and go through its rows; return what that took."""
    source, small = tmp_path / "reviews.csv", tmp_path / "small.csv"
    rows = write_reviews(source, megabytes)
    small.write_text("review,sentiment\n" + "".join(f"text number {n},{LABELS[n % 2]}\n" for n in range(40)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, small, tmp_path], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    assert found["kept"] == rows
    assert found["ids"] == round(0.8 * rows)
    assert found["characters"] > 0.75 * megabytes * MEGABYTE
    return found


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@linux
def test_memory_does_not_grow_with_the_file(tmp_path):
    """In memory as Python strings, the texts alone would take more than is allowed here."""
    found = measure(tmp_path, 120)
    assert found["peak"] - found["before"] < 100 * MEGABYTE


@linux
@pytest.mark.slow
def test_two_gigabytes(tmp_path):
    if shutil.disk_usage(tmp_path).free < 7_000 * MEGABYTE:
        pytest.skip("needs 7 GB of disk")
    found = measure(tmp_path, 2_000)
    print(found)  # noqa: T201 - the figures for docs/log.md
    assert found["peak"] < 1_500 * MEGABYTE
    assert found["peak"] - found["before"] < 400 * MEGABYTE


STALL = textwrap.dedent(
    """
    import sys, time
    from textlora.preparation import prepare

    def stall(stage, done, total):
        if stage == sys.argv[3]:
            print("there", flush=True)
            time.sleep(60)

    prepare(sys.argv[1], out=sys.argv[2], progress=stall)
    """
)


def kill_during(stage: str, source: Path, out: Path) -> None:
    """Start to prepare, and kill the process when it has come to a stage."""
    process = subprocess.Popen([sys.executable, "-c", STALL, source, out, stage], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture
def source(tmp_path):
    write_reviews(tmp_path / "reviews.csv", 15)
    return tmp_path / "reviews.csv"


def test_a_kill_leaves_no_half_written_split(tmp_path, source):
    out = tmp_path / "run"
    kill_during("write", source, out)
    (leftover,) = out.iterdir()
    assert leftover.name.startswith(".train-")
    with pytest.raises(UsageError, match=r"dataset\.json does not exist"):
        load_dataset(out)
    dataset = prepare(source, out=out)
    assert load_dataset(out) == dataset
    assert not leftover.exists(), "the next preparation clears it away"


def test_a_kill_while_reading_leaves_the_folder_as_it_was(tmp_path, source):
    out = tmp_path / "run"
    small = tmp_path / "small.csv"
    small.write_text("review,sentiment\n" + "".join(f"text number {n},{LABELS[n % 2]}\n" for n in range(40)))
    prepare(small, out=out)
    before = {item.name: item.read_bytes() for item in out.iterdir()}
    kill_during("read", source, out)
    assert {item.name: item.read_bytes() for item in out.iterdir()} == before
