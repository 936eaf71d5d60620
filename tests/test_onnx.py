"""ONNX exports: the same answers as the classifier, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import ARCHITECTURES, WORDS, write_model
from tests.test_cli import call
from textlora import Classifier, storage
from textlora.bundles import BUNDLE, exports_of
from textlora.decision import Abstention, Calibration, Decision
from textlora.engines import onnx_engine
from textlora.errors import ResourceError, UsageError
from textlora.exporting import export
from textlora.extras import Extra
from textlora.interval import Interval
from textlora.types import Bundle

TEXTS = ["good film", "it was bad and dull " * 30, "", "loved it", "a boring story with no end and no plot"]
# So many rows of toy data prove no more.
LOOSE = 50.0


def copy_of(folder, target):
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("checkpoints", "export", "exports.json"))


def change(folder, **changes):
    path = folder / BUNDLE
    bundle = replace(storage.read_noun(path, Bundle, made_by="train"), **changes)
    storage.write_noun(path, bundle)


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    """The toy run with a temperature and a rate of errors, so that every part of an answer shows."""
    folder = copy_of(toy_run.folder, tmp_path_factory.mktemp("onnx") / "run")
    change(
        folder / "adapter",
        calibration=Calibration(1.7, 100, 20, 0.5, 0.1, 0.01, "kept"),
        abstention=Abstention(0.1, 0.6, 100, Interval(0.9, 0.85, 0.95)),
    )
    return folder


@pytest.fixture(scope="module")
def exports(run):
    """One export of each format."""
    return {
        "hf": export(run),
        "onnx": export(run, to="onnx"),
        "onnx-int8": export(run, to="onnx-int8", tolerance=LOOSE),
    }


class TestAnswers:
    @pytest.mark.parametrize("to", ["hf", "onnx"])
    def test_they_are_the_classifiers(self, run, exports, to):
        original, opened = Classifier.from_pretrained(run, device="cpu"), Classifier.from_pretrained(exports[to].folder)
        np.testing.assert_allclose(opened.logits(TEXTS), original.logits(TEXTS), atol=1e-4)
        np.testing.assert_allclose(opened.predict_proba(TEXTS), original.predict_proba(TEXTS), atol=1e-4)
        for mine, theirs in zip(opened.predict(TEXTS), original.predict(TEXTS), strict=True):
            assert (mine.label, mine.labels, mine.abstains, mine.truncated) == (
                theirs.label, theirs.labels, theirs.abstains, theirs.truncated,
            )  # fmt: skip
        assert opened.label_names == original.label_names
        assert opened.whole_length == original.whole_length
        assert opened.count_tokens(TEXTS) == original.count_tokens(TEXTS)

    def test_of_eight_bits_they_are_near(self, run, exports):
        original, opened = (
            Classifier.from_pretrained(folder, device="cpu") for folder in (run, exports["onnx-int8"].folder)
        )
        difference = np.abs(opened.predict_proba(TEXTS) - original.predict_proba(TEXTS)).max()
        assert 1e-6 < difference < 0.1

    def test_a_text_answers_the_same_in_any_company(self, exports):
        opened = Classifier.from_pretrained(exports["onnx"].folder)
        texts = [" ".join(WORDS[: 1 + index * 7 % 50]) for index in range(300)]
        together = opened.logits(texts)
        for index in (0, 1, 77, 299):
            np.testing.assert_allclose(together[index], opened.logits([texts[index]])[0], atol=1e-5)
        assert opened.logits([]).shape == (0, 2)

    def test_explanations_name_the_same_words(self, run, exports):
        text = ["the film was boring and bad"]
        mine = Classifier.from_pretrained(exports["onnx"].folder).explain(text, top_k=2)[0]
        theirs = Classifier.from_pretrained(run, device="cpu").explain(text, top_k=2)[0]
        assert [(span.start, span.end) for span in mine.spans] == [(span.start, span.end) for span in theirs.spans]

    def test_other_tools_get_calibrated_probabilities(self, exports):
        import onnxruntime

        opened = Classifier.from_pretrained(exports["onnx"].folder)
        session = onnxruntime.InferenceSession(str(exports["onnx"].folder / "model.onnx"))
        ids = opened.tokenizer.encode(["good film", "a bad bad story"]).ids
        inputs = onnx_engine.pad(ids, 0)
        logits = session.run(["logits"], {name: inputs[name] for name in ("input_ids", "attention_mask")})[0]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(shares, opened.predict_proba(["good film", "a bad bad story"]), atol=1e-5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"policy": "windows", "max_length": 16, "window_overlap": 4, "max_windows": 5},
            {"policy": "head+tail", "max_length": 16, "head_tokens": 4},
            {"task": "multi_label", "thresholds": (0.3, 0.9), "abstention": None},
            {"decision": Decision("f1", "positive", 0.8, 100, {"f1": 0.9})},
        ],
        ids=["windows", "head+tail", "several labels", "threshold"],
    )
    def test_whatever_the_bundle_says_is_done(self, run, exports, changes, tmp_path):
        folders = [copy_of(run / "adapter", tmp_path / "run"), copy_of(exports["onnx"].folder, tmp_path / "onnx")]
        for folder in folders:
            change(folder, **changes)
        theirs, mine = (Classifier.from_pretrained(folder, device="cpu") for folder in folders)
        assert mine.whole_length == theirs.whole_length
        np.testing.assert_allclose(mine.logits(TEXTS), theirs.logits(TEXTS), atol=1e-4)
        for one, other in zip(mine.predict(TEXTS), theirs.predict(TEXTS), strict=True):
            assert (one.label, one.labels, one.abstains, one.truncated) == (
                other.label, other.labels, other.abstains, other.truncated,
            )  # fmt: skip


FRESH = """
import json, sys
from textlora import Classifier
opened = Classifier.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
answers = [prediction.probabilities for prediction in opened.predict(texts)]
opened.explain(texts[:1], top_k=1)
heavy = [name for name in ("torch", "transformers", "peft", "accelerate") if name in sys.modules]
print(json.dumps({"answers": answers, "heavy": heavy}))
"""


class TestFreshProcess:
    @pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
    def test_neither_torch_nor_transformers_is_loaded(self, exports, to):
        folder = exports[to].folder
        done = subprocess.run(
            [sys.executable, "-c", FRESH, str(folder), json.dumps(TEXTS)],
            capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["heavy"] == []
        here = Classifier.from_pretrained(folder).predict(TEXTS)
        for answer, prediction in zip(found["answers"], here, strict=True):
            assert answer == pytest.approx(prediction.probabilities, abs=1e-6)

    def test_the_command_line_does_without_them_too(self, exports):
        code = "import sys; from textlora.__main__ import run\ntry:\n    run()\nfinally:\n    assert 'torch' not in sys.modules"
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", str(exports["onnx"].folder), "good film"],
            capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "AssertionError" not in done.stderr
        assert "positive" in done.stdout or "negative" in done.stdout


class TestFolder:
    def test_what_travels(self, exports):
        for to in ("onnx", "onnx-int8"):
            assert sorted(file.name for file in exports[to].folder.iterdir()) == [
                "config.json", "model.onnx", "textlora.json", "tokenizer.json", "tokenizer_config.json",
            ]  # fmt: skip

    def test_eight_bits_are_smaller(self, exports):
        assert exports["onnx-int8"].size < exports["onnx"].size

    def test_lengths_and_batches_are_free(self, exports):
        model = Classifier.from_pretrained(exports["onnx"].folder).model
        assert [found.type for found in model.get_inputs()] == ["tensor(int64)"] * 2
        assert all(isinstance(size, str) for found in model.get_inputs() for size in found.shape)

    @pytest.mark.parametrize("to", ["hf", "onnx"])
    def test_an_opened_export_can_be_saved(self, exports, to, tmp_path):
        opened = Classifier.from_pretrained(exports[to].folder, device="cpu")
        again = Classifier.from_pretrained(opened.save_pretrained(tmp_path / "copy"), device="cpu")
        assert np.array_equal(again.logits(TEXTS), opened.logits(TEXTS))
        assert again.fingerprint == opened.fingerprint

    def test_fingerprints_differ(self, exports):
        found = {Classifier.from_pretrained(made.folder, device="cpu").fingerprint for made in exports.values()}
        assert len(found) == 3

    def test_a_damaged_model_is_named(self, exports, tmp_path):
        folder = shutil.copytree(exports["onnx"].folder, tmp_path / "copy")
        (folder / "model.onnx").write_bytes(b"no protobuf")
        with pytest.raises(ResourceError) as error:
            Classifier.from_pretrained(folder)
        assert error.value.message.startswith(f"{folder / 'model.onnx'} cannot be loaded: ")

    def test_damaged_merged_weights_are_named(self, exports, tmp_path):
        folder = shutil.copytree(exports["hf"].folder, tmp_path / "copy")
        (folder / "model.safetensors").write_bytes(b"{}")
        with pytest.raises(ResourceError, match="Cannot read the weights in"):
            Classifier.from_pretrained(folder, device="cpu")

    def test_it_is_no_run(self, exports, tmp_path):
        with pytest.raises(UsageError) as error:
            export(exports["onnx"].folder, out=tmp_path / "again")
        assert str(error.value) == (
            f"{exports['onnx'].folder} is an export already, in the format onnx.\nGive the run folder."
        )

    def test_it_computes_on_the_processor(self, exports):
        with pytest.raises(UsageError, match="computes on the processor, not on 'cuda'"):
            Classifier.from_pretrained(exports["onnx"].folder, device="cuda")

    def test_without_onnx_runtime_the_command_is_named(self, exports, run, monkeypatch):
        missing = Extra("no_such_package", (1, 30), "onnx")
        monkeypatch.setattr(onnx_engine, "ONNX_RUNTIME", missing)
        monkeypatch.setattr("textlora.exporting.onnx_file.ONNX", missing)
        with pytest.raises(ResourceError) as error:
            Classifier.from_pretrained(exports["onnx"].folder)
        assert error.value.hint == "pip install 'textlora[onnx]'"
        with pytest.raises(ResourceError, match="no_such_package is not installed"):
            export(run, to="onnx")

    def test_a_full_memory_ends_in_smaller_passes(self, exports):
        opened = Classifier.from_pretrained(exports["onnx"].folder)
        texts = [" ".join(WORDS[:30])] * 64
        expected, real = opened.logits(texts), opened.engine.model

        class Full:
            def run(self, names, inputs):
                if inputs["input_ids"].size > 300:
                    raise RuntimeError("Failed to allocate memory for requested buffer of size 1234")
                return real.run(names, inputs)

        opened.engine.model = Full()
        opened.budget.tokens = 1024
        with pytest.warns(UserWarning, match="the memory ran out"):
            np.testing.assert_allclose(opened.logits(texts), expected, atol=1e-6)


# Hugging Face has no other attention for them.
EAGER_ONLY = ("deberta", "deberta-v2", "mpnet")


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_last_layer_may_leave_all_but_the_first_token_out(architecture, kernel):
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from textlora import packed
    from textlora.exporting import first_token

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=60, num_labels=3, **ARCHITECTURES[architecture])
    config._attn_implementation = kernel if architecture not in EAGER_ONLY else "eager"
    model = AutoModelForSequenceClassification.from_config(config).eval()
    inputs = {
        name: torch.from_numpy(value)
        for name, value in onnx_engine.pad(
            [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 17, 40)], 0
        ).items()
        if name != "token_type_ids"
    }
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = model(**inputs).logits
        first_token.shorten(model)
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-5, rtol=1e-5)
    shortened = any(isinstance(module, first_token.FirstTokenLayer) for module in model.modules())
    assert shortened == packed.supports(config)
    assert before.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_is_exact(architecture, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    from textlora.exporting import onnx_file

    write_model(tmp_path / "model", architecture)
    (tmp_path / "out").mkdir()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=3).eval()
    onnx_file.write(model, tmp_path / "out", int8=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    ids = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 17, 40)]
    inputs = onnx_engine.pad(ids, 0)
    given = {found.name: inputs[found.name] for found in session.get_inputs()}
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    np.testing.assert_allclose(session.run(["logits"], given)[0], expected, atol=1e-4)


def test_the_run_keeps_what_was_compared(run, exports):
    known = exports_of(run)
    assert [made.format for made in known.made] == ["hf", "onnx", "onnx-int8"]
    parity = known.made[1].parity
    assert (parity.split, parity.rows, parity.flipped) == ("test and validation", 24, 0)
    assert parity.largest == exports["onnx"].difference <= 1e-4
    assert parity.before_ms > 0 < parity.after_ms


def test_another_decision_makes_them_old(run, exports, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    assert exports_of(folder).made
    change(folder / "adapter", abstention=None)
    assert exports_of(folder) is None


def test_the_command_says_how_it_answers(run, tmp_path):
    result = call("export", run, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out'} (hf, ")
    assert lines[1].startswith("  logits differ from the classifier's by ")
    assert lines[2].startswith("  0 of 24 test and validation rows get another label; accuracy ")
    assert lines[3].endswith(" times as fast")


def test_exports_are_served_beside_their_run(run, exports):
    from tests.served import serving
    from textlora.serving import running
    from textlora.serving.limits import Limits

    folders = {"run": run, "hf": exports["hf"].folder, "onnx": exports["onnx"].folder}
    with serving(running.service_over(folders, Limits(), device="cpu")) as served:
        rows = [served.predict(TEXTS, model=name).json for name in folders]

    scores = [[[each["score"] for each in sorted(row, key=lambda each: each["label"])] for row in own] for own in rows]
    assert np.abs(np.array(scores) - np.array(scores[0])).max() < 1e-4
