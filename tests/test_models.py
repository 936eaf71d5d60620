"""Base models by name, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ARCHITECTURES, write_model
from textlora import models
from textlora.errors import UsageError

REFUSED_HINT = "Give the folder of a Hugging Face encoder, or --base-model embedded."
LINEARS = {
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "bert": ("query", "key", "value", "dense"),
    "roberta": ("query", "key", "value", "dense"),
    "electra": ("query", "key", "value", "dense"),
    "deberta": ("in_proj", "pos_proj", "pos_q_proj", "dense"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "albert": ("query", "key", "value", "dense", "ffn", "ffn_output"),
    "mpnet": ("q", "k", "v", "o", "dense"),
    "xlm-roberta": ("query", "key", "value", "dense"),
    "camembert": ("query", "key", "value", "dense"),
    "modernbert": ("Wqkv", "Wo", "Wi"),
}


@pytest.fixture
def fresh():
    models.base_info.cache_clear()
    yield
    models.base_info.cache_clear()


@pytest.fixture
def model(tmp_path, fresh):
    """A tiny DistilBERT that a test may spoil."""
    return write_model(tmp_path / "model", "distilbert")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder):
    with pytest.raises(UsageError) as error:
        models.model_folder(str(folder))
    assert error.value.message == f"Cannot use {folder} as a base model:"
    assert error.value.hint == REFUSED_HINT
    return list(error.value.problems)


class TestNames:
    def test_embedded_has_no_revision(self, tmp_path):
        folder, revision = models.model_folder("embedded")
        assert revision == "embedded"
        assert json.loads((folder / "config.json").read_text())["model_type"] == "distilbert"

    def test_a_local_folder_is_taken_as_it_is(self, tiny_model):
        assert models.model_folder(str(tiny_model)) == (tiny_model, "local")

    @pytest.mark.parametrize("name", ["/no/such/folder", "./models/mine", "~/models/mine", "~nobody-knows/x", "a/b/c"])
    def test_a_missing_folder_is_named(self, name):
        with pytest.raises(UsageError) as error:
            models.model_folder(name)
        assert str(error.value) == (
            f"There is no folder {name}.\nGive a hub id, the folder of an encoder, or --base-model embedded."
        )

    @pytest.mark.parametrize("name", ["what is this", "a..b", "-x"])
    def test_what_can_be_no_hub_id_is_refused(self, name):
        with pytest.raises(UsageError) as error:
            models.model_folder(name)
        assert str(error.value) == (
            f"{name!r} is neither a folder nor a hub id.\n"
            "Or use the model that comes with textlora: --base-model embedded"
        )

    @pytest.mark.parametrize("name", ["distilbert-base-uncased", "FacebookAI/roberta-base"])
    def test_offline_and_not_in_the_cache_says_exactly_that(self, name, tmp_path):
        code = (
            "from textlora import models\n"
            "from textlora.errors import ResourceError\n"
            f"try: models.base_info({name!r})\n"
            "except ResourceError as error: print(error)\n"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == (
            f"The base model {name!r} is not in the local cache, and the hub cannot be reached.\n"
            "Connect to the network once to download it. "
            "Or use the model that comes with textlora: --base-model embedded\n"
        )


class TestForeignFolders:
    def test_code_of_its_own_is_refused(self, model):
        change_config(model, auto_map={"AutoModel": "evil.Model"})
        assert refusal(model) == ["config.json asks to run code of its own (auto_map), which textlora never does."]

    def test_quantized_weights_are_refused(self, model):
        change_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
        assert refusal(model) == ["the weights are quantized (quantization_config); textlora needs them whole."]

    @pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "gone.safetensors"])
    def test_weights_outside_the_folder_are_refused(self, model, name):
        index = {"weight_map": {"embeddings.LayerNorm.bias": name, "x": "model.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        other = model.parent / "other"
        other.mkdir()
        (other / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
        assert refusal(model) == [f"model.safetensors.index.json names {name!r}, which is not in the folder."]

    def test_pickled_weights_do_not_count(self, model):
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
        assert refusal(model) == ["there are no weights in safetensors format (*.safetensors)."]

    def test_all_problems_are_told_together(self, tmp_path):
        (tmp_path / "model.safetensors.index.json").write_text("[]")
        assert refusal(tmp_path) == [
            "config.json is missing.",
            "there are no weights in safetensors format (*.safetensors).",
            "model.safetensors.index.json is not a JSON object.",
        ]

    def test_a_config_that_is_no_json_is_refused(self, model):
        (model / "config.json").write_text("{")
        assert refusal(model) == [
            "config.json cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."
        ]

    def test_an_unknown_architecture_is_refused(self, model):
        change_config(model, model_type="nonesuch")
        with pytest.raises(UsageError) as error:
            models.base_info(str(model))
        assert error.value.message.startswith(f"Cannot read {model / 'config.json'}: ")
        assert "nonesuch" in error.value.message

    @pytest.mark.parametrize("kind", ["gpt2", "llama", "bart", "clip", "whisper"])
    def test_what_is_no_encoder_is_refused(self, kind, model):
        (model / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(UsageError) as error:
            models.base_info(str(model))
        assert str(error.value) == (
            f"{model} holds a {kind} model, which is not an encoder that classifies texts.\n"
            "Give an encoder such as distilbert-base-uncased."
        )

    def test_a_bert_that_was_turned_into_a_decoder_is_refused(self, tmp_path, fresh):
        folder = write_model(tmp_path / "decoder", "bert")
        change_config(folder, is_decoder=True)
        with pytest.raises(UsageError, match="which is not an encoder that classifies texts"):
            models.base_info(str(folder))

    @pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
    def test_a_foreign_attention_kernel_is_not_loaded(self, model, key):
        from textlora.encoder import EncoderSpec, load_classifier

        change_config(model, **{key: "someone/kernel"})
        assert models.base_info(str(model)).model_type == "distilbert"
        classifier, _ = load_classifier(EncoderSpec(model, ("a", "b"), attention="sdpa"))
        assert classifier.config._attn_implementation == "sdpa"


class TestShapes:
    @pytest.fixture(scope="class")
    def infos(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("architectures")
        return {name: models.base_info(str(write_model(root / name, name))) for name in ARCHITECTURES}

    @pytest.mark.parametrize("architecture", list(ARCHITECTURES))
    def test_linear_layers_of_the_blocks(self, infos, architecture):
        assert infos[architecture].linear_names == LINEARS[architecture]

    @pytest.mark.parametrize("architecture", list(ARCHITECTURES))
    def test_sizes(self, infos, architecture):
        info = infos[architecture]
        assert (info.hidden, info.layers, info.heads, info.intermediate) == (32, 2, 4, 64)
        assert (info.model_type, info.revision) == (architecture, "local")
        assert info.vocabulary == len(json.loads((info.folder / "tokenizer.json").read_text())["model"]["vocab"])

    def test_parameters_are_those_of_the_encoder(self, infos):
        from transformers import AutoModel

        for info in infos.values():
            assert info.parameters == AutoModel.from_pretrained(info.folder).num_parameters()

    @pytest.mark.parametrize(
        ("architecture", "padding", "rows", "limit"),
        [
            ("distilbert", 0, 512, 512),
            ("bert", 0, 512, 512),
            ("electra", 0, 512, 512),
            ("modernbert", 0, 8192, 8192),
            ("roberta", 1, 514, 512),
            ("xlm-roberta", 1, 514, 512),
            ("camembert", 1, 514, 512),
            ("mpnet", 1, 514, 512),
            ("mpnet", 0, 514, 512),
        ],
    )
    def test_position_limit(self, architecture, padding, rows, limit):
        from transformers import AutoConfig

        config = AutoConfig.for_model(architecture, pad_token_id=padding, max_position_embeddings=rows)
        assert models.position_limit(config) == limit

    @pytest.mark.parametrize("architecture", ["distilbert", "roberta", "mpnet", "camembert", "albert"])
    def test_texts_of_the_limit_fit_and_longer_ones_do_not(self, infos, architecture):
        import torch
        from transformers import AutoModel

        info = infos[architecture]
        model = AutoModel.from_pretrained(info.folder).eval()
        ids = torch.full((1, info.max_length + 1), 7)
        with torch.no_grad():
            assert model(ids[:, :-1]).last_hidden_state.shape == (1, info.max_length, 32)
            with pytest.raises((IndexError, RuntimeError)):
                model(ids)
