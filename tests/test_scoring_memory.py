"""Memory does not grow with the file: hundreds of megabytes through a process that may not hold them."""

from __future__ import annotations

import gzip
import subprocess
import sys

import pytest

from tests.test_scoring_resume import LIGHT, REAL

SCORE = """
from pathlib import Path
from textlora.scoring import score_file
scored = score_file(classifier, Path(sys.argv[1]), Path(sys.argv[2])).scored
from textlora import hardware
print(hardware.peak_memory_gb(), scored)
"""
SENTENCE = "the film was a good story with lovely acting and the plot was not very dull but fine "


def rows(megabytes, sentences):
    """A file's lines: reviews of some sentences, each of them different."""
    text = SENTENCE * sentences
    yield "id,review,note\n"
    for number in range(int(megabytes * 1e6 / len(text))):
        yield f"{number},{number} {text},x\n"


def peak_mb(kind, folder, source, out, *, limit_mb):
    """Score in a process that may hold so much data; return its peak of resident memory and the rows scored."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({limit_mb} << 20,) * 2)\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + kind + SCORE, str(source), str(out), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, scored = done.stdout.split()
    return 1000 * float(peak), int(scored)


@pytest.mark.slow
@pytest.mark.parametrize(("packed", "suffix"), [(False, ".csv"), (True, ".parquet")])
def test_many_rows(toy_run, tmp_path, packed, suffix):
    source = tmp_path / ("in.csv.gz" if packed else "in.csv")
    written = 0
    with gzip.open(source, "wt", compresslevel=1) if packed else source.open("w") as stream:
        for line in rows(400, 10):
            stream.write(line)
            written += 1
    peak, scored = peak_mb(LIGHT, toy_run.folder, source, tmp_path / f"out{suffix}", limit_mb=600)
    assert scored == written - 1
    assert peak < 400


@pytest.mark.slow
def test_long_rows_with_a_real_model(toy_run, tmp_path):
    """2,048 of these would take 400 MB as text alone, and more as rows, tokens and output."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"review": "{number} {SENTENCE * 2_400}"}}\n' for number in range(1_500)))
    peak, scored = peak_mb(REAL, toy_run.folder, source, tmp_path / "out.csv", limit_mb=3_000)
    assert scored == 1_500
    assert peak < 1_500
