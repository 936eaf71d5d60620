"""Everything that can go wrong for a user: message, exit code, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.test_cli import TINY, call
from textlora import api, planning, reporting
from textlora.progress import Reporter

ROWS = [
    f"{word} film number {number},{label}"
    for number in range(40)
    for word, label in (("good", "positive"), ("bad", "negative"))
]


def write(folder: Path, *lines: str, name: str = "data.csv") -> Path:
    """Write a CSV with the usual header."""
    path = folder / name
    path.write_text("\n".join(["review,sentiment", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def fit(tiny_model, tmp_path):
    """Call ``fit`` on a path with the tiny model, into ``tmp_path/run``."""

    def run(path: Path, *options: object, out: Path | None = None):
        return call("fit", path, "--base-model", tiny_model, "--out", out or tmp_path / "run", *TINY, *options)

    return run


class TestData:
    def test_missing_file(self, fit, tmp_path):
        result = fit(tmp_path / "none.csv")
        assert result.code == 3
        assert f"{tmp_path / 'none.csv'} does not exist" in result.err

    def test_empty_file(self, fit, tmp_path):
        path = tmp_path / "empty.csv"
        path.touch()
        result = fit(path)
        assert result.code == 3
        assert f"{path} is empty" in result.err

    def test_header_only(self, fit, tmp_path):
        result = fit(write(tmp_path))
        assert result.code == 3
        assert "no rows" in result.err

    def test_one_class(self, fit, tmp_path):
        result = fit(write(tmp_path, *(f"film {number},positive" for number in range(30))))
        assert result.code == 3
        assert "'positive'" in result.err
        assert not (tmp_path / "run" / "dataset.json").exists()

    def test_wrong_column(self, fit, tmp_path):
        result = fit(write(tmp_path, *ROWS), "--text", "reviews")
        assert result.code == 2
        assert "'reviews'" in result.err
        assert "Did you mean 'review'?" in result.err

    def test_latin_1_bytes(self, fit, tmp_path):
        path = tmp_path / "latin.csv"
        path.write_bytes(b"review,sentiment\n" + "\n".join([*ROWS, "tr\xe8s bon film,positive"]).encode("latin-1"))
        result = fit(path)
        assert result.code == 3
        assert f"line {len(ROWS) + 2}" in result.err
        assert "--encoding latin-1" in result.err
        assert fit(path, "--encoding", "latin-1").code == 0

    def test_nul_bytes_are_set_aside_and_the_run_goes_on(self, fit, tmp_path):
        path = write(tmp_path, *ROWS, "a \0 film,positive")
        result = fit(path)
        assert result.code == 0, result.err
        assert "nul" in (tmp_path / "run" / "quarantine.csv").read_text(encoding="utf-8").lower()

    def test_unclosed_quote_costs_one_line(self, fit, tmp_path):
        path = write(tmp_path, *ROWS[:20], '"never closed,positive', *ROWS[20:])
        result = fit(path)
        assert result.code == 0, result.err
        assert "81 rows read = 80 kept + 1 set aside" in result.out

    def test_30_percent_ragged_rows_stop(self, fit, tmp_path):
        ragged = [row + ",extra" if number % 10 < 3 else row for number, row in enumerate(ROWS)]
        result = fit(write(tmp_path, *ragged))
        assert result.code == 3
        assert "24 of 80" in result.err
        assert "data.max_quarantined_share" in result.err

    def test_50_mb_cell_is_set_aside(self, fit, tmp_path):
        path = write(tmp_path, *ROWS, "x" * 50_000_000 + ",positive")
        result = fit(path)
        assert result.code == 0, result.err
        assert "81 rows read = 80 kept + 1 set aside" in result.out
        assert (tmp_path / "run" / "quarantine.csv").stat().st_size < 1_000_000

    def test_all_rows_duplicates(self, fit, tmp_path):
        result = fit(write(tmp_path, *["the same film,positive"] * 50))
        assert result.code == 3
        assert "duplicate" in result.err

    def test_label_seen_once(self, fit, tmp_path):
        result = fit(write(tmp_path, *ROWS, "who can say,undecided"))
        assert result.code == 3
        assert "'undecided'" in result.err
        assert "line 82" in result.err


class TestEnvironment:
    def test_unwritable_folder(self, fit, tmp_path):
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        result = fit(write(tmp_path, *ROWS), out=tmp_path / "file" / "run")
        assert result.code == 4
        assert result.err == (
            f"error: {tmp_path / 'file' / 'run'} cannot be made: a file of that name is in the way.\n"
            "Choose another folder with --out.\n"
        )

    @pytest.mark.parametrize("size", ["8k", "64k", "120k"], ids=["while preparing", "while training", "later"])
    def test_full_disk(self, fit, tmp_path, size):
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("only root can make a small disk")
        try:
            result = fit(write(tmp_path, *ROWS), out=small / "run")
            assert result.code == 4
            assert "The disk is full" in result.err
            assert not [path for path in small.rglob(".*") if path.name != ".write"]
            for path in small.rglob("*.json"):
                json.loads(path.read_text(encoding="utf-8"))  # whole files or none
        finally:
            subprocess.run(["umount", small], check=True)

    def test_unknown_base_model_offline(self, tmp_path):
        result = call("fit", write(tmp_path, *ROWS), "--base-model", "nobody/no-such-model", "--out", tmp_path / "run")
        assert result.code == 4
        assert result.err.endswith(
            "error: The base model 'nobody/no-such-model' is not in the local cache, and the hub cannot be reached.\n"
            "Connect to the network once to download it. Or use the model that comes with textlora: --base-model embedded\n"
        )

    def test_unknown_setting(self, fit, tmp_path):
        result = fit(write(tmp_path, *ROWS), "--set", "lora.rank=3")
        assert result.code == 2
        assert "There is no setting 'lora.rank'. Did you mean 'lora.r'?" in result.err


class TestFolders:
    def test_plan_of_another_dataset(self, fit, tmp_path, tiny_model):
        one, other = tmp_path / "one", tmp_path / "other"
        for folder, rows in ((one, ROWS), (other, ROWS[:60])):
            folder.mkdir()
            assert call("prepare", write(folder, *rows), "--base-model", tiny_model, "--out", folder / "run").code == 0
            assert call("plan", folder / "run", "--base-model", tiny_model, *TINY).code == 0
        shutil.copy(one / "run" / "plan.toml", other / "run" / "plan.toml")
        result = call("train", other / "run")
        assert result.code == 2
        assert "plan.toml" in result.err
        assert "dataset.json" in result.err

    def test_run_folder_of_another_version(self, toy_run, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(toy_run.folder, run)
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        document["schema"]["version"] = 99
        (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
        result = call("report", run)
        assert result.code == 2
        assert result.err == (
            f"error: {run / 'run.json'} has schema version 99; this textlora reads version 1.\nUpdate textlora.\n"
        )

    def test_stage_without_its_predecessor(self, tmp_path):
        result = call("train", tmp_path)
        assert result.code == 2
        assert (
            result.err
            == f"error: {tmp_path / 'dataset.json'} does not exist.\n`textlora prepare` writes it: run that first.\n"
        )


def interrupt_at(monkeypatch, stage: str, number: signal.Signals) -> None:
    """Send ourselves a real signal once, when ``stage`` is under way."""
    sent: list[str] = []

    def strike(now: str) -> None:
        if now == stage and not sent:
            sent.append(now)
            os.kill(os.getpid(), number)

    progress = Reporter.__call__
    monkeypatch.setattr(Reporter, "__call__", lambda self, name, *rest: (strike(name), progress(self, name, *rest))[1])
    for name, owner, function in (("plan", planning, "plan"), ("report", reporting, "report")):
        real = getattr(owner, function)
        monkeypatch.setattr(owner, function, lambda *a, _name=name, _real=real, **k: (strike(_name), _real(*a, **k))[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    "stage", ["count tokens", "plan", "tokenize train", "train", "check reload", "evaluate", "report"]
)
def test_interrupted_in_each_stage_and_the_next_call_goes_on(stage, number, fit, toy_csv, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, stage, number)
    stopped = fit(toy_csv)
    assert stopped.code == 128 + number
    assert "Stopped by" in stopped.err
    steps = len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) if stage == "train" else 0
    finished = fit(toy_csv)
    assert finished.code == 0, finished.err
    assert (tmp_path / "run" / "report.html").exists()
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) >= steps


def test_an_interrupted_training_ends_as_an_undisturbed_one(fit, toy_csv, tmp_path, monkeypatch):
    assert fit(toy_csv, out=tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, "train", signal.SIGINT)
        assert fit(toy_csv, out=tmp_path / "stopped").code == 130
    assert fit(toy_csv, out=tmp_path / "stopped").code == 0
    name = Path("adapter") / "adapter_model.safetensors"
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_random_bytes_never_end_in_a_traceback(tmp_path):
    draw = random.Random(11)
    for number in range(30):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(b"review,sentiment\n" + draw.randbytes(draw.randint(1, 3000)))
        assert call("prepare", path, "--out", tmp_path / "out").code in (2, 3)


def test_clear_deletes_only_what_textlora_wrote(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run.folder, run)
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    api.clear(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
