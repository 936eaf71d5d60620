"""Killed scoring goes on where it was, and writes what an undisturbed run would have written."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from textlora.classifier import Classifier
from textlora.errors import TextloraWarning, UsageError
from textlora.scoring import blocks, score_file
from textlora.scoring.shards import MANIFEST, open_shards

WORDS = ["good", "bad", "dull", "fine", "film", "plot", "story", "lovely", "awful", "boring"]


@pytest.fixture(scope="module")
def classifier(toy_run):
    return Classifier.from_pretrained(toy_run.folder, device="cpu")


def write(path, rows, *, seed=1):
    """A CSV file of short reviews, every 50th line broken."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("id,review\n")
        for number in range(rows):
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
            stream.write(f"{number},{text}\n" if number % 50 else f"{number}\n")
    return path


def shards_of(out):
    return out.with_name(f".{out.name}.textlora-parts")


class _Stopped(Exception):
    pass


def stop_after(count):
    """A progress callback that fails after so many blocks, as a full disk or a Ctrl-C would."""
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) > count:
            raise _Stopped

    return progress


def interrupted(classifier, source, out, after, **options):
    with pytest.raises(_Stopped):
        score_file(classifier, source, out, progress=stop_after(after), **options)


class _Counting:
    """The classifier, and how many texts it was asked for."""

    def __init__(self, classifier):
        self.inner, self.texts = classifier, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def predict(self, texts):
        self.texts += len(texts)
        return self.inner.predict(texts)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", 100)


class TestResume:
    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
    def test_only_the_rest_is_predicted_and_the_bytes_are_the_same(self, classifier, tmp_path, suffix):
        source, whole, out = write(tmp_path / "in.csv", 1_000), tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
        undisturbed = score_file(classifier, source, whole)
        interrupted(classifier, source, out, 4)
        assert not out.exists()
        assert not (tmp_path / f"out{suffix}.quarantine.csv").exists()
        counting, seen = _Counting(classifier), []
        scored = score_file(counting, source, out, progress=lambda done, total: seen.append((done, total)))
        assert (counting.texts, scored.resumed) == (588, 400)
        assert seen[0] == (400, 1_000)
        assert seen[-1] == (1_000, 1_000)
        assert out.read_bytes() == whole.read_bytes()
        assert scored.quarantine.read_bytes() == undisturbed.quarantine.read_bytes()
        assert (scored.scored, scored.quarantined, scored.labels) == (
            undisturbed.scored, undisturbed.quarantined, undisturbed.labels,
        )  # fmt: skip
        assert not shards_of(out).exists()

    def test_a_torn_line_and_a_lost_shard_are_done_again(self, classifier, tmp_path):
        source, whole, out = write(tmp_path / "in.csv", 1_000), tmp_path / "whole.csv", tmp_path / "out.csv"
        score_file(classifier, source, whole)
        interrupted(classifier, source, out, 6)
        manifest = shards_of(out) / MANIFEST
        manifest.write_bytes(manifest.read_bytes()[:-20])
        (shards_of(out) / "00000003.csv").write_text("half a")
        counting = _Counting(classifier)
        assert score_file(counting, source, out).resumed == 300
        assert counting.texts == 686
        assert out.read_bytes() == whole.read_bytes()

    def test_killed_after_the_output_was_written(self, classifier, tmp_path):
        """The output is whole and the shards are still there: nothing is predicted again."""
        source, out = write(tmp_path / "in.csv", 500), tmp_path / "out.csv"
        interrupted(classifier, source, out, 5)
        counting = _Counting(classifier)
        assert score_file(counting, source, out).resumed == 500
        assert counting.texts == 0
        assert out.exists()

    def test_two_at_once(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 100), tmp_path / "out.csv"
        with open_shards(shards_of(out), {}), pytest.raises(UsageError) as error:
            score_file(classifier, source, out)
        assert str(error.value) == (
            "Another textlora is writing the same output.\nWait for it, or choose another --out."
        )


class TestChanges:
    """What was done counts only as far as everything that it came from is still the same."""

    def test_a_changed_source(self, classifier, tmp_path):
        source, whole, out = write(tmp_path / "in.csv", 1_000), tmp_path / "whole.csv", tmp_path / "out.csv"
        interrupted(classifier, source, out, 6)
        lines = source.read_text().splitlines(keepends=True)
        lines[350] = "349,dull dull dull\n"
        source.write_text("".join(lines))
        with pytest.warns(
            TextloraWarning, match=r"in\.csv has changed since an earlier call; 300 rows of it still count"
        ):
            assert score_file(classifier, source, out).resumed == 300
        assert out.read_bytes() == (score_file(classifier, source, whole), whole.read_bytes())[1]

    def test_a_source_that_grew(self, classifier, tmp_path):
        source, whole, out = write(tmp_path / "in.csv", 250), tmp_path / "whole.csv", tmp_path / "out.csv"
        interrupted(classifier, source, out, 3)
        write(source, 600)
        with pytest.warns(TextloraWarning, match="200 rows of it still count"):
            score_file(classifier, source, out)
        score_file(classifier, source, whole)
        assert out.read_bytes() == whole.read_bytes()

    def test_a_shorter_source(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 600), tmp_path / "out.csv"
        interrupted(classifier, source, out, 5)
        write(source, 200)
        with pytest.warns(TextloraWarning, match="The files are others since an earlier call; 200 rows"):
            assert score_file(classifier, source, out).scored == 196
        assert len(out.read_text().splitlines()) == 197

    def test_another_option(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 600), tmp_path / "out.csv"
        interrupted(classifier, source, out, 3)
        with pytest.warns(TextloraWarning, match=r"How .*in\.csv is read or written has changed"):
            scored = score_file(classifier, source, out, text="id")
        assert (scored.text_column, scored.resumed) == ("id", 0)

    def test_another_model(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 600), tmp_path / "out.csv"
        interrupted(classifier, source, out, 3)
        other = _Counting(classifier)
        other.fingerprint = "another"
        with pytest.warns(TextloraWarning, match="made with another model and is not used: all rows are scored"):
            assert score_file(other, source, out).resumed == 0
        assert other.texts == 588

    def test_another_model_that_does_not_come_to_work_loses_nothing(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 600), tmp_path / "out.csv"
        interrupted(classifier, source, out, 3)
        other = _Counting(classifier)
        other.fingerprint = "another"
        with pytest.warns(TextloraWarning, match="another model"):
            interrupted(other, source, out, 0)
        assert score_file(classifier, source, out).resumed == 300

    def test_another_version(self, classifier, tmp_path):
        source, out = write(tmp_path / "in.csv", 600), tmp_path / "out.csv"
        interrupted(classifier, source, out, 3)
        manifest = shards_of(out) / MANIFEST
        head, *lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join([json.dumps({**json.loads(head), "textlora": "0.0.1"}) + "\n", *lines]))
        with pytest.warns(TextloraWarning, match="made with another version"):
            assert score_file(classifier, source, out).resumed == 0


REAL = """
import sys
from textlora.classifier import Classifier
classifier = Classifier.from_pretrained(sys.argv[3], device="cpu")
"""
# Loads in no time, so that kills are many: a text's probability is a digest of it.
LIGHT = """
import hashlib, sys
from types import SimpleNamespace
from textlora.types import Prediction

def answer(text):
    share = hashlib.sha256(text.encode()).digest()[0] / 255
    return Prediction("positive", share, {"negative": 1 - share, "positive": share})

classifier = SimpleNamespace(
    bundle=SimpleNamespace(task="single_label", abstention=None, text_column="review"), fingerprint="light",
    label_names=("negative", "positive"), predict=lambda texts: [answer(text) for text in texts],
)
"""
RUN = """
from pathlib import Path
from textlora.scoring import blocks, score_file
blocks.ROWS = 100
score_file(classifier, Path(sys.argv[1]), Path(sys.argv[2]), progress=lambda *now: print(*now, flush=True))
"""


def child(kind, source, out, folder):
    return subprocess.Popen(
        [sys.executable, "-c", kind + RUN, str(source), str(out), str(folder)], stdout=subprocess.PIPE, text=True
    )


def kill_at_random(draw, process, seconds):
    """Kill a process between its first word and ``seconds`` later; return whether it was still alive."""
    process.stdout.readline()
    try:
        process.wait(draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    process.stdout.close()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kind", "kills", "rows", "suffix"),
    [
        pytest.param(LIGHT, 4, 8_000, ".csv", id="4 kills"),
        pytest.param(REAL, 20, 40_000, ".csv", marks=pytest.mark.slow, id="20 kills, CSV"),
        pytest.param(REAL, 20, 40_000, ".parquet", marks=pytest.mark.slow, id="20 kills, Parquet"),
    ],
)
def test_kill_9_at_random_moments(toy_run, tmp_path, kind, kills, rows, suffix):
    source, whole, out = write(tmp_path / "in.csv", rows), tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    undisturbed = child(kind, source, whole, toy_run.folder)
    undisturbed.stdout.readline()
    start = time.monotonic()
    undisturbed.stdout.read()
    # Sometimes it is quicker than its killer: then the next one starts anew, over the old output.
    span, draw, struck, finished = time.monotonic() - start, random.Random(kills), 0, 0
    while struck < kills:
        # With what has been done before, less is left to do.
        alive = kill_at_random(draw, child(kind, source, out, toy_run.folder), span / 4)
        struck, finished = struck + alive, finished + (not alive)
    last = child(kind, source, out, toy_run.folder)
    last.stdout.read()
    assert (last.wait(), undisturbed.wait()) == (0, 0)
    assert out.read_bytes() == whole.read_bytes()
    listed = [path.with_name(f"{path.name}.quarantine.csv") for path in (out, whole)]
    assert listed[0].read_bytes() == listed[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (source, whole, out, *listed)}, (
        f"finished early {finished} times"
    )
