"""``Classifier``: predict, save, load, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICK, WORDS, write_model
from textlora import planning, training
from textlora.bundles import base_fingerprint
from textlora.classifier import Classifier
from textlora.errors import ResourceError, TrainingError, UsageError
from textlora.preparation import prepare
from textlora.reloading import reload_difference
from textlora.tasks import softmax

TEXTS = ["good film", "it was bad and dull " * 30, "", "loved it", "a boring story with no end and no plot"]


@pytest.fixture(scope="module")
def classifier(toy_run):
    return Classifier.from_pretrained(toy_run.folder, device="cpu")


@pytest.fixture
def copied(toy_run, tmp_path):
    """A copy of the bundle that a test may spoil."""
    return shutil.copytree(toy_run.folder / "adapter", tmp_path / "bundle")


def change_bundle(folder, **changes):
    path = folder / "textlora.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestPredict:
    def test_label_probability_and_probabilities_belong_together(self, classifier):
        found = classifier.predict(TEXTS)
        table = classifier.predict_proba(TEXTS)
        assert table.shape == (5, 2)
        for prediction, row in zip(found, table, strict=True):
            assert list(prediction.probabilities) == ["negative", "positive"]
            assert list(prediction.probabilities.values()) == row.tolist()
            assert prediction.label == classifier.label_names[row.argmax()]
            assert prediction.probability == row.max()
            assert sum(row) == pytest.approx(1, abs=1e-12)
        assert np.ptp(table[:, 0]) > 1e-4  # not the same for every text

    def test_long_texts_are_marked(self, classifier):
        assert [prediction.truncated for prediction in classifier.predict(TEXTS)] == [False, True, False, False, False]

    def test_the_order_is_that_of_the_texts(self, classifier):
        texts = [" ".join(WORDS[: 1 + index * 7 % 50]) for index in range(300)]
        together = classifier.logits(texts)
        for index in (0, 1, 77, 150, 299):
            np.testing.assert_allclose(together[index], classifier.logits([texts[index]])[0], atol=1e-5)

    def test_many_blocks(self, classifier):
        texts = [f"good {WORDS[index % 25]}" for index in range(4_200)]
        table = classifier.predict_proba(texts)
        np.testing.assert_allclose(table[4_150:4_200], table[:50], atol=1e-6)
        np.testing.assert_allclose(table[2_050:2_100], table[:50], atol=1e-6)

    def test_no_texts(self, classifier):
        assert classifier.predict([]) == []
        assert classifier.predict_proba([]).shape == (0, 2)
        assert classifier.logits([]).shape == (0, 2)

    def test_any_sequence_will_do(self, classifier):
        assert classifier.predict(tuple(TEXTS)) == classifier.predict(np.array(TEXTS)) == classifier.predict(TEXTS)

    @pytest.mark.parametrize("method", ["predict", "predict_proba", "logits"])
    def test_one_text_without_a_list_is_refused(self, classifier, method):
        with pytest.raises(UsageError) as error:
            getattr(classifier, method)("good film")
        assert str(error.value) == 'predict takes a list of texts, and got one text.\nWrite predict(["…"]).'

    def test_what_is_no_text_is_named(self, classifier):
        with pytest.raises(UsageError) as error:
            classifier.predict(["good", None, 3, "bad", float("nan")])
        assert str(error.value) == (
            "Every text must be a string:\n  - text 1 is NoneType\n  - text 2 is int\n  - text 4 is float"
        )

    def test_odd_texts_are_texts_too(self, classifier):
        found = classifier.predict(["\ud800", "\x00", "日本語", "x" * 100_000])
        assert all(0 <= prediction.probability <= 1 for prediction in found)

    def test_progress(self, classifier):
        seen = []
        classifier.predict(["good"] * 2_500, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (2_500, 2_500)
        assert seen == sorted(set(seen))

    def test_count_tokens(self, classifier):
        assert classifier.count_tokens(["", "good film", "good " * 90]) == [2, 4, 92]
        assert classifier.max_length == 64

    def test_softmax_survives_large_numbers(self):
        np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [0.0, 0.0]])), [[1, 0], [0.5, 0.5]])

    def test_nothing_is_left_for_a_backward_pass(self, classifier):
        assert not classifier.model.training
        classifier.predict(TEXTS)
        assert all(parameter.grad is None for parameter in classifier.model.parameters())


class TestSaveAndLoad:
    def test_the_saved_one_answers_equally(self, classifier, tmp_path):
        folder = classifier.save_pretrained(tmp_path / "deep" / "mine")
        again = Classifier.from_pretrained(str(folder), device="cpu")
        assert np.array_equal(again.logits(TEXTS), classifier.logits(TEXTS))
        assert again.bundle == classifier.bundle
        assert again.fingerprint == classifier.fingerprint

    def test_no_pickles(self, classifier, tmp_path):
        folder = classifier.save_pretrained(tmp_path / "mine")
        names = sorted(file.name for file in folder.rglob("*"))
        assert names == [
            "adapter_config.json", "adapter_model.safetensors", "textlora.json", "tokenizer.json",
            "tokenizer_config.json",
        ]  # fmt: skip

    def test_run_folder_and_bundle_are_the_same(self, classifier, toy_run):
        again = Classifier.from_pretrained(toy_run.folder / "adapter", device="cpu")
        assert np.array_equal(again.logits(TEXTS), classifier.logits(TEXTS))

    def test_an_older_bundle_is_replaced(self, classifier, copied):
        (copied / "adapter_model.safetensors").write_bytes(b"old")
        classifier.save_pretrained(copied)
        assert np.array_equal(Classifier.from_pretrained(copied, device="cpu").logits(TEXTS), classifier.logits(TEXTS))

    def test_an_empty_folder_is_as_good_as_none(self, classifier, tmp_path):
        (tmp_path / "mine").mkdir()
        assert classifier.save_pretrained(tmp_path / "mine") == tmp_path / "mine"

    def test_a_folder_with_other_files_is_left_alone(self, classifier, tmp_path):
        (tmp_path / "thesis.tex").write_text("three years of work")
        with pytest.raises(UsageError) as error:
            classifier.save_pretrained(tmp_path)
        assert str(error.value) == (
            f"{tmp_path} holds other files, which saving would replace.\nChoose a new or an empty folder."
        )
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_run_folder_is_not_replaced(self, classifier, toy_run):
        with pytest.raises(UsageError, match="holds other files, which saving would replace"):
            classifier.save_pretrained(toy_run.folder)
        assert (toy_run.folder / "run.json").exists()

    def test_a_file_in_the_way_is_named(self, classifier, tmp_path):
        (tmp_path / "mine").write_text("")
        with pytest.raises(ResourceError) as error:
            classifier.save_pretrained(tmp_path / "mine")
        assert error.value.message == f"{tmp_path / 'mine'} cannot be made: a file of that name is in the way."

    def test_the_fingerprint_sees_every_weight(self, classifier, copied):
        weights = load_file(copied / "adapter_model.safetensors")
        name = next(name for name in weights if "lora_A" in name)
        weights[name][0, 0] += 1e-4
        save_file(weights, copied / "adapter_model.safetensors", metadata={"format": "pt"})
        assert Classifier.from_pretrained(copied, device="cpu").fingerprint != classifier.fingerprint

    def test_the_device_is_chosen_when_none_is_named(self, toy_run):
        from textlora.engines.torch_engine import best_device

        assert Classifier.from_pretrained(toy_run.folder).model.device.type == best_device()


class TestThreeClasses:
    NAMES = ("bad & ugly", "été", "7")

    @pytest.fixture(scope="class")
    def folder(self, tiny_model, machine, tmp_path_factory):
        import csv
        import random

        draw = random.Random(5)
        root = tmp_path_factory.mktemp("three")
        with (root / "three.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for number in range(90):
                writer.writerow([" ".join(draw.choices(WORDS, k=draw.randint(4, 12))), self.NAMES[number % 3]])
        dataset = prepare(root / "three.csv", out=root / "run", labels=self.NAMES)
        assignments = {**QUICK, "training.epochs": 1, "compute.precision": "bf16"}
        plan = planning.plan(dataset, base_model=str(tiny_model), assignments=assignments, machine=machine)
        assert training.train(plan, dataset).reload_difference <= 1e-6
        return root / "run"

    def test_label_names_survive_in_their_order(self, folder):
        classifier = Classifier.from_pretrained(folder, device="cpu")
        assert classifier.label_names == self.NAMES
        assert classifier.predict_proba(TEXTS).shape == (5, 3)
        for prediction, row in zip(classifier.predict(TEXTS), classifier.predict_proba(TEXTS), strict=True):
            assert list(prediction.probabilities.items()) == list(zip(self.NAMES, row, strict=True))
            assert prediction.label == self.NAMES[int(row.argmax())]

    def test_the_precision_of_training_is_that_of_prediction(self, folder):
        classifier = Classifier.from_pretrained(folder, device="cpu")
        assert classifier.bundle.precision == "bf16"
        frozen = {p.dtype for n, p in classifier.model.named_parameters() if "lora_" not in n and "classifier" not in n}
        assert frozen == {torch.bfloat16}


class TestRefusals:
    def refused(self, folder, kind=UsageError):
        with pytest.raises(kind) as error:
            Classifier.from_pretrained(folder, device="cpu")
        return str(error.value)

    def test_no_folder(self, tmp_path):
        assert self.refused(tmp_path / "none") == (
            f"There is no folder {tmp_path / 'none'}.\n"
            "Give the run folder that `textlora fit` or `textlora train` made."
        )

    def test_another_folder(self, tmp_path):
        assert self.refused(tmp_path) == (
            f"{tmp_path} holds no classifier of textlora.\n"
            "Give the run folder that `textlora fit` or `textlora train` made."
        )

    def test_a_folder_without_training_yet(self, toy_run, tmp_path):
        shutil.copy(toy_run.folder / "dataset.json", tmp_path)
        assert self.refused(tmp_path) == (
            f"{tmp_path} has data but no trained classifier yet.\nRun `textlora train {tmp_path}` first."
        )

    def test_a_file(self, toy_csv):
        assert self.refused(toy_csv).startswith(f"{toy_csv} holds no classifier of textlora.")

    def test_another_version(self, copied):
        change_bundle(copied, schema={"noun": "Bundle", "version": 99})
        assert self.refused(copied) == (
            f"{copied / 'textlora.json'} has schema version 99; this textlora reads version 1.\nUpdate textlora."
        )

    def test_a_damaged_bundle(self, copied):
        change_bundle(copied, policy="middle")
        assert self.refused(copied).startswith(f"{copied / 'textlora.json'} is damaged: policy: ")

    def test_other_base_weights(self, toy_run, copied, tmp_path):
        other = write_model(tmp_path / "other", "distilbert", seed=9)
        change_bundle(copied, base_model=str(other))
        assert self.refused(copied, ResourceError) == (
            f"The weights of the base model {str(other)!r} are not the ones the classifier was trained on.\n"
            "Restore the original base model, or train again."
        )

    def test_a_base_model_that_is_gone(self, copied):
        change_bundle(copied, base_model="/no/such/model")
        assert self.refused(copied, ResourceError) == (
            f"The base model of this classifier, /no/such/model, is not there, nor {copied.parent / 'model'}.\n"
            "Put the encoder's folder back, or beside the run folder under the same name."
        )

    def test_no_weights(self, copied):
        (copied / "adapter_model.safetensors").unlink()
        assert self.refused(copied, ResourceError) == (
            f"The adapter in {copied} cannot be loaded: adapter_model.safetensors is missing.\n"
            "Restore the folder, or train again."
        )

    def test_truncated_weights(self, copied):
        file = copied / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        assert self.refused(copied, ResourceError).startswith(f"The adapter in {copied} cannot be loaded: ")

    def test_weights_for_another_number_of_labels(self, copied):
        change_bundle(copied, label_names=["a", "b", "c"])
        message = self.refused(copied, ResourceError)
        assert message.startswith(f"The adapter in {copied} cannot be loaded: ")

    def test_no_tokenizer(self, copied):
        (copied / "tokenizer.json").unlink()
        (copied / "tokenizer_config.json").unlink()
        assert self.refused(copied).startswith("Cannot load the tokenizer of ")


class TestFreshProcess:
    def test_equal_logits(self, classifier, toy_run):
        assert reload_difference(classifier, toy_run.folder / "adapter", TEXTS) <= 1e-6

    def test_a_changed_file_is_noticed_and_stray_modules_do_not_matter(self, classifier, copied, tmp_path, monkeypatch):
        weights = load_file(copied / "adapter_model.safetensors")
        weights["base_model.model.classifier.bias"] += torch.tensor([0.25, 0.0])
        save_file(weights, copied / "adapter_model.safetensors", metadata={"format": "pt"})
        (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
        monkeypatch.chdir(tmp_path)
        assert reload_difference(classifier, copied, TEXTS) == pytest.approx(0.25, abs=1e-5)

    def test_what_cannot_be_loaded_is_told(self, classifier, copied):
        (copied / "adapter_model.safetensors").unlink()
        with pytest.raises(TrainingError) as error:
            reload_difference(classifier, copied, TEXTS)
        assert error.value.message.startswith(f"The saved classifier in {copied} cannot be loaded in a fresh process: ")


def test_the_base_fingerprint_covers_names_and_bytes(tmp_path):
    first = write_model(tmp_path / "a", "distilbert")
    second = shutil.copytree(first, tmp_path / "b")
    assert base_fingerprint(first) == base_fingerprint(second)
    (second / "model.safetensors").rename(second / "model-00001-of-00001.safetensors")
    assert base_fingerprint(first) != base_fingerprint(second)
