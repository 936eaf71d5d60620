"""The copy of a run elsewhere: whole at any moment, never in training's way, and enough to go on from."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.test_checkpoints import DAMAGES, make
from tests.test_cli import call
from tests.test_training import adapter, entries, equal, stop_at
from textlora import api, checkpoints, preparation, training
from textlora.backup import Backup
from textlora.classifier import Classifier
from textlora.errors import Interrupted, ResourceError, TextloraWarning, UsageError

pytestmark = pytest.mark.usefixtures("fast_reload")


@pytest.fixture
def run(toy_run, tmp_path):
    """A run folder with data and plan, ready to be trained."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("dataset.json", "train.parquet", "validation.parquet", "test.parquet", "quarantine.csv", "plan.toml"):
        shutil.copy(toy_run.folder / name, folder / name)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pages(folder):
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def stop(folder, backup, step, **options):
    with pytest.raises(Interrupted):
        api.train_folder(folder, backup=backup, progress=stop_at(step), **options)


class TestTraining:
    def test_token_ids_are_left_out(self, run, tmp_path):
        stop(run, tmp_path / "backup", 6)
        assert (run / "tokens").exists()
        assert not (tmp_path / "backup" / "tokens").exists()

    def test_the_copy_is_a_run_folder_like_the_first(self, run, tmp_path, toy_run):
        backup = tmp_path / "backup"
        with warnings.catch_warnings():
            warnings.simplefilter("error", TextloraWarning)
            api.train_folder(run, backup=backup)
        assert files(backup) == files(run)
        assert equal(adapter(backup), adapter(toy_run.folder))
        assert training.load_run(backup).folder == backup
        assert preparation.load_dataset(backup).fingerprint == toy_run.dataset.fingerprint
        assert Classifier.from_pretrained(backup, device="cpu").predict(["a good film"])

    @pytest.mark.parametrize("step", [5, 15])
    def test_a_lost_run_folder_ends_as_an_undisturbed_one(self, run, tmp_path, toy_run, step):
        backup = tmp_path / "backup"
        stop(run, backup, step)
        run.rename(tmp_path / "lost")
        seen = []
        progress = lambda stage, done, total, note: seen.append(done) if stage == "train" else None  # noqa: E731
        api.train_folder(run, backup=backup, resume=True, progress=progress)
        assert seen[0] == step + 1
        assert equal(adapter(run), adapter(toy_run.folder))
        assert [entry["step"] for entry in entries(run) if "loss" in entry] == list(range(1, 25))
        assert files(backup) == files(run)

    def test_a_damaged_checkpoint_of_the_copy_gives_way_to_the_one_before(self, run, tmp_path, toy_run):
        backup = tmp_path / "backup"
        stop(run, backup, 15)
        shutil.rmtree(run)
        DAMAGES["truncated"](backup / "checkpoints" / "checkpoint-15")
        api.train_folder(run, backup=backup, resume=True)
        assert equal(adapter(run), adapter(toy_run.folder))

    def test_the_run_folder_is_kept_when_it_is_further_on(self, run, tmp_path):
        backup = tmp_path / "backup"
        stop(run, backup, 5)
        stop(run, None, 9, resume=True)
        seen = []
        api.train_folder(
            run, backup=backup, resume=True,
            progress=lambda stage, done, total, note: seen.append(done) if stage == "train" else None,
        )  # fmt: skip
        assert seen[0] == 10


class TestFit:
    @pytest.fixture
    def fit(self, toy_csv, tiny_model, tmp_path):
        quick = ("training.epochs=2", "training.batch_size=16", "compute.precision=fp32", "text.max_length=32")
        options = [part for setting in quick for part in ("--set", setting)]
        return lambda *more: call(
            "fit", toy_csv, "--base-model", tiny_model, "--out", tmp_path / "run", "--backup", tmp_path / "backup",
            *options, *more,
        )  # fmt: skip

    @pytest.fixture
    def stopped(self, fit, monkeypatch):
        """A call that was stopped in its eighth of twelve steps."""
        with monkeypatch.context() as patch:
            strike = stop_at(8)
            from textlora import progress

            patch.setattr(
                progress.Reporter, "__call__", lambda _, stage, done, total, note="": strike(stage, done, total, note)
            )
            assert fit().code == 143

    def test_the_same_call_goes_on_on_another_machine(self, fit, stopped, tmp_path):
        shutil.rmtree(tmp_path / "run")
        result = fit()
        assert result.code == 0, result.err
        history = entries(tmp_path / "run")
        assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, 13))
        assert files(tmp_path / "backup") == files(tmp_path / "run")
        # And once more, when all is finished.
        shutil.rmtree(tmp_path / "run")
        assert fit().code == 0
        assert entries(tmp_path / "run") == history

    def test_a_plan_made_anew_gives_way_to_the_one_that_training_began_with(self, fit, stopped, tmp_path):
        for path in (tmp_path / "run" / "checkpoints", tmp_path / "run" / "history.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        plan, began = tmp_path / "run" / "plan.toml", tmp_path / "backup" / "plan.toml"
        text = plan.read_text(encoding="utf-8")
        assert "tokens_per_micro_batch = 2560" in text
        plan.write_text(text.replace("tokens_per_micro_batch = 2560", "tokens_per_micro_batch = 512"), encoding="utf-8")
        assert fit().code == 0
        assert plan.read_bytes() == began.read_bytes()

    def test_an_edit_before_anything_was_trained_counts(self, fit, stopped, tmp_path):
        for folder in (tmp_path / "run", tmp_path / "backup"):
            shutil.rmtree(folder / "checkpoints")
        plan = tmp_path / "run" / "plan.toml"
        plan.write_text(plan.read_text(encoding="utf-8").replace("epochs = 2", "epochs = 1"), encoding="utf-8")
        assert fit().code == 0
        assert training.load_run(tmp_path / "run").epochs == 1

    def test_overwrite_replaces_both(self, fit, stopped, tmp_path):
        assert fit("--overwrite", "--set", "training.epochs=1").code == 0
        assert training.load_run(tmp_path / "backup").epochs == 1


class TestRefusals:
    def test_another_plan(self, run, tmp_path, toy_run):
        make(tmp_path / "backup" / "checkpoints", 7)
        with pytest.raises(UsageError) as error:
            api.train_folder(run, backup=tmp_path / "backup")
        assert str(error.value) == (
            f"{tmp_path / 'backup' / 'checkpoints' / 'checkpoint-7'} is of another plan.\n"
            "Choose another folder with --backup."
        )

    def test_other_data(self, run, tmp_path):
        backup = tmp_path / "backup"
        backup.mkdir()
        (backup / "dataset.json").write_text('{"fingerprint": "another"}')
        with pytest.raises(UsageError) as error:
            api.train_folder(run, backup=backup)
        assert str(error.value) == f"{backup} holds a run on other data.\nChoose another folder with --backup."

    def test_the_same_training_is_not_thrown_away_for_want_of_resume(self, run, tmp_path):
        backup = tmp_path / "backup"
        stop(run, backup, 5)
        before = files(backup)
        with pytest.raises(UsageError) as error:
            api.train_folder(run, backup=backup)
        assert str(error.value) == (
            f"{backup} holds this training up to step 5.\n"
            "Go on from there with --resume. To start anew: choose another folder with --backup."
        )
        assert files(backup) == before

    @pytest.mark.parametrize("inner", ["run", "run/backup", "."])
    def test_one_in_the_other(self, tmp_path, inner):
        with pytest.raises(UsageError) as error:
            Backup(tmp_path / inner, tmp_path / "run")
        assert str(error.value) == (
            f"The backup {tmp_path / inner} and the run folder {tmp_path / 'run'} lie in each other.\n"
            "Choose another folder with --backup, best on another disk."
        )


class TestFailures:
    def test_a_folder_that_cannot_be_written_costs_one_warning(self, run, tmp_path, toy_run):
        (tmp_path / "file").write_text("in the way")
        backup = tmp_path / "file" / "backup"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            api.train_folder(run, backup=backup)
        assert equal(adapter(run), adapter(toy_run.folder))
        assert [str(warning.message) for warning in caught if warning.category is TextloraWarning] == [
            f"The backup could not be written: {backup} cannot be made: a file of that name is in the way. "
            f"Training goes on without it; what is in {backup} already is whole."
        ]

    def test_the_command_line_says_it_in_one_line(self, run, tmp_path):
        (tmp_path / "file").write_text("in the way")
        result = call("train", run, "--backup", tmp_path / "file" / "x")
        assert result.code == 0
        assert result.err.count("warning: The backup could not be written") == 1
        assert "backup.py" not in result.err

    def test_a_full_disk(self, run, tmp_path, toy_run):
        small = tmp_path / "small"
        small.mkdir()
        # Room for the files and the first checkpoint, not for the second.
        room = pages(run) + pages(toy_run.folder / "checkpoints" / "checkpoint-12") * 3 // 2
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", small], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("only root can make a small disk")
        try:
            with pytest.warns(TextloraWarning, match="The disk is full") as caught:
                api.train_folder(run, backup=small / "backup")
            assert len([warning for warning in caught if warning.category is TextloraWarning]) == 1
            assert equal(adapter(run), adapter(toy_run.folder))
            assert preparation.load_dataset(small / "backup").fingerprint == toy_run.dataset.fingerprint
            assert checkpoints.read(small / "backup" / "checkpoints" / "checkpoint-12")
            assert names(small / "backup" / "checkpoints") == ["checkpoint-12"]
            assert not list((small / "backup").rglob(".*"))
        finally:
            subprocess.run(["umount", small], check=True)

    def test_the_old_ones_stay_until_the_new_one_is_whole(self, tmp_path, monkeypatch):
        run, backup = tmp_path / "run", tmp_path / "backup"
        for step in (10, 20):
            make(run / "checkpoints", step)
        copy = Backup(backup, run)
        copy.save_checkpoints()
        make(run / "checkpoints", 30)
        shutil.rmtree(run / "checkpoints" / "checkpoint-10")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"otherwise"))
            with pytest.warns(TextloraWarning, match="what was written reads back otherwise"):
                copy.save_checkpoints()
        assert names(copy.checkpoint_root) == ["checkpoint-10", "checkpoint-20"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copy.save_checkpoints()
        assert names(copy.checkpoint_root) == ["checkpoint-20", "checkpoint-30"]

    def test_the_best_is_there_before_a_newer_one(self, tmp_path, monkeypatch):
        run = tmp_path / "run"
        for step in (10, 20):
            make(run / "checkpoints", step)
        copied = []
        monkeypatch.setattr(checkpoints, "copy", lambda folder, root: copied.append(folder.name))
        Backup(tmp_path / "backup", run).save_checkpoints()
        assert copied == ["checkpoint-10", "checkpoint-20"]

    def test_a_kill_in_mid_copy(self, tmp_path):
        run, backup = tmp_path / "run", tmp_path / "backup"
        make(run / "checkpoints", 10)
        (run / "dataset.json").write_text("{}")
        Backup(backup, run).save_checkpoints()
        make(run / "checkpoints", 20)
        code = (
            "import os, shutil, signal, sys; from pathlib import Path; from textlora.backup import Backup\n"
            "copyfile, calls = shutil.copyfile, []\n"
            "def strike(source, target):\n"
            "    calls.append(copyfile(source, target))\n"
            "    if len(calls) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
            "shutil.copyfile = strike\n"
            "backup = Backup(Path(sys.argv[1]), Path(sys.argv[2]))\n"
            "backup.save_files(); backup.save_checkpoints()"
        )
        for calls in (1, 2, 3):  # in dataset.json, then in the checkpoint's first and second file
            done = subprocess.run([sys.executable, "-c", code, backup, run, str(calls)], check=False)
            assert done.returncode == -signal.SIGKILL
            assert names(backup / "checkpoints")[-1] == "checkpoint-10"
            assert checkpoints.read(backup / "checkpoints" / "checkpoint-10")
        (backup / ".mine-0123abcd.txt").write_text("not ours")
        after = Backup(backup, run)
        after.save_files()
        after.save_checkpoints()
        assert names(backup) == [".mine-0123abcd.txt", "checkpoints", "dataset.json"]
        assert names(backup / "checkpoints") == ["checkpoint-10", "checkpoint-20"]
        assert checkpoints.read(backup / "checkpoints" / "checkpoint-20")


class TestCopy:
    def test_what_is_left_of_a_damaged_copy_is_replaced(self, tmp_path):
        source = make(tmp_path / "a", 5)
        broken = make(tmp_path / "b", 5)
        DAMAGES["changed"](broken)
        checkpoints.copy(source, tmp_path / "b")
        assert files(broken) == files(source)

    def test_a_source_that_is_damaged_is_not_copied(self, tmp_path):
        source = make(tmp_path / "a", 5)
        DAMAGES["changed"](source)
        with pytest.raises(ResourceError, match="reads back otherwise"):
            checkpoints.copy(source, tmp_path / "b")
        assert names(tmp_path / "b") == []

    def test_same_compares_manifests(self, tmp_path):
        first, second = make(tmp_path / "a", 5), make(tmp_path / "b", 5)
        assert checkpoints.same(first, second)
        (second / checkpoints.MANIFEST).unlink()
        assert not checkpoints.same(first, second)
