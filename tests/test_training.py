"""``train`` from end to end: what is saved, resumed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICK
from textlora import checkpoints, encoder, planning, storage, training
from textlora.classifier import Classifier
from textlora.errors import Interrupted, ResourceError, TrainingError, UsageError
from textlora.preparation import prepare
from textlora.types import Bundle


@pytest.fixture(scope="module")
def planned(toy_dataset, tiny_model, machine):
    def make(model=tiny_model, dataset=toy_dataset, recipe="default", **changes):
        assignments = {**(QUICK if recipe == "default" else {}), **changes}
        return planning.plan(dataset, base_model=str(model), recipe=recipe, assignments=assignments, machine=machine)

    return make


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def entries(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def stop_at(step, number=signal.SIGTERM):
    """A progress callback that sends this process a signal when ``step`` is done."""

    def progress(stage, done, total, note):
        if (stage, done) == ("train", step) and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)

    sent = []
    return progress


def interrupt(plan, dataset, folder, step, number=signal.SIGTERM):
    with pytest.raises(Interrupted) as error:
        training.train(plan, dataset, folder=folder, progress=stop_at(step, number))
    return error.value


class TestRun:
    def test_the_bundle_answers_equally_in_a_fresh_process(self, toy_run):
        assert toy_run.run.reload_difference <= 1e-6

    def test_run_json_is_the_run(self, toy_run):
        assert training.load_run(toy_run.folder) == toy_run.run

    def test_what_is_counted(self, toy_run):
        run, rows = toy_run.run, len(toy_run.dataset.train)
        assert (rows, run.epochs, run.steps) == (96, 2.0, 24)
        assert (run.architecture, run.recipe, run.seed) == ("DistilBertForSequenceClassification", "default", 42)
        assert run.label_names == ("negative", "positive")
        assert run.trainable_parameters == sum(value.numel() for value in adapter(toy_run.folder).values())
        assert run.trainable_parameters == toy_run.plan.estimate.trainable_parameters
        assert run.total_parameters == toy_run.plan.estimate.total_parameters
        assert run.dataset_fingerprint == toy_run.dataset.fingerprint
        assert run.plan_fingerprint == planning.plan_fingerprint(toy_run.plan)
        assert run.command == "textlora train"
        assert not run.stopped_early
        assert 0 < run.cpu_seconds < 600
        assert run.seconds > 0
        assert run.tokens_per_second > 0

    def test_history_file_and_run_are_the_same(self, toy_run):
        assert entries(toy_run.folder) == [dict(entry) for entry in toy_run.run.history]
        evaluated = [entry["step"] for entry in toy_run.run.history if "eval_accuracy" in entry]
        assert evaluated == [12, 24]
        trained = [entry["step"] for entry in toy_run.run.history if "loss" in entry]
        assert trained == list(range(1, 25))

    def test_losses_are_means_over_the_steps(self, toy_run):
        losses = [entry["loss"] for entry in toy_run.run.history if "loss" in entry]
        assert toy_run.run.mean_training_loss == pytest.approx(np.mean(losses))
        assert toy_run.run.final_training_loss == pytest.approx(np.mean(losses[-2:]))

    def test_the_best_checkpoint_is_what_is_saved(self, toy_run):
        best = toy_run.folder / "checkpoints" / f"checkpoint-{toy_run.run.best_step}"
        assert equal(adapter(toy_run.folder), load_file(best / "adapter_model.safetensors"))
        scores = {entry["step"]: entry["eval_accuracy"] for entry in toy_run.run.history if "eval_accuracy" in entry}
        assert toy_run.run.best_metric == scores[toy_run.run.best_step] == max(scores.values())

    def test_no_pickles_in_the_bundle(self, toy_run):
        names = sorted(file.name for file in (toy_run.folder / "adapter").iterdir())
        assert names == [
            "adapter_config.json", "adapter_model.safetensors", "textlora.json", "tokenizer.json",
            "tokenizer_config.json",
        ]  # fmt: skip

    def test_the_bundle_says_what_must_travel_along(self, toy_run, tiny_model):
        from textlora import __version__
        from textlora.bundles import base_fingerprint

        bundle = storage.read_noun(toy_run.folder / "adapter" / "textlora.json", Bundle, made_by="train")
        assert bundle.calibration.rows == len(toy_run.dataset.validation)
        assert replace(bundle, calibration=None) == Bundle(
            base_model=str(tiny_model.resolve()),
            revision="local",
            base_fingerprint=base_fingerprint(tiny_model),
            label_names=("negative", "positive"),
            task="single_label",
            policy="head+tail",
            max_length=64,
            head_tokens=16,
            window_overlap=8,
            max_windows=8,
            precision="fp32",
            attention="sdpa",
            textlora_version=__version__,
            text_column="review",
        )

    def test_checkpoints_are_sealed(self, toy_run):
        folders = checkpoints.list_folders(toy_run.folder / "checkpoints")
        assert [folder.name for folder in folders] == ["checkpoint-24", "checkpoint-12"]
        assert all(checkpoints.read(folder) for folder in folders)
        assert training.has_checkpoint(toy_run.plan, toy_run.dataset, toy_run.folder)


@pytest.mark.usefixtures("fast_reload")
def test_it_learns(planned, toy_dataset, tmp_path):
    # Twelve validation rows would choose the checkpoint by chance; the training rows choose what has learnt.
    dataset = replace(toy_dataset, validation=toy_dataset.train)
    run = training.train(planned(**{"training.epochs": 8}), dataset, folder=tmp_path)
    assert run.history[0]["loss"] > 0.6
    assert run.final_training_loss < 0.2
    found = Classifier.from_pretrained(tmp_path, device="cpu").predict_proba(toy_dataset.train.texts).argmax(1)
    assert np.mean(found == np.array(toy_dataset.train.labels)) > 0.9


@pytest.mark.usefixtures("fast_reload")
class TestBest:
    def test_an_earlier_checkpoint_wins_when_it_is_better(self, planned, toy_dataset, tmp_path):
        """With far too large a rate the last model is not the best one."""
        plan = planned(
            **{"training.learning_rate": 0.3, "training.evaluations_per_epoch": 4, "training.best_metric": "loss",
               "training.lr_scheduler_type": "constant", "compute.engine": "transformers"}
        )  # fmt: skip
        run = training.train(plan, toy_dataset, folder=tmp_path)
        losses = {entry["step"]: entry["eval_loss"] for entry in run.history if "eval_loss" in entry}
        assert list(losses) == [3, 6, 9, 12, 15, 18, 21, 24]
        assert run.best_step == min(losses, key=losses.get) != 24
        assert run.best_metric == losses[run.best_step]
        best = tmp_path / "checkpoints" / f"checkpoint-{run.best_step}"
        assert equal(adapter(tmp_path), load_file(best / "adapter_model.safetensors"))
        scores = Classifier.from_pretrained(tmp_path, device="cpu").predict_proba(toy_dataset.validation.texts)
        found = -np.log(scores[np.arange(len(scores)), list(toy_dataset.validation.labels)]).mean()
        assert found == pytest.approx(losses[run.best_step], rel=1e-4)
        kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
        assert kept == sorted({"checkpoint-21", "checkpoint-24", f"checkpoint-{run.best_step}"})

    def test_early_stopping_stops(self, planned, toy_dataset, tmp_path):
        plan = planned(
            **{"training.learning_rate": 1e-5, "training.epochs": 9, "training.early_stopping_patience": 2}
        )  # fmt: skip
        run = training.train(plan, toy_dataset, folder=tmp_path)
        assert (run.stopped_early, run.epochs, run.best_step) == (True, 3.0, 12)

    def test_its_patience_counts_on_after_a_resume(self, planned, toy_dataset, tmp_path):
        plan = planned(
            **{"training.learning_rate": 1e-5, "training.epochs": 9, "training.early_stopping_patience": 2}
        )  # fmt: skip
        interrupt(plan, toy_dataset, tmp_path, 27)
        run = training.train(plan, toy_dataset, folder=tmp_path, resume=True)
        assert (run.stopped_early, run.epochs, run.best_step) == (True, 3.0, 12)

    def test_less_than_one_validation_is_still_one(self, planned, toy_dataset, tmp_path):
        plan = planned(**{"training.epochs": 0.2, "training.evaluations_per_epoch": 2})
        run = training.train(plan, toy_dataset, folder=tmp_path)
        assert [entry["step"] for entry in run.history if "eval_loss" in entry] == [3]
        assert (run.steps, run.best_step) == (3, 3)
        assert training.load_run(tmp_path) == run

    def test_the_last_steps_are_in_the_history(self, planned, toy_dataset, tmp_path):
        """60 steps are logged every second one or so; none is left out of the means."""
        plan = planned(**{"training.batch_size": 1, "training.epochs": 1.06, "training.evaluations_per_epoch": 2})
        run = training.train(plan, toy_dataset, folder=tmp_path)
        steps = [entry["step"] for entry in run.history if "loss" in entry]
        assert run.steps == 102
        assert steps == [*range(2, 102, 2), 102]


@pytest.mark.usefixtures("fast_reload")
class TestSeeds:
    def test_the_same_seed_gives_the_same_weights(self, planned, toy_run, tmp_path):
        again = training.train(toy_run.plan, toy_run.dataset, folder=tmp_path)
        assert equal(adapter(tmp_path), adapter(toy_run.folder))
        timeless = [
            [
                {name: value for name, value in entry.items() if "runtime" not in name and "second" not in name}
                for entry in run.history
            ]
            for run in (again, toy_run.run)
        ]
        assert timeless[0] == timeless[1]

    def test_another_seed_gives_others(self, planned, toy_dataset, toy_run, tmp_path, machine, tiny_model):
        plan = planned(seed=7)
        training.train(plan, toy_dataset, folder=tmp_path)
        found, before = adapter(tmp_path), adapter(toy_run.folder)
        assert not any(torch.equal(found[name], before[name]) for name in found)


@pytest.mark.usefixtures("fast_reload")
class TestResume:
    @pytest.mark.parametrize("step", [1, 5, 11, 12, 13, 23, 24])
    def test_the_weights_are_those_of_an_undisturbed_run(self, toy_run, tmp_path, step):
        interrupt(toy_run.plan, toy_run.dataset, tmp_path, step)
        run = training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True)
        assert equal(adapter(tmp_path), adapter(toy_run.folder))
        last = [
            load_file(folder / "checkpoints/checkpoint-24/adapter_model.safetensors")
            for folder in (tmp_path, toy_run.folder)
        ]
        assert equal(*last)
        assert (run.steps, run.best_step, run.best_metric) == (24, toy_run.run.best_step, toy_run.run.best_metric)
        assert entries(tmp_path) == [dict(entry) for entry in run.history]
        scored = [(entry["step"], entry["eval_loss"]) for entry in run.history if "eval_loss" in entry]
        assert scored == [(e["step"], e["eval_loss"]) for e in toy_run.run.history if "eval_loss" in e]
        losses = [(entry["step"], entry["loss"]) for entry in run.history if "loss" in entry]
        assert losses == [(e["step"], e["loss"]) for e in toy_run.run.history if "loss" in e]
        assert run.mean_training_loss == pytest.approx(toy_run.run.mean_training_loss)

    @pytest.mark.parametrize(
        ("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130)]
    )
    def test_a_signal_stops_with_the_state_saved(self, toy_run, tmp_path, number, name, code):
        before = signal.getsignal(number)
        error = interrupt(toy_run.plan, toy_run.dataset, tmp_path, 5, number)
        assert str(error) == (
            f"Stopped by {name}; the state of training is saved in {tmp_path / 'checkpoints'}.\n"
            f"Go on with: textlora train {tmp_path} --resume"
        )
        assert error.exit_code == code
        assert signal.getsignal(number) == before
        assert [folder.name for folder in checkpoints.list_folders(tmp_path / "checkpoints")] == ["checkpoint-5"]
        assert [entry["step"] for entry in entries(tmp_path)] == [1, 2, 3, 4, 5]
        assert not (tmp_path / "run.json").exists()
        assert not (tmp_path / "adapter").exists()

    def test_interrupted_twice(self, toy_run, tmp_path):
        interrupt(toy_run.plan, toy_run.dataset, tmp_path, 4)
        with pytest.raises(Interrupted):
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True, progress=stop_at(17))
        training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True)
        assert equal(adapter(tmp_path), adapter(toy_run.folder))

    def test_the_second_signal_acts_at_once(self, toy_run, tmp_path):
        def twice(stage, done, total, note):
            if (stage, done) == ("train", 3):
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, progress=twice)

    def test_time_and_history_count_on(self, toy_run, tmp_path):
        interrupt(toy_run.plan, toy_run.dataset, tmp_path, 13)
        path = tmp_path / "checkpoints" / "checkpoint-13"
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "seconds": 1000.0, "cpu_seconds": 500.0}))
        with (tmp_path / "history.jsonl").open("a") as stream:
            stream.write('{"step": 14, "loss": 99.0}\n{"step": 15, "lo')  # after the checkpoint, and cut short
        run = training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True)
        assert 1000 < run.seconds < 2000  # not twice
        assert 500 < run.cpu_seconds < 600
        assert 99.0 not in [entry.get("loss") for entry in entries(tmp_path)]
        assert [entry["step"] for entry in entries(tmp_path) if "loss" in entry] == list(range(1, 25))

    def test_a_moved_folder_still_knows_its_best_checkpoint(self, toy_run, tmp_path):
        interrupt(toy_run.plan, toy_run.dataset, tmp_path / "before", 22)
        (tmp_path / "before").rename(tmp_path / "after")
        training.train(toy_run.plan, toy_run.dataset, folder=tmp_path / "after", resume=True)
        assert equal(adapter(tmp_path / "after"), adapter(toy_run.folder))

    def test_nothing_to_resume(self, toy_run, tmp_path):
        with pytest.raises(UsageError) as error:
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True)
        assert str(error.value) == (
            f"{tmp_path / 'checkpoints'} holds no whole checkpoint of this plan and data.\n"
            f"Start from the beginning: textlora train {tmp_path}"
        )

    def test_checkpoints_of_another_plan_do_not_count(self, planned, toy_run, tmp_path):
        interrupt(planned(**{"lora.r": 2}), toy_run.dataset, tmp_path, 3)
        assert not training.has_checkpoint(toy_run.plan, toy_run.dataset, tmp_path)
        with pytest.raises(UsageError, match="holds no whole checkpoint of this plan and data"):
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path, resume=True)

    def test_in_another_thread_training_leaves_signals_alone(self, toy_run, tmp_path):
        done = []
        thread = threading.Thread(
            target=lambda: done.append(training.train(toy_run.plan, toy_run.dataset, folder=tmp_path))
        )
        thread.start()
        thread.join()
        assert equal(adapter(tmp_path), adapter(toy_run.folder))


def _truncate(folder):
    file = folder / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:1000])


def _change(folder):
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)


@pytest.mark.usefixtures("fast_reload")
class TestBrokenCheckpoints:
    @pytest.fixture(scope="class")
    def stopped(self, toy_run, tmp_path_factory):
        folder = tmp_path_factory.mktemp("stopped")
        interrupt(toy_run.plan, toy_run.dataset, folder, 15)
        return folder

    @pytest.mark.parametrize(
        "damage",
        [
            _truncate,
            _change,
            lambda folder: (folder / "manifest.json").unlink(),
            lambda folder: (folder / "trainer_state.json").unlink(),
        ],
        ids=["truncated", "changed byte", "no manifest", "file missing"],
    )
    def test_the_older_one_is_used(self, stopped, toy_run, tmp_path, damage):
        folder = tmp_path / "run"
        shutil.copytree(stopped, folder)
        damage(folder / "checkpoints" / "checkpoint-15")
        steps = []
        training.train(
            toy_run.plan, toy_run.dataset, folder=folder, resume=True,
            progress=lambda stage, done, total, note: steps.append(done) if stage == "train" else None,
        )  # fmt: skip
        assert steps[0] == 13
        assert equal(adapter(folder), adapter(toy_run.folder))

    def test_none_is_left(self, stopped, toy_run, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(stopped, folder)
        for checkpoint in checkpoints.list_folders(folder / "checkpoints"):
            _change(checkpoint)
        with pytest.raises(UsageError, match="holds no whole checkpoint"):
            training.train(toy_run.plan, toy_run.dataset, folder=folder, resume=True)

    def test_a_damaged_best_one_is_not_saved_as_the_result(self, stopped, planned, toy_run, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(stopped, folder)

        def damage(stage, done, total, note):
            if (stage, done) == ("train", 24):
                for step in (12, 24):
                    path = folder / "checkpoints" / f"checkpoint-{step}"
                    if path.exists():
                        _change(path)

        best = folder / "checkpoints" / f"checkpoint-{toy_run.run.best_step}"
        with pytest.raises(TrainingError) as error:
            training.train(toy_run.plan, toy_run.dataset, folder=folder, resume=True, progress=damage)
        assert str(error.value) == f"The best checkpoint, {best}, is damaged.\nTrain again without --resume."
        assert not (folder / "adapter").exists()


class TestReloadCheck:
    def test_a_bundle_that_answers_otherwise_fails_the_run(self, toy_run, tmp_path, monkeypatch):
        save = encoder.save_adapter

        def forget_the_head(model, folder, **options):
            save(model, folder, **options)
            weights = load_file(folder / "adapter_model.safetensors")
            weights["base_model.model.classifier.bias"][0] += 0.5
            save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})

        monkeypatch.setattr(encoder, "save_adapter", forget_the_head)
        with pytest.raises(TrainingError) as error:
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path)
        assert str(error.value) == (
            "The saved classifier differs from the trained one after a reload: logits by 0.5, allowed 1e-06.\n"
            "Please report this with the base model's name; the checkpoints are kept."
        )
        assert not (tmp_path / "run.json").exists()


@pytest.mark.usefixtures("fast_reload")
class TestRecipesAndTracking:
    def test_stock_goes_through_the_plain_trainer(self, planned, toy_dataset, tmp_path, monkeypatch):
        from textlora import trainer

        shapes = []
        step = trainer.SealedTrainer.training_step

        def noted(self, model, inputs, *rest):
            shapes.append(tuple(inputs["input_ids"].shape))
            return step(self, model, inputs, *rest)

        monkeypatch.setattr(trainer.SealedTrainer, "training_step", noted)
        plan = planned(recipe="stock", **{"text.max_length": 64, "compute.device": "cpu"})
        run = training.train(plan, toy_dataset, folder=tmp_path)
        assert (run.recipe, run.steps, run.epochs) == ("stock", 24, 1.0)
        assert set(shapes) == {(4, 64)}
        names = {name.split(".lora_")[0].split(".")[-1] for name in adapter(tmp_path) if "lora_" in name}
        assert names == {"q_lin", "v_lin"}
        assert run.reload_difference <= 1e-6

    def test_tensorboard_gets_its_events(self, planned, toy_dataset, tmp_path, monkeypatch):
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
        training.train(planned(tracking=("tensorboard",)), toy_dataset, folder=tmp_path / "run")
        files = list((tmp_path / "events").rglob("events.out.tfevents.*"))
        assert files
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(files[0].parent))
        events.Reload()
        assert "train/loss" in events.Tags()["scalars"]
        assert [event.step for event in events.Scalars("eval/accuracy")] == [12, 24]

    def test_an_unknown_tracker_is_refused(self, planned, toy_dataset, tmp_path):
        with pytest.raises(UsageError) as error:
            training.train(planned(tracking=("tensorbord", "abacus")), toy_dataset, folder=tmp_path)
        assert error.value.message == "Cannot use tracking:"
        assert error.value.problems == (
            "There is no tracker 'tensorbord'. Did you mean 'tensorboard'?",
            "There is no tracker 'abacus'.",
        )
        assert "tensorboard" in error.value.hint

    def test_a_tracker_that_is_not_installed_is_named(self, planned, toy_dataset, tmp_path):
        with pytest.raises(ResourceError) as error:
            training.train(planned(tracking=("tensorboard", "neptune")), toy_dataset, folder=tmp_path)
        assert str(error.value) == "Not installed: neptune, named in tracking.\npip install neptune"


class TestRefusals:
    def test_a_plan_of_other_data(self, toy_run, toy_csv, tmp_path):
        other = prepare(toy_csv, out=tmp_path, text="review", label="sentiment", labels=("positive", "negative"))
        with pytest.raises(UsageError) as error:
            training.train(toy_run.plan, other)
        assert error.value.message == (
            f"{tmp_path / 'plan.toml'} was made for other data ({toy_run.dataset.fingerprint[:12]}…) than "
            f"{tmp_path / 'dataset.json'} describes ({other.fingerprint[:12]}…)."
        )
        assert not (tmp_path / "checkpoints").exists()

    def test_no_run_yet(self, tmp_path):
        with pytest.raises(UsageError) as error:
            training.load_run(tmp_path)
        assert str(error.value) == (
            f"{tmp_path / 'run.json'} does not exist.\n`textlora train` writes it: run that first."
        )

    @pytest.mark.usefixtures("fast_reload")
    def test_without_resume_everything_starts_anew(self, toy_run, tmp_path):
        interrupt(toy_run.plan, toy_run.dataset, tmp_path, 14)
        run = training.train(toy_run.plan, toy_run.dataset, folder=tmp_path)
        assert entries(tmp_path) == [dict(entry) for entry in run.history]
        assert [entry["step"] for entry in run.history if "loss" in entry] == list(range(1, 25))
        assert sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")) == [
            "checkpoint-12",
            "checkpoint-24",
        ]

    def test_a_file_in_the_folders_place(self, toy_run, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(ResourceError) as error:
            training.train(toy_run.plan, toy_run.dataset, folder=tmp_path / "run")
        assert error.value.message == f"{tmp_path / 'run'} cannot be made: a file of that name is in the way."


@pytest.mark.usefixtures("fast_reload")
def test_progress_tells_every_stage(toy_run, tmp_path):
    seen = []
    training.train(
        toy_run.plan, toy_run.dataset, folder=tmp_path,
        progress=lambda stage, done, total, note: seen.append((stage, done, total)),
    )  # fmt: skip
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == [
        "tokenize train", "tokenize validation", "train", "calibrate", "check reload",
    ]  # fmt: skip
    assert ("tokenize train", 96, 96) in seen
    assert [done for stage, done, _ in dict.fromkeys(seen) if stage == "train"] == list(range(1, 25))
    assert seen[-1] == ("check reload", 1, 1)
