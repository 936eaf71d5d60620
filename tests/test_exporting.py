"""The merged model in other tools' hands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.conftest import ARCHITECTURES, write_model
from textlora.classifier import Classifier
from textlora.errors import ResourceError, UsageError
from textlora.exporting import export, merging

TEXTS = ["good film", "bad and boring", "it was a fine story", "", "no plot"]
PIPELINE = """
import json, sys
from transformers import pipeline
classify = pipeline("text-classification", sys.argv[1], top_k=None, device="cpu")
print(json.dumps(classify(json.loads(sys.argv[2]), truncation=True)))
assert not [name for name in sys.modules if name.split(".")[0] in ("textlora", "peft")]
"""


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of the run that an export may be written into."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(toy_run.folder / "adapter", folder / "adapter")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_pipeline_gives_the_same_labels_and_scores(run):
    exported = export(run)
    assert exported.folder == run / "export" / "hf"
    assert exported.format == "hf"
    assert exported.difference <= 1e-4
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(exported.folder), json.dumps(TEXTS)],
        capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    classifier = Classifier.from_pretrained(run, device="cpu")
    table = classifier.predict_proba(TEXTS)
    for answers, row in zip(found, table, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        np.testing.assert_allclose([scores[name] for name in classifier.label_names], row, atol=1e-4)
    assert np.ptp(table[:, 0]) > 1e-3


def test_the_folder_is_an_ordinary_one(run):
    folder = export(run).folder
    assert names(folder) == [
        "config.json", "model.safetensors", "textlora.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    assert config["dtype"] == "float32"
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64


def test_it_can_be_written_elsewhere_and_again(run, tmp_path):
    first = export(run, out=tmp_path / "a" / "merged")
    (first.folder / "config.json").write_text("old")
    again = export(run / "adapter", out=tmp_path / "a" / "merged")
    assert first == again
    assert json.loads((again.folder / "config.json").read_text())["model_type"] == "distilbert"


def test_the_run_is_not_changed(run):
    before = {path: path.read_bytes() for path in (run / "adapter").iterdir()}
    export(run)
    assert {path: path.read_bytes() for path in (run / "adapter").iterdir()} == before


def with_temperature(run, temperature):
    path = run / "adapter" / "textlora.json"
    known = {"fitted": temperature, "rows": 100, "mistakes": 20, "loss": 0.5, "gain": 0.1, "standard_error": 0.01}
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "calibration": {**known, "verdict": "kept"}}))


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_pipeline_gives_calibrated_probabilities(run, temperature):
    from transformers import pipeline

    raw = Classifier.from_pretrained(run, device="cpu").predict_proba(TEXTS)
    with_temperature(run, temperature)
    exported = export(run)
    config = json.loads((exported.folder / "config.json").read_text())
    assert config["textlora"] == {"temperature_folded_in": temperature}
    classifier = Classifier.from_pretrained(run, device="cpu")
    table = classifier.predict_proba(TEXTS)
    assert np.abs(table - raw).max() > 0.05
    found = pipeline("text-classification", str(exported.folder), top_k=None)(TEXTS, truncation=True)
    for answers, row in zip(found, table, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        np.testing.assert_allclose([scores[name] for name in classifier.label_names], row, atol=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_last_layer_takes_the_temperature_in_every_architecture(architecture):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=60, num_labels=3, **ARCHITECTURES[architecture])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    inputs = {"input_ids": torch.arange(2, 14)[None], "attention_mask": torch.ones(1, 12, dtype=torch.long)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = model(**inputs).logits
        merging.fold_temperature(model, 2.5)
        torch.testing.assert_close(model(**inputs).logits, before / 2.5)
    assert before.std() > 1e-3


class TestRefusals:
    def refused(self, *arguments, kind=UsageError, **named):
        with pytest.raises(kind) as error:
            export(*arguments, **named)
        return str(error.value)

    def test_an_unknown_format(self, run):
        assert self.refused(run, to="hff") == (
            "There is no export format 'hff'. Did you mean 'hf'?\nFormats: hf, onnx, onnx-int8."
        )
        assert self.refused(run, to="gguf") == ("There is no export format 'gguf'.\nFormats: hf, onnx, onnx-int8.")

    def test_no_classifier(self, tmp_path):
        assert self.refused(tmp_path).startswith(f"{tmp_path} holds no classifier of textlora.")

    def test_a_folder_with_other_files_is_left_alone(self, run, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "thesis.tex").write_text("three years of work")
        assert self.refused(run, out=tmp_path) == (
            f"{tmp_path} holds run, which an export would replace.\nChoose a new or an empty folder."
        )
        assert names(tmp_path) == ["config.json", "run", "thesis.tex"]

    def test_the_base_model_itself_is_left_alone(self, run, tiny_model):
        before = names(tiny_model)
        assert self.refused(run, out=tiny_model) == (
            f"{tiny_model} is the base model itself.\nChoose a new or an empty folder."
        )
        assert names(tiny_model) == before

    def test_another_base_model(self, run, tmp_path):
        other = write_model(tmp_path / "other", "distilbert", seed=9)
        path = run / "adapter" / "textlora.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model": str(other)}))
        assert self.refused(run, kind=ResourceError) == (
            f"The weights of the base model {str(other)!r} are not the ones the classifier was trained on.\n"
            "Restore the original base model, or train again."
        )
        assert not (run / "export").exists()
