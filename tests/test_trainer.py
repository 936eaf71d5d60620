"""Micro-batches inside a step, and the callbacks that watch over training."""

from __future__ import annotations

import contextlib
import errno
import math
import resource
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICK, write_model
from textlora import batching, encoder, metrics, planning, trainer, training
from textlora.callbacks import Clock, MovementCheck, Recorder
from textlora.errors import ResourceError, TrainingError
from textlora.memory import Budget
from textlora.trainer import (
    Collator,
    HeadDropout,
    MicroBatchTrainer,
    Samples,
    scores_from,
)

pytestmark = pytest.mark.usefixtures("fast_reload")


@pytest.fixture
def planned(toy_dataset, tiny_model, machine):
    def make(model=tiny_model, **changes):
        assignments = {**QUICK, "training.epochs": 0.5, **changes}
        return planning.plan(toy_dataset, base_model=str(model), assignments=assignments, machine=machine)

    return make


@contextlib.contextmanager
def small_files(limit=50_000):
    """Let no file grow beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def samples(*lengths):
    return [
        {"ids": np.arange(1, length + 1, dtype=np.int32), "label": index % 2} for index, length in enumerate(lengths)
    ]


class TestCollator:
    def test_without_a_budget_one_plain_batch(self):
        batch = Collator(pad_id=9, limit=64, budget=Budget(0))(given := samples(3, 40))
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 64)
        assert batch["labels"].tolist() == [0, 1]
        assert set(batch) == {"labels", "input_ids", "attention_mask", "samples"}
        assert batch["samples"].samples == given

    def test_rows_say_whose_texts_are_in_a_micro_batch(self):
        lengths = (3, 40, 64, 5, 33, 1)
        collator = Collator(pad_id=9, limit=64, budget=Budget(128))
        batch = collator(samples(*lengths))
        assert set(batch) == {"labels", "samples"}
        assert batch["labels"].tolist() == [0, 1, 0, 1, 0, 1]
        parts = list(collator.micro_batches(batch["samples"].samples))
        assert [part["rows"].tolist() for part in parts] == [[2, 1], [4, 3], [0, 5]]
        for part in parts:
            assert part["attention_mask"].sum(1).tolist() == [lengths[row] for row in part["rows"]]
            assert part["labels"].tolist() == [row % 2 for row in part["rows"]]
            assert part["input_ids"].numel() <= 128

    def test_the_budget_counts_fixed_padding_too(self):
        parts = Collator(pad_id=9, limit=64, budget=Budget(128), fixed=True).micro_batches(samples(3, 40, 64, 5, 33, 1))
        assert [tuple(part["input_ids"].shape) for part in parts] == [(2, 64)] * 3

    def test_a_smaller_budget_cuts_what_was_collated_before(self):
        budget = Budget(128)
        collator = Collator(pad_id=9, limit=64, budget=budget, packed=True)
        batch = collator(samples(60, 60, 60, 60))
        budget.tokens = 64
        parts = list(collator.micro_batches(batch["samples"].samples))
        assert [part["lengths"] for part in parts] == [(60,)] * 4


class TestTrajectory:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        """With much dropout in the head."""
        return write_model(tmp_path_factory.mktemp("models") / "dropping", "distilbert", seq_classif_dropout=0.4)

    def test_the_budget_does_not_change_the_weights(self, model, planned, toy_dataset, tmp_path, monkeypatch):
        monkeypatch.setattr(batching, "LENGTH_STEP", 8)  # many different widths
        weights = {}
        for budget in (0, 64, 100_000):
            plan = planned(model, **{"compute.tokens_per_micro_batch": budget})
            run = training.train(plan, toy_dataset, folder=tmp_path / str(budget))
            assert run.steps == 6
            weights[budget] = adapter(run.folder)
        for budget in (64, 100_000):
            for name, expected in weights[0].items():
                torch.testing.assert_close(weights[budget][name], expected, atol=1e-5, rtol=1e-4, msg=name)

    def test_losses_and_scores_are_the_same_too(self, model, planned, toy_dataset, tmp_path):
        entries = []
        for budget in (0, 64):
            plan = planned(model, **{"compute.tokens_per_micro_batch": budget})
            run = training.train(plan, toy_dataset, folder=tmp_path / str(budget))
            names = ("step", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")
            entries.append([[entry.get(name, 0.0) for name in names] for entry in run.history])
        np.testing.assert_allclose(entries[1], entries[0], rtol=1e-4)

    def test_validation_logits_are_in_the_order_of_the_samples(self, toy_run, tmp_path):
        from transformers import TrainingArguments

        from textlora.classifier import Classifier

        classifier = Classifier.from_pretrained(toy_run.folder, device="cpu")
        split = toy_run.dataset.train
        ids = classifier.tokenizer.encode(split.texts).ids
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_eval_batch_size=10, use_cpu=True, remove_unused_columns=False,
            label_names=["labels"], report_to="none", disable_tqdm=True,
        )  # fmt: skip
        made = MicroBatchTrainer(
            model=classifier.model,
            args=arguments,
            data_collator=Collator(pad_id=classifier.tokenizer.pad_id, limit=64, budget=Budget(100), packed=True),
        )
        found = made.predict(Samples(ids, split.labels))
        assert found.label_ids.tolist() == list(split.labels)
        np.testing.assert_allclose(found.predictions, classifier.logits(split.texts), atol=1e-5)
        assert made.predict(Samples(ids, split.labels)).metrics["test_loss"] == pytest.approx(
            metrics.validation_scores(np.array(split.labels), classifier.predict_proba(split.texts))["loss"], rel=1e-4
        )

    @pytest.mark.parametrize("engine", ["packed", "transformers"])
    def test_no_micro_batch_is_larger_than_the_budget(self, planned, toy_dataset, tmp_path, monkeypatch, engine):
        sizes = []
        original = trainer._summed_loss
        monkeypatch.setattr(batching, "LENGTH_STEP", 8)

        def noted(model, batch, loss):
            sizes.append(batch.get("lengths") or tuple(batch["input_ids"].shape))
            return original(model, batch, loss)

        monkeypatch.setattr(trainer, "_summed_loss", noted)
        plan = planned(**{"compute.tokens_per_micro_batch": 128, "compute.engine": engine})
        training.train(plan, toy_dataset, folder=tmp_path)
        assert len(sizes) > 12
        if engine == "packed":
            assert all(sum(lengths) <= 128 for lengths in sizes)
        else:
            assert all(rows * width <= 128 for rows, width in sizes)
            assert {width for _, width in sizes} == {16, 24, 32, 40}


class TestHeadDropout:
    @pytest.fixture
    def head(self):
        """A model with a trunk and a head, and its dropout as ``MicroBatchTrainer`` sets it up."""
        model = torch.nn.Module()
        model.base_model_prefix = "trunk"
        model.trunk, model.dropout = torch.nn.Sequential(torch.nn.Dropout(0.5)), torch.nn.Dropout(0.3)
        return model.train(), HeadDropout(model)

    def drawn(self, head, *cuts, name="42 1 0"):
        """The masks of ten samples, computed in parts."""
        model, dropout = head
        dropout.begin(name, 10)
        masks = torch.zeros(10, 200)
        for rows in cuts:
            with dropout.rows(torch.tensor(rows)):
                masks[rows] = model.dropout(torch.ones(len(rows), 200))
        return masks

    def test_a_sample_meets_the_same_mask_in_every_cut(self, head):
        whole = self.drawn(head, list(range(10)))
        assert torch.equal(self.drawn(head, [9, 3], [1, 0, 2, 4], [8, 7, 6, 5]), whole)
        assert len({tuple(row.tolist()) for row in whole}) == 10

    def test_each_step_and_process_has_its_own(self, head):
        masks = [self.drawn(head, list(range(10)), name=name) for name in ("42 1 0", "42 2 0", "42 1 1", "7 1 0")]
        assert not any(torch.equal(masks[0], other) for other in masks[1:])

    def test_values_are_dropped_with_the_modules_probability_and_the_rest_scaled(self, head):
        masks = self.drawn(head, list(range(10)))
        assert masks.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
        assert (masks == 0).float().mean() == pytest.approx(0.3, abs=0.03)

    def test_calls_after_one_another_draw_others(self, head):
        model, dropout = head
        dropout.begin("42 1 0", 2)
        with dropout.rows(torch.arange(2)):
            first, second = model.dropout(torch.ones(2, 50)), model.dropout(torch.ones(2, 50))
        assert not torch.equal(first, second)

    def test_outside_of_a_step_in_the_trunk_and_in_evaluation_it_is_torchs(self, head):
        model, dropout = head
        dropout.begin("42 1 0", 3)
        for module in (model.dropout, model.trunk[0]):
            torch.manual_seed(0)
            found = module(torch.ones(3, 4))
            torch.manual_seed(0)
            assert torch.equal(found, torch.nn.functional.dropout(torch.ones(3, 4), module.p))
        with dropout.rows(torch.arange(3)):
            assert torch.equal(model.eval().dropout(torch.ones(3, 4)), torch.ones(3, 4))

    @pytest.mark.parametrize("architecture", ["distilbert", "bert", "roberta", "electra", "deberta-v2", "modernbert"])
    def test_heads_of_these_encoders_are_found(self, tmp_path, architecture):
        spec = encoder.EncoderSpec(write_model(tmp_path, architecture), ("no", "yes"))
        model, _ = encoder.load_classifier(spec)
        assert encoder.head_dropouts(model)


class TestNotANumber:
    @pytest.mark.parametrize("budget", [0, 256])
    def test_it_stops_at_once_with_the_step(self, planned, toy_dataset, tmp_path, budget):
        model = write_model(tmp_path / "model", "distilbert")
        weights = load_file(model / "model.safetensors")
        weights["transformer.layer.1.ffn.lin2.weight"][0, 0] = math.nan
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        plan = planned(model, **{"compute.tokens_per_micro_batch": budget})
        with pytest.raises(TrainingError) as error:
            training.train(plan, toy_dataset, folder=tmp_path / "run")
        assert str(error.value) == (
            "The training loss became nan at step 1; training stopped at once.\n"
            "Try a lower --set training.learning_rate, or --set compute.precision=fp32. "
            "Checkpoints from before are whole."
        )
        assert not (tmp_path / "run" / "adapter").exists()
        assert not (tmp_path / "run" / "run.json").exists()

    def test_it_may_come_later(self, planned, toy_dataset, tmp_path, monkeypatch):
        build, models = encoder.build_model, []
        monkeypatch.setattr(encoder, "build_model", lambda *a, **k: models.append(build(*a, **k)) or models[0])

        def poison(stage, done, total, note):
            if (stage, done) == ("train", 3):
                with torch.no_grad():
                    next(p for n, p in models[0].named_parameters() if "lora_A" in n)[0, 0] = math.inf

        with pytest.raises(TrainingError, match=r"^The training loss became nan at step 4; training stopped at once"):
            training.train(planned(), toy_dataset, folder=tmp_path, progress=poison)


class TestMovementCheck:
    HEAD = "The wrong weights moved in the first steps of training:"

    def spoiled(self, monkeypatch, spoil):
        """Have ``train`` build a model that ``spoil`` has been at."""
        build = encoder.build_model
        models = []

        def spoiled_model(*arguments, **named):
            model = build(*arguments, **named)
            models.append(model)
            spoil(model)
            return model

        monkeypatch.setattr(encoder, "build_model", spoiled_model)
        return models

    @pytest.mark.parametrize("bits", [4, 8])
    def test_a_changed_code_of_a_quantized_weight_is_found(self, planned, toy_dataset, tmp_path, monkeypatch, bits):
        names = []

        def change(model):
            name, layer = next((n, m) for n, m in model.named_modules() if n.endswith("layer.1.ffn.lin2.base_layer"))
            names.append(f"{name}.weight")

            def once(*_):
                layer.weight.data[0, 0] ^= 1

            model.register_forward_pre_hook(once)

        self.spoiled(monkeypatch, change)
        with pytest.raises(TrainingError) as error:
            training.train(planned(**{"quantization.bits": bits}), toy_dataset, folder=tmp_path)
        assert str(error.value) == f"{self.HEAD}\n  - changed though frozen: {names[0]}"

    @pytest.mark.parametrize("kind", ["lora_A", "lora_B", "classifier.modules_to_save.default.bias"])
    def test_a_frozen_adapter_is_found(self, planned, toy_dataset, tmp_path, monkeypatch, kind):
        names = []

        def freeze(model):
            name, parameter = next((n, p) for n, p in model.named_parameters() if kind in n)
            parameter.requires_grad_(False)
            names.append(name)

        self.spoiled(monkeypatch, freeze)
        with pytest.raises(TrainingError) as error:
            training.train(planned(), toy_dataset, folder=tmp_path)
        assert (error.value.message, error.value.problems) == (self.HEAD, (f"did not train: {names[0]}",))

    def test_an_adapter_without_a_learning_rate_is_found(self, planned, toy_dataset, tmp_path, monkeypatch):
        create = MicroBatchTrainer.create_optimizer

        def with_an_idle_group(self, *arguments):
            optimizer = create(self, *arguments)
            idle = optimizer.param_groups[0]["params"].pop()
            optimizer.add_param_group({"params": [idle], "lr": 0.0, "weight_decay": 0.0})
            return optimizer

        monkeypatch.setattr(MicroBatchTrainer, "create_optimizer", with_an_idle_group)
        with pytest.raises(TrainingError) as error:
            training.train(planned(), toy_dataset, folder=tmp_path)
        assert error.value.message == self.HEAD
        assert len(error.value.problems) == 1
        assert error.value.problems[0].startswith("did not train: ")

    def test_a_changed_frozen_weight_is_found(self, planned, toy_dataset, tmp_path, monkeypatch):
        models = self.spoiled(monkeypatch, lambda model: None)
        name = "base_model.model.distilbert.transformer.layer.0.ffn.lin1.base_layer.bias"

        def change(stage, done, total, note):
            if (stage, done) == ("train", 1):
                with torch.no_grad():
                    dict(models[0].named_parameters())[name][3] += 1e-6

        with pytest.raises(TrainingError) as error:
            training.train(planned(), toy_dataset, folder=tmp_path, progress=change)
        assert (error.value.message, error.value.problems) == (self.HEAD, (f"changed though frozen: {name}",))

    def test_the_first_steps_without_a_learning_rate_do_not_count(self, planned, toy_dataset, tmp_path):
        # The first of the warm-up's steps has the rate 0.
        run = training.train(planned(**{"training.warmup_steps": 3}), toy_dataset, folder=tmp_path)
        assert next(entry["learning_rate"] for entry in run.history if "loss" in entry) == 0.0
        assert run.steps == 6

    def test_without_any_warm_up_it_passes_too(self, planned, toy_dataset, tmp_path):
        assert training.train(planned(**{"training.warmup_steps": 0}), toy_dataset, folder=tmp_path).steps == 6

    def test_it_remembers_nothing_after_the_second_step(self):
        from types import SimpleNamespace

        layer = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(2, 2), "base": torch.nn.Linear(2, 2)})
        check = MovementCheck()
        check.on_train_begin(None, None, None, model=layer)
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
        for _ in range(2):
            with torch.no_grad():
                for parameter in layer["lora_A"].parameters():
                    parameter.add_(1)
            check.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
            check.on_step_end(None, None, None, model=layer, optimizer=optimizer)
        with torch.no_grad():
            layer["base"].bias += 1
        check.on_step_end(None, None, None, model=layer, optimizer=optimizer)


class TestRecorder:
    def recorded(self, *logs):
        from transformers import TrainerControl, TrainerState

        entries, notes = [], []
        recorder = Recorder(entries.append, lambda done, total, note: notes.append((done, total, note)))
        for log in logs:
            recorder.on_log(None, TrainerState(global_step=7, max_steps=9), TrainerControl(), logs=log)
        return entries, notes

    def test_entries_carry_their_step(self):
        entries, notes = self.recorded({"loss": 0.25, "epoch": 0.5}, {"eval_accuracy": 0.75, "eval_loss": 0.5})
        assert entries == [
            {"step": 7, "loss": 0.25, "epoch": 0.5},
            {"step": 7, "eval_accuracy": 0.75, "eval_loss": 0.5},
        ]
        assert notes == [(7, 9, "loss 0.250"), (7, 9, "loss 0.250, validation accuracy 0.7500")]

    def test_what_json_cannot_hold_is_left_out(self):
        entries, _ = self.recorded({"loss": 0.25, "grad_norm": math.inf}, {"loss": 0.5, "grad_norm": math.nan})
        assert entries == [{"step": 7, "loss": 0.25}, {"step": 7, "loss": 0.5}]

    def test_the_closing_summary_is_left_out(self):
        assert self.recorded({"train_runtime": 3.0, "train_loss": 0.5}) == ([], [])


class TestSmallParts:
    def test_scores_are_those_of_the_softmax(self):
        logits = np.array([[2.0, 0.0, 0.0], [0.0, 1000.0, 0.0], [0.0, 3.0, 0.0]])
        found = scores_from(logits, np.array([0, 1, 2]), metrics.validation_scores)
        assert found["accuracy"] == pytest.approx(2 / 3)
        assert "loss" not in found  # Trainer has it already

    def test_the_clock_goes_on_from_where_it_stood(self):
        clock = Clock(seconds=100.0, cpu_seconds=50.0)
        time.sleep(0.02)
        assert 100.02 <= clock.seconds < 200
        assert 50.0 <= clock.cpu_seconds < 60

    def test_failed_writes_are_os_errors(self, tmp_path):
        with pytest.raises(OSError, match="File too large") as error, small_files(), encoder.write_errors(tmp_path):
            save_file({"x": torch.zeros(100_000)}, tmp_path / "x.safetensors")
        assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(tmp_path))
        with pytest.raises(OSError, match="Input/output error"), small_files(), encoder.write_errors(tmp_path):
            torch.save({"x": torch.zeros(100_000)}, tmp_path / "x.pt")

    def test_a_checkpoint_that_cannot_be_written_is_told(self, planned, toy_dataset, tmp_path):
        with pytest.raises(ResourceError) as error, small_files(10_000):
            training.train(planned(), toy_dataset, folder=tmp_path)
        assert error.value.message == f"Cannot write {tmp_path / 'checkpoints'}: File too large."

    def test_other_errors_pass_through(self, tmp_path):
        with pytest.raises(RuntimeError, match=r"^shapes$"), encoder.write_errors(tmp_path):
            raise RuntimeError("shapes")
