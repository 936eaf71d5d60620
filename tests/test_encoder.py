"""Every architecture trained, saved and loaded again; the adapters' arithmetic against PEFT's."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import ARCHITECTURES, QUICK, reload_in_this_process, write_model
from textlora import encoder, models, planning, training
from textlora.batching import LENGTH_STEP
from textlora.classifier import Classifier
from textlora.encoder import EncoderSpec
from textlora.errors import ResourceError, UsageError
from textlora.settings import LoraSettings

TEXTS = ["good film", "a bad and boring story that never ends", "it was not the plot " * 9, ""]
# What an encoder saved without a head lacks: trained and saved whole.
FRESH = {
    "distilbert": ("pre_classifier", "classifier"),
    "bert": ("classifier",),
    "roberta": ("classifier",),
    "electra": ("classifier",),
    "deberta": ("pooler.dense", "classifier"),
    "deberta-v2": ("pooler.dense", "classifier"),
    "albert": ("classifier",),
    "mpnet": ("classifier",),
    "xlm-roberta": ("classifier",),
    "camembert": ("classifier",),
    "modernbert": ("head.dense", "head.norm", "classifier"),
}
ANSWER = """
import json, sys
from textlora.classifier import Classifier
folders, texts = json.loads(sys.argv[1])
print(json.dumps({name: Classifier.from_pretrained(folder, device="cpu").logits(texts).tolist() for name, folder in folders.items()}))
"""


def lora(model_folder, **changes):
    targets = models.base_info(str(model_folder)).linear_names
    return LoraSettings(**{"r": 4, "lora_alpha": 8, "target_modules": targets, **changes})


def build(folder, *, seed=1, names=("no", "yes"), settings=None, **spec):
    return encoder.build_model(EncoderSpec(folder, names, **spec), settings or lora(folder), seed=seed)


def stir(model, seed=5):
    """Give B values other than zero, so that the adapters take part."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def inputs(seed=0, length=20):
    torch.manual_seed(seed)
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, 7:] = 0
    return {"input_ids": torch.randint(5, 90, (3, length)), "attention_mask": mask}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    return {name: write_model(root / name, name) for name in ARCHITECTURES}


class TestEveryArchitecture:
    @pytest.fixture(scope="class")
    def runs(self, folders, toy_dataset, machine, tmp_path_factory):
        """Each architecture trained through ``train``."""
        root = tmp_path_factory.mktemp("runs")
        runs = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.saving, "reload_difference", reload_in_this_process)
            for name, folder in folders.items():
                assignments = {**QUICK, "training.epochs": 0.5}
                plan = planning.plan(toy_dataset, base_model=str(folder), assignments=assignments, machine=machine)
                runs[name] = training.train(plan, toy_dataset, folder=root / name)
        return runs

    @pytest.fixture(scope="class")
    def fresh_logits(self, runs):
        """What one fresh process answers for all of the saved bundles."""
        request = json.dumps([{name: str(run.folder) for name, run in runs.items()}, TEXTS])
        done = subprocess.run([sys.executable, "-c", ANSWER, request], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_reloaded_in_a_fresh_process_it_gives_the_same_logits(self, runs, fresh_logits, name):
        here = Classifier.from_pretrained(runs[name].folder, device="cpu").logits(TEXTS)
        assert np.abs(here - np.array(fresh_logits[name])).max() <= 1e-6
        assert runs[name].reload_difference <= 1e-6
        assert np.ptp(here, axis=0).min() > 1e-3  # equal logits for all texts would prove little

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_the_file_holds_all_that_was_trained(self, runs, name):
        weights = load_file(runs[name].folder / "adapter" / "adapter_model.safetensors")
        assert sum(array.numel() for array in weights.values()) == runs[name].trainable_parameters
        config = json.loads((runs[name].folder / "adapter" / "adapter_config.json").read_text())
        # PEFT adds the usual names of heads.
        assert set(config["modules_to_save"]) - {"score"} == set(FRESH[name])
        moved = [array for key, array in weights.items() if "lora_B" in key]
        assert moved
        assert all(array.abs().max() > 0 for array in moved)

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_the_losses_are_finite_and_the_architecture_is_named(self, runs, name):
        run = runs[name]
        assert run.steps == 6
        assert np.isfinite([entry["loss"] for entry in run.history if "loss" in entry]).all()
        assert run.architecture.endswith("ForSequenceClassification")
        assert run.trainable_parameters < run.total_parameters

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_another_base_model_would_be_noticed(self, runs, fresh_logits, name):
        weights = load_file(runs[name].folder / "adapter" / "adapter_model.safetensors")
        key = next(key for key in weights if key.endswith("classifier.weight") or "out_proj.weight" in key)
        classifier = Classifier.from_pretrained(runs[name].folder, device="cpu")
        with torch.no_grad():
            saved = next(
                value
                for value in classifier.model.parameters()
                if value.shape == weights[key].shape and torch.equal(value, weights[key])
            )
            saved[0, 0] += 0.01
        assert np.abs(classifier.logits(TEXTS) - np.array(fresh_logits[name])).max() > 1e-6


class TestFreshModules:
    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_head_and_pooler(self, folders, name):
        _, fresh = encoder.load_classifier(EncoderSpec(folders[name], ("a", "b")))
        assert fresh == FRESH[name]

    @pytest.mark.parametrize(("name", "pooler"), [("bert", "bert.pooler.dense"), ("albert", "albert.pooler")])
    def test_a_missing_pooler_is_trained_and_saved(self, tmp_path, name, pooler):
        folder = write_model(tmp_path / name, name)
        weights = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in weights.items() if "pooler" not in key}
        assert len(kept) == len(weights) - 2
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        spec = EncoderSpec(folder, ("no", "yes"))
        model = stir(encoder.build_model(spec, lora(folder), seed=1))
        saved = model.get_submodule(f"base_model.model.{pooler}").modules_to_save["default"]
        assert all(parameter.requires_grad for parameter in saved.parameters())
        nn.init.normal_(saved.weight)
        encoder.save_adapter(model, tmp_path / "adapter")
        again = encoder.load_adapter(spec, tmp_path / "adapter")
        with torch.no_grad():
            assert torch.equal(model.eval()(**inputs()).logits, again.eval()(**inputs()).logits)

    def test_a_head_for_other_classes_is_replaced(self, tmp_path):
        from transformers import AutoModelForSequenceClassification

        folder = write_model(tmp_path / "model", "bert")
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5).save_pretrained(folder)
        model, fresh = encoder.load_classifier(EncoderSpec(folder, ("a", "b", "c")))
        assert fresh == ("classifier",)
        assert model.classifier.weight.shape == (3, 32)
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}

    def test_no_adapter_lies_inside_a_fresh_module(self, folders):
        for name, folder in folders.items():
            inside = [
                path for path, _ in build(folder).named_parameters() if "lora_" in path and "modules_to_save" in path
            ]
            assert inside == [], name


class TestSeeds:
    def test_the_seed_decides_head_and_adapters(self, folders):
        first, same, other = (
            {name: value for name, value in build(folders["bert"], seed=seed).named_parameters() if value.requires_grad}
            for seed in (1, 1, 2)
        )
        assert all(torch.equal(first[name], same[name]) for name in first)
        drawn = [
            name for name in first if "lora_A" in name or name.endswith("classifier.modules_to_save.default.weight")
        ]
        assert drawn
        assert not any(torch.equal(first[name], other[name]) for name in drawn)


class TestNarrowAdapters:
    """The adapters' forward against PEFT's own."""

    def logits_and_gradients(self, model, seed=0):
        model.zero_grad()
        torch.manual_seed(seed)
        logits = model(**inputs()).logits
        logits.square().sum().backward()
        return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def with_pefts_forward(self, model):
        from peft.tuners.lora import Linear

        changed = [module for module in model.modules() if isinstance(module, Linear) and "forward" in vars(module)]
        assert changed
        for module in changed:
            del module.forward
        return model

    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_forward_and_gradients_equal_pefts_in_fp32(self, folders, name):
        model = stir(build(folders[name])).eval()
        logits, gradients = self.logits_and_gradients(model)
        expected, reference = self.logits_and_gradients(self.with_pefts_forward(model))
        assert (logits - expected).abs().max() <= 1e-5
        assert gradients.keys() == reference.keys()
        assert any("lora_A" in name for name in gradients)
        for path, gradient in gradients.items():
            torch.testing.assert_close(gradient, reference[path], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("training_mode", [False, True])
    def test_with_dropout(self, folders, training_mode):
        folder = folders["distilbert"]
        model = stir(build(folder, settings=lora(folder, lora_dropout=0.5))).train(training_mode)
        logits, gradients = self.logits_and_gradients(model)
        expected, reference = self.logits_and_gradients(self.with_pefts_forward(model))
        assert (logits - expected).abs().max() <= 1e-5
        for path, gradient in gradients.items():
            torch.testing.assert_close(gradient, reference[path], atol=1e-5, rtol=1e-4)

    def test_dropout_of_the_adapters_acts_in_training_only(self, folders):
        folder = folders["distilbert"]
        model = stir(build(folder, settings=lora(folder, lora_dropout=0.5)))
        ids = inputs()
        trunk = model.base_model.model.distilbert
        assert not torch.equal(trunk.train()(**ids).last_hidden_state, trunk(**ids).last_hidden_state)
        assert torch.equal(trunk.eval()(**ids).last_hidden_state, trunk(**ids).last_hidden_state)

    def test_disabled_adapters_leave_the_base_model(self, folders):
        folder = folders["distilbert"]
        model = stir(build(folder)).eval()
        base, _ = encoder.load_classifier(EncoderSpec(folder, ("no", "yes")))
        ids = inputs()
        with torch.no_grad(), model.disable_adapter():
            hidden = model.base_model.model.distilbert(**ids).last_hidden_state
        with torch.no_grad():
            assert torch.equal(hidden, base.eval().distilbert(**ids).last_hidden_state)
            assert not torch.equal(hidden, model.base_model.model.distilbert(**ids).last_hidden_state)

    def test_merged_and_unmerged_give_the_same(self, folders):
        model = stir(build(folders["bert"])).eval()
        with torch.no_grad():
            before = model(**inputs()).logits
            model.merge_adapter()
            merged = model(**inputs()).logits
            model.unmerge_adapter()
            after = model(**inputs()).logits
        assert (merged - before).abs().max() <= 1e-5
        assert (after - before).abs().max() <= 1e-5
        plain = model.merge_and_unload()
        assert not any("lora" in name for name, _ in plain.named_modules())
        with torch.no_grad():
            assert (plain(**inputs()).logits - before).abs().max() <= 1e-5

    def test_bf16_stays_near_fp32(self, folders):
        full = stir(build(folders["distilbert"])).eval()
        narrow = stir(build(folders["distilbert"], precision="bf16")).eval()
        narrow.load_state_dict(
            {name: value for name, value in full.state_dict().items() if encoder.is_ours(name)}, strict=False
        )
        with torch.no_grad():
            expected, found = full(**inputs()).logits, narrow(**inputs()).logits
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


class TestPrecision:
    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_the_trunk_is_bf16_and_what_trains_is_fp32(self, folders, name):
        model = build(folders[name], precision="bf16")
        kinds = {True: set(), False: set()}
        for path, parameter in model.named_parameters():
            if ".original_module." not in path:
                kinds[parameter.requires_grad].add(parameter.dtype)
        assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}

    def test_a_loaded_adapter_has_the_same_kinds(self, folders, tmp_path):
        spec = EncoderSpec(folders["deberta"], ("no", "yes"), precision="bf16")
        model = stir(encoder.build_model(spec, lora(spec.folder), seed=1)).eval()
        encoder.save_adapter(model, tmp_path)
        again = encoder.load_adapter(spec, tmp_path).eval()
        before = {name: value.dtype for name, value in model.named_parameters()}
        assert {name: value.dtype for name, value in again.named_parameters()} == before
        with torch.no_grad():
            assert torch.equal(model(**inputs()).logits, again(**inputs()).logits)

    def test_rotary_frequencies_stay_in_fp32(self, folders):
        buffers = dict(build(folders["modernbert"], precision="bf16").named_buffers())
        rotary = {name: value.dtype for name, value in buffers.items() if "inv_freq" in name}
        assert rotary
        assert set(rotary.values()) == {torch.float32}


class TestDropout:
    @pytest.mark.parametrize("name", list(ARCHITECTURES))
    def test_without_trunk_dropout_hidden_states_do_not_vary(self, folders, name):
        trunk = build(folders[name]).train().base_model.model.base_model
        ids = inputs()
        assert torch.equal(trunk(**ids).last_hidden_state, trunk(**ids).last_hidden_state)

    def test_with_trunk_dropout_they_do(self, folders):
        trunk = build(folders["distilbert"], trunk_dropout=True).train().base_model.model.base_model
        ids = inputs()
        assert not torch.equal(trunk(**ids).last_hidden_state, trunk(**ids).last_hidden_state)

    @pytest.mark.parametrize(
        ("name", "share"), [("distilbert", 0.2), ("bert", 0.1), ("albert", 0.1), ("deberta", 0.1), ("deberta-v2", 0.1)]
    )
    def test_the_heads_own_dropout_stays(self, folders, name, share):
        model, _ = encoder.load_classifier(EncoderSpec(folders[name], ("a", "b")))
        assert model.dropout.p == share

    @pytest.mark.parametrize("name", ["roberta", "electra", "xlm-roberta", "camembert"])
    def test_the_heads_own_dropout_stays_inside_it(self, folders, name):
        model, _ = encoder.load_classifier(EncoderSpec(folders[name], ("a", "b")))
        assert model.classifier.dropout.p == 0.1


class TestTargets:
    def test_unknown_layers_are_named_together(self, folders):
        with pytest.raises(UsageError) as error:
            build(folders["distilbert"], settings=LoraSettings(target_modules=("q_lin", "k_linn", "dense")))
        assert str(error.value) == (
            "Cannot place the adapters (lora.target_modules):\n"
            "  - there is no linear layer 'k_linn'. Did you mean 'k_lin'?\n"
            "  - there is no linear layer 'dense'.\n"
            "Linear layers of this encoder: k_lin, lin1, lin2, out_lin, q_lin, v_lin."
        )

    def test_no_layers_at_all_are_refused(self, folders):
        with pytest.raises(UsageError) as error:
            build(folders["distilbert"], settings=LoraSettings(target_modules=()))
        assert error.value.message == "Cannot place the adapters (lora.target_modules):"

    def test_only_the_named_layers_get_adapters(self, folders):
        model = build(folders["distilbert"], settings=LoraSettings(target_modules=("q_lin", "v_lin")))
        adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_" in name}
        assert adapted == {"q_lin", "v_lin"}

    def test_scaling_is_alpha_over_r_also_for_fractions(self, folders):
        model = build(folders["distilbert"], settings=lora(folders["distilbert"], lora_alpha=2.5))
        scalings = {
            module.scaling["default"]
            for module in model.modules()
            if isinstance(getattr(module, "scaling", None), dict)
        }
        assert scalings == {2.5 / 4}


class TestFiles:
    def test_only_safetensors_and_json_are_written(self, folders, tmp_path):
        encoder.save_adapter(build(folders["distilbert"]), tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]

    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
    @pytest.mark.parametrize("damage", ["missing", "truncated"])
    def test_a_damaged_adapter_is_named(self, folders, tmp_path, name, damage):
        folder = tmp_path / "adapter"
        spec = EncoderSpec(folders["distilbert"], ("no", "yes"))
        encoder.save_adapter(encoder.build_model(spec, lora(spec.folder), seed=1), folder)
        file = folder / name
        file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(ResourceError) as error:
            encoder.load_adapter(spec, folder)
        assert error.value.message.startswith(f"The adapter in {folder} cannot be loaded: ")
        assert error.value.hint == "Restore the folder, or train again."

    def test_pickled_adapters_are_not_opened(self, folders, tmp_path):
        spec = EncoderSpec(folders["distilbert"], ("no", "yes"))
        encoder.save_adapter(encoder.build_model(spec, lora(spec.folder), seed=1), tmp_path)
        torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
        (tmp_path / "adapter_model.safetensors").unlink()
        with pytest.raises(ResourceError) as error:
            encoder.load_adapter(spec, tmp_path)
        assert (
            error.value.message == f"The adapter in {tmp_path} cannot be loaded: adapter_model.safetensors is missing."
        )

    def test_damaged_base_weights_are_named(self, tmp_path):
        folder = write_model(tmp_path / "model", "distilbert")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ResourceError) as error:
            encoder.load_classifier(EncoderSpec(folder, ("a", "b")))
        assert error.value.message.startswith(f"Cannot read the weights in {folder}: ")

    def test_merged_is_an_ordinary_classifier(self, folders, tmp_path):
        spec = EncoderSpec(folders["modernbert"], ("no", "yes"), precision="bf16")
        encoder.save_adapter(stir(encoder.build_model(spec, lora(spec.folder), seed=1)), tmp_path)
        merged = encoder.merged_model(spec, tmp_path)
        assert type(merged).__name__ == "ModernBertForSequenceClassification"
        assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
        plain = encoder.load_adapter(EncoderSpec(spec.folder, spec.label_names), tmp_path)
        with torch.no_grad():
            expected = plain.eval()(**inputs()).logits
            assert (merged.eval()(**inputs()).logits - expected).abs().max() <= 1e-5


class TestPad:
    def rows(self, *lengths):
        return [np.arange(1, length + 1, dtype=np.int32) for length in lengths]

    def test_ids_and_mask(self):
        found = encoder.pad(self.rows(3, 5), 9, limit=512)
        assert found["input_ids"].shape == found["attention_mask"].shape == (2, LENGTH_STEP)
        assert found["input_ids"][0].tolist() == [1, 2, 3] + [9] * (LENGTH_STEP - 3)
        assert found["attention_mask"].sum(1).tolist() == [3, 5]

    def test_the_limit_is_the_widest(self):
        assert encoder.pad(self.rows(3, 39), 0, limit=40)["input_ids"].shape == (2, 40)

    def test_fixed_is_always_the_limit(self):
        assert encoder.pad(self.rows(3), 0, limit=512, fixed=True)["input_ids"].shape == (1, 512)


class TestParameterCounts:
    def test_copies_do_not_count(self, folders):
        model = build(folders["distilbert"])
        total, trainable = encoder.parameter_counts(model)
        plain, _ = encoder.load_classifier(EncoderSpec(folders["distilbert"], ("no", "yes")))
        adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
        head = sum(p.numel() for name, p in plain.named_parameters() if "classifier" in name)
        assert total == plain.num_parameters() + adapters
        assert trainable == adapters + head


def test_libraries_are_quiet_only_while_loading():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with encoder.quiet_libraries():
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with pytest.raises(KeyError), encoder.quiet_libraries():
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
