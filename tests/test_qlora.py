"""Training over quantized weights from the plan to the merged model, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICK, reload_in_this_process, write_model
from tests.test_cli import call
from tests.test_planning import APPLE, SAID, XEON, grounds, resolve
from tests.test_training import adapter, equal, interrupt
from textlora import encoder, planning, prefix, storage, training
from textlora.classifier import Classifier
from textlora.drifting import measure_drift
from textlora.errors import ResourceError, TextloraWarning, UsageError
from textlora.exporting import export
from textlora.extras import Extra
from textlora.packed.quantized import QuantizedLinear
from textlora.planning.shapes import weights_gb
from textlora.types import Bundle, Drift, Run

BITS = [4, 8]
TEXTS = ["good film", "bad and boring", "it was a fine story " * 5, ""]
WITHOUT = """
import json, sys
sys.modules["bitsandbytes"] = None
from textlora.classifier import Classifier
print(json.dumps(Classifier.from_pretrained(sys.argv[1], device="cpu").logits(json.loads(sys.argv[2])).tolist()))
"""
WITHOUT_COMMAND = """
import sys
sys.modules["bitsandbytes"] = None
from textlora import cli
sys.argv = ["textlora", *sys.argv[1:]]
sys.exit(cli.run())
"""


@pytest.fixture(scope="module")
def plans(toy_dataset, tiny_model, machine):
    def make(bits, **changes):
        assignments = {**QUICK, "quantization.bits": bits, **changes}
        return planning.plan(toy_dataset, base_model=str(tiny_model), assignments=assignments, machine=machine)

    return make


@pytest.fixture(scope="module")
def runs(plans, toy_dataset, tmp_path_factory):
    """The toy data trained over 4 and 8 bits, each checked in a fresh process, in whole run folders."""
    found = {}
    for bits in BITS:
        folder = tmp_path_factory.mktemp(f"bits{bits}") / "run"
        folder.mkdir()
        for name in (storage.DATASET, "train.parquet", "validation.parquet", "test.parquet"):
            shutil.copy(toy_dataset.folder / name, folder)
        found[bits] = training.train(plans(bits), toy_dataset, folder=folder)
    return found


def bundle_of(run: Run) -> Bundle:
    return storage.read_noun(run.folder / "adapter" / "textlora.json", Bundle, made_by="train")


@pytest.mark.parametrize("bits", BITS)
class TestTraining:
    def test_a_fresh_process_gives_the_same_logits(self, runs, bits):
        assert runs[bits].reload_difference <= 1e-6

    def test_only_adapters_and_head_are_saved(self, runs, toy_run, bits):
        weights = load_file(runs[bits].folder / "adapter" / "adapter_model.safetensors")
        assert sum(value.numel() for value in weights.values()) == runs[bits].trainable_parameters
        assert {value.dtype for value in weights.values()} == {torch.float32}
        assert runs[bits].trainable_parameters == toy_run.run.trainable_parameters
        assert runs[bits].total_parameters == toy_run.run.total_parameters

    def test_it_trains_elsewhere_than_over_whole_weights(self, runs, toy_run, bits):
        assert not equal(adapter(runs[bits].folder), adapter(toy_run.folder))
        assert runs[bits].best_metric >= toy_run.run.best_metric - 0.2

    def test_a_run_that_was_stopped_ends_with_the_same_weights(self, runs, plans, toy_dataset, tmp_path, bits):
        interrupt(plans(bits), toy_dataset, tmp_path, 7)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.saving, "reload_difference", reload_in_this_process)
            run = training.train(plans(bits), toy_dataset, folder=tmp_path, resume=True)
        assert equal(adapter(tmp_path), adapter(runs[bits].folder))
        assert run.drift == runs[bits].drift

    def test_run_and_bundle_say_what_it_was_trained_over(self, runs, bits):
        run = training.load_run(runs[bits].folder)
        assert run.bits == bundle_of(run).bits == bits
        assert run.drift == bundle_of(run).drift == runs[bits].drift
        assert (run.drift.split, run.drift.texts) == ("validation", 12)

    def test_the_drift_is_that_of_the_full_weights(self, runs, toy_dataset, bits):
        run = runs[bits]
        classifier = Classifier.from_pretrained(run.folder, device="cpu")
        bundle = bundle_of(run)
        spec = encoder.EncoderSpec(classifier_base(bundle), bundle.label_names, bundle.precision, bundle.attention)
        full = Classifier(encoder.load_adapter(spec, run.folder / "adapter").eval(), classifier.tokenizer, bundle)
        split = toy_dataset.validation
        before, after = classifier.logits(split.texts), full.logits(split.texts)
        assert run.drift.largest == pytest.approx(np.abs(before - after).max(), abs=1e-6)
        assert run.drift.mean == pytest.approx(np.abs(before - after).mean(), abs=1e-6)
        assert run.drift.flipped == (before.argmax(1) != after.argmax(1)).sum()
        assert run.drift.accuracy == pytest.approx(np.mean(before.argmax(1) == np.array(split.labels)))
        assert run.drift.accuracy_full == pytest.approx(np.mean(after.argmax(1) == np.array(split.labels)))
        assert 0 < run.drift.mean < 1

    def test_the_loaded_model_is_quantized(self, runs, bits):
        model = Classifier.from_pretrained(runs[bits].folder, device="cpu").model
        layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
        assert len(layers) == 12
        assert {layer.bits for layer in layers} == {bits}


def classifier_base(bundle: Bundle):
    from pathlib import Path

    return Path(bundle.base_model)


def test_fewer_bits_drift_further(runs):
    assert runs[4].drift.mean > 2 * runs[8].drift.mean


def test_an_encoder_that_cannot_run_packed(toy_dataset, machine, tmp_path, fast_reload):
    base = write_model(tmp_path / "albert", "albert")
    assignments = {**QUICK, "training.epochs": 0.5, "quantization.bits": 4}
    plan = planning.plan(toy_dataset, base_model=str(base), assignments=assignments, machine=machine)
    run = training.train(plan, toy_dataset, folder=tmp_path / "run")
    assert plan.settings.compute.engine == "transformers"
    assert run.reload_difference <= 1e-6
    assert run.drift.mean > 0


class TestPrefixCache:
    def test_cached_layers_train_as_those_that_run(self, plans, toy_dataset, tmp_path, monkeypatch, fast_reload):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        for cached in (True, False):
            changes = {"lora.top_layers": 1, "compute.prefix_cache": cached}
            training.train(plans(4, **changes), toy_dataset, folder=tmp_path / str(cached))
        ours, theirs = (adapter(tmp_path / str(cached)) for cached in (True, False))
        assert all((ours[name] - theirs[name]).abs().max() <= 1e-4 for name in ours)
        assert len(prefix.caches()) == 1

    def test_states_of_other_bits_are_not_used(self, plans, toy_dataset, tmp_path, monkeypatch, fast_reload):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        for bits in (None, 4, 8):
            changes = {"lora.top_layers": 1, "compute.prefix_cache": True, "training.epochs": 0.5}
            training.train(plans(bits, **changes), toy_dataset, folder=tmp_path / str(bits))
        assert len(prefix.caches()) == 3


class TestWithoutBitsandbytes:
    def test_the_full_precision_weights_answer_and_a_warning_says_so(self, runs):
        run = runs[4]
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", WITHOUT, str(run.folder), json.dumps(TEXTS)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = np.array(json.loads(done.stdout.splitlines()[-1]))
        expected = Classifier.from_pretrained(run.folder, device="cpu")
        full = Classifier(
            encoder.load_for_prediction(
                encoder.EncoderSpec(classifier_base(expected.bundle), expected.label_names, attention="sdpa"),
                run.folder / "adapter",
            ),
            expected.tokenizer,
            expected.bundle,
        )
        assert np.abs(found - full.logits(TEXTS)).max() <= 1e-6
        assert np.abs(found - expected.logits(TEXTS)).max() > 1e-4
        assert done.stderr.count("TextloraWarning") == 1

    def test_the_command_line_tells_it_in_one_line(self, runs):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_COMMAND, "predict", str(runs[4].folder), "good film", "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["predictions"][0]["label"] in ("negative", "positive")
        assert done.stderr == (
            "warning: The classifier was trained over 4-bit base weights, but bitsandbytes is not installed; the "
            f"full-precision weights are used instead. In training that was measured: {runs[4].drift}. "
            "For the same answers as in training: pip install 'textlora[qlora]'\n"
        )

    def test_a_bundle_without_a_measured_drift(self, runs, tmp_path, monkeypatch):
        shutil.copytree(runs[8].folder / "adapter", tmp_path / "adapter")
        path = tmp_path / "adapter" / "textlora.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "drift": None}))
        monkeypatch.setattr("textlora.engines.torch_engine.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        with pytest.warns(TextloraWarning) as caught:
            Classifier.from_pretrained(tmp_path, device="cpu")
        assert [str(warning.message) for warning in caught] == [
            "The classifier was trained over 8-bit base weights, but no_such_package is not installed; the full-precision "
            "weights are used instead. For the same answers as in training: pip install 'textlora[qlora]'"
        ]

    def test_a_classifier_over_whole_weights_does_not_need_it(self, toy_run, monkeypatch):
        monkeypatch.setattr("textlora.engines.torch_engine.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", TextloraWarning)
            Classifier.from_pretrained(toy_run.folder, device="cpu")

    @pytest.mark.parametrize("bits", BITS)
    def test_training_is_refused(self, monkeypatch, bits):
        monkeypatch.setattr("textlora.planning.checking.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        with pytest.raises(ResourceError) as caught:
            resolve(grounds(), quantization__bits=bits)
        assert str(caught.value) == (
            f"quantization.bits is {bits} {SAID}, but no_such_package is not installed.\n"
            "Install it: pip install 'textlora[qlora]'"
        )

    def test_it_is_named_beside_other_problems(self, monkeypatch):
        monkeypatch.setattr("textlora.planning.checking.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        with pytest.raises(UsageError) as caught:
            resolve(grounds(), quantization__bits=4, compute__device="cuda", text__max_length=600)
        assert [problem.split()[0] for problem in caught.value.problems] == [
            "compute.device", "quantization.bits", "text.max_length",
        ]  # fmt: skip

    def test_a_plan_made_elsewhere_is_refused_before_training(self, plans, toy_dataset, tmp_path, monkeypatch):
        plan = plans(4)
        monkeypatch.setattr("textlora.planning.checking.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        with pytest.raises(ResourceError, match="but no_such_package is not installed"):
            training.train(plan, toy_dataset, folder=tmp_path)
        assert not (tmp_path / "run.json").exists()


class TestPlan:
    def test_off_by_default(self):
        values, reasons = resolve(grounds())
        assert (values["quantization.bits"], reasons["quantization.bits"]) == (None, "default")

    @pytest.mark.parametrize(
        ("bits", "saved"),
        [(4, "0.06"), (8, "0.04")],
    )
    def test_the_reason_says_what_it_saves_and_what_not(self, bits, saved):
        values, reasons = resolve(grounds(), quantization__bits=bits)
        assert values["quantization.bits"] == bits
        assert reasons["quantization.bits"] == (
            f"set on the command line; saves {saved} GB of weights, beside about 0.7 GB of activations that stay"
        )
        assert values["compute.engine"] == "packed"
        assert values["compute.precision"] == "bf16"

    def test_other_bits(self):
        with pytest.raises(UsageError) as caught:
            resolve(grounds(), quantization__bits=2)
        assert caught.value.problems == ("quantization.bits is 2, expected 4 or 8.",)

    def test_an_apple_gpu(self):
        with pytest.raises(UsageError) as caught:
            resolve(grounds(machine=APPLE), quantization__bits=4)
        assert caught.value.problems == (
            f"quantization.bits is 4 {SAID}, which is not tested on an Apple GPU; add compute.device=cpu.",
        )
        assert resolve(grounds(machine=APPLE), quantization__bits=4, compute__device="cpu")

    def test_the_estimate_knows_the_bytes(self, tiny_model):
        from textlora import models

        info = grounds().info
        linears = 6 * (4 * 768 * 768 + 2 * 768 * 3072)
        rest = info.parameters - linears
        assert weights_gb(info, value_bytes=4) == pytest.approx(info.parameters * 4e-9)
        assert weights_gb(info, value_bytes=2, bits=4) == pytest.approx((linears * 0.51587 + rest * 2) * 1e-9, rel=1e-4)
        assert weights_gb(info, value_bytes=2, bits=8) == pytest.approx((linears + rest * 2) * 1e-9)
        shared = replace(info, model_type="albert")
        assert weights_gb(shared, value_bytes=4, bits=4) > weights_gb(info, value_bytes=4, bits=4)
        assert models.base_info(str(tiny_model)).parameters > 0

    def test_the_estimate_is_what_a_model_holds(self, tmp_path):
        from textlora import models

        base = write_model(tmp_path / "model", "distilbert", dim=128, hidden_dim=256)
        info = models.base_info(str(base))
        spec = encoder.EncoderSpec(base, ("a", "b"), precision="bf16", bits=4)
        model, fresh = encoder.load_classifier(spec)
        encoder._freeze(model, fresh, spec)
        held = sum(value.nbytes for name, value in model.named_parameters() if not name.startswith(tuple(fresh))) + sum(
            value.nbytes
            for module in model.modules()
            if isinstance(module, QuantizedLinear)
            for name, value in module.scales.items()
            if "code" not in name
        )
        assert weights_gb(info, value_bytes=2, bits=4) * 1e9 == pytest.approx(held, rel=0.01)


class TestExport:
    @pytest.fixture
    def run(self, runs, tmp_path):
        """A copy of the 4-bit run that an export may be written into."""
        shutil.copytree(runs[4].folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        return tmp_path / "run"

    def test_it_is_merged_into_the_full_precision_weights(self, run, tiny_model):
        folder = export(run).folder
        merged, base = load_file(folder / "model.safetensors"), load_file(tiny_model / "model.safetensors")
        trained = adapter(run)
        name = "transformer.layer.0.attention.q_lin"
        key = f"base_model.model.distilbert.{name}"
        update = trained[f"{key}.lora_B.weight"] @ trained[f"{key}.lora_A.weight"] * (32 / 4)
        expected = base[f"{name}.weight"] + update
        assert (merged[f"distilbert.{name}.weight"] - expected).abs().max() <= 1e-6
        assert {value.dtype for value in merged.values()} == {torch.float32}
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())

    def test_the_drift_is_measured_on_the_test_texts_and_written_down(self, run, toy_dataset):
        from transformers import AutoModelForSequenceClassification

        exported = export(run)
        classifier = Classifier.from_pretrained(run, device="cpu")
        split, tokenizer = toy_dataset.test, classifier.tokenizer
        model = AutoModelForSequenceClassification.from_pretrained(exported.folder).eval()
        inputs = encoder.pad(tokenizer.encode(split.texts).ids, tokenizer.pad_id, limit=64)
        with torch.no_grad():
            after = model(**inputs).logits.numpy()
        before = classifier.logits(split.texts)
        drift = exported.drift
        assert (drift.split, drift.texts) == ("test", 12)
        assert drift.largest == pytest.approx(np.abs(before - after).max(), abs=1e-5)
        assert drift.mean == pytest.approx(np.abs(before - after).mean(), abs=1e-5)
        assert drift.flipped == (before.argmax(1) != after.argmax(1)).sum()
        assert exported.difference <= 1e-4
        config = json.loads((exported.folder / "config.json").read_text())
        assert config["textlora"] == {
            "trained_over_bits": 4,
            "merge_drift": {
                "split": "test", "texts": 12, "largest": drift.largest, "mean": drift.mean, "flipped": drift.flipped,
                "accuracy": drift.accuracy, "accuracy_full": drift.accuracy_full,
            },
        }  # fmt: skip

    def test_the_command_prints_it(self, run):
        result = call("export", run)
        folder, drift = run / "export" / "hf", json.loads(call("export", run, "--json").out)["export"]["drift"]
        assert result.out.splitlines()[0].startswith(f"{folder} (hf, ")
        assert result.out.splitlines()[-1] == (
            f"Trained over quantized weights, merged into the full-precision ones: {Drift(**drift)}."
        )

    def test_the_pipeline_reads_it(self, run):
        folder = export(run).folder
        code = "import sys; from transformers import pipeline; print(pipeline('text-classification', sys.argv[1])('good film'))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert "score" in done.stdout

    def test_without_the_run_what_training_measured_is_told(self, runs, tmp_path):
        shutil.copytree(runs[4].folder / "adapter", tmp_path / "adapter")
        assert export(tmp_path / "adapter", out=tmp_path / "out").drift == runs[4].drift

    def test_of_other_data_what_training_measured_is_told(self, run, runs):
        path = run / storage.RUN
        path.write_text(json.dumps({**json.loads(path.read_text()), "dataset_fingerprint": "0" * 64}))
        assert export(run).drift == runs[4].drift

    def test_without_bitsandbytes_what_training_measured_is_told(self, run, runs, monkeypatch):
        monkeypatch.setattr("textlora.exporting.merging.QLORA", Extra("no_such_package", (0, 50), "qlora"))
        assert export(run).drift == runs[4].drift

    def test_a_run_over_whole_weights_has_none(self, toy_run, tmp_path):
        exported = export(toy_run.folder, out=tmp_path / "out")
        assert exported.drift is None
        assert "textlora" not in json.loads((exported.folder / "config.json").read_text())


class TestDrift:
    def test_as_a_sentence(self):
        assert str(Drift("test", 1200, 0.5, 0.0123, 1, 0.9, 0.89)) == (
            "on 1,200 test texts logits move by 0.012 on average, 0.5 at most; 1 label changes, accuracy 0.9000 -> 0.8900"
        )
        assert "3 labels change, " in str(Drift("test", 1200, 0.5, 0.0123, 3, 0.9, 0.89))

    def test_rows_are_spread_over_a_long_split(self, toy_run, monkeypatch):
        monkeypatch.setattr("textlora.drifting.DRIFT_TEXTS", 5)
        classifier = Classifier.from_pretrained(toy_run.folder, device="cpu")
        drift = measure_drift(classifier, classifier, toy_run.dataset.validation, name="validation")
        assert (drift.texts, drift.largest, drift.flipped) == (4, 0.0, 0)  # every third of twelve
        assert drift.accuracy == drift.accuracy_full


def test_the_run_and_its_report_tell_it(runs):
    from textlora import terminal

    console = terminal.stdout()
    with console.capture() as captured:
        terminal.show_run(runs[4], console)
    assert " in 4 bits, LoRA on " in captured.get()
    assert f"  over full-precision base weights, as merged: {runs[4].drift}" in captured.get()


def test_a_machine_with_bf16_quantizes_in_bf16():
    assert resolve(grounds(machine=XEON), quantization__bits=8)[0]["compute.precision"] == "bf16"
