"""Texts to ids, against Hugging Face's own call, and the three length policies."""

from __future__ import annotations

import contextlib
import random
import time

import numpy as np
import pytest

from tests.conftest import WORDS
from textlora.embedded import embedded_folder
from textlora.errors import UsageError
from textlora.tokenization import MAX_CHARACTERS, LengthPolicy, TextTokenizer

ODD = [
    "",
    " ",
    "good bad " * 300,
    "\n\t",
    "Déjà-vu… naïve, 2½ h",
    "日本語のレビュー",
    "🎬🎬 \u200b ok",
    "[SEP] [CLS] in the text",
    "a" * 300,
    "\x00x",
]


def random_texts(count, *, seed=0, longest=120):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, longest))) for _ in range(count)]


def load(folder, policy="head", max_length=32, head_tokens=8):
    return TextTokenizer.load(folder, LengthPolicy(policy, max_length, head_tokens), base_model="a model")


def byte_level_tokenizer(folder):
    """Write a tokenizer of RoBERTa's kind: bytes, <s> before and </s> after."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "cls_token": "<s>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    return {
        "word pieces": tiny_model,
        "embedded": embedded_folder(),
        "bytes": byte_level_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bytes"),
    }


class TestAgainstHuggingFace:
    @pytest.mark.parametrize("kind", ["word pieces", "embedded", "bytes"])
    @pytest.mark.parametrize("max_length", [8, 33, 512])
    def test_head_equals_its_truncation(self, folders, kind, max_length):
        from transformers import AutoTokenizer

        texts = [*random_texts(40), *ODD]
        reference = AutoTokenizer.from_pretrained(folders[kind])
        expected = reference(texts, truncation=True, max_length=max_length)["input_ids"]
        found = load(folders[kind], max_length=max_length).encode(texts).ids
        assert [ids.tolist() for ids in found] == expected
        assert any(len(ids) == max_length for ids in found)

    @pytest.mark.parametrize("kind", ["word pieces", "embedded", "bytes"])
    def test_count_is_what_there_is_without_a_cut(self, folders, kind):
        from transformers import AutoTokenizer

        texts = [*random_texts(40), *ODD]
        expected = AutoTokenizer.from_pretrained(folders[kind])(texts, truncation=False, verbose=False)["input_ids"]
        tokenizer = load(folders[kind], max_length=8)
        assert tokenizer.count(texts) == [len(ids) for ids in expected]
        assert tokenizer.encode(texts).full_lengths.tolist() == [len(ids) for ids in expected]


class TestPolicies:
    @pytest.fixture(scope="class")
    def whole(self, tiny_model):
        """30 different words: 30 tokens and two special ones."""
        text = " ".join(WORDS[:30])
        return text, load(tiny_model, max_length=64).encode([text]).ids[0].tolist()

    def test_head(self, tiny_model, whole):
        text, ids = whole
        assert load(tiny_model, "head", 12).encode([text]).ids[0].tolist() == [ids[0], *ids[1:11], ids[-1]]

    def test_tail(self, tiny_model, whole):
        text, ids = whole
        assert load(tiny_model, "tail", 12).encode([text]).ids[0].tolist() == [ids[0], *ids[-11:-1], ids[-1]]

    def test_head_and_tail(self, tiny_model, whole):
        text, ids = whole
        found = load(tiny_model, "head+tail", 12, head_tokens=4).encode([text]).ids[0].tolist()
        assert found == [ids[0], *ids[1:5], *ids[-7:-1], ids[-1]]

    def test_head_and_tail_keeps_one_token_of_the_tail_at_least(self, tiny_model, whole):
        text, ids = whole
        found = load(tiny_model, "head+tail", 12, head_tokens=500).encode([text]).ids[0].tolist()
        assert found == [ids[0], *ids[1:10], ids[-2], ids[-1]]

    @pytest.mark.parametrize("policy", ["head", "tail", "head+tail"])
    def test_what_fits_stays_whole(self, tiny_model, whole, policy):
        text, ids = whole
        assert load(tiny_model, policy, 32).encode([text]).ids[0].tolist() == ids

    @pytest.mark.parametrize("policy", ["head", "tail", "head+tail"])
    @pytest.mark.parametrize("head", [1, 5, 128])
    def test_length_of_random_cuts(self, policy, head):
        draw = random.Random(head)
        for _ in range(300):
            ids = list(range(draw.randint(0, 60)))
            room = draw.randint(2, 40)
            (window,) = LengthPolicy(policy, room + 2, head).windows(len(ids), 2)
            kept = [place for start, stop in window for place in ids[start:stop]]
            assert len(kept) == min(len(ids), room)
            assert sorted(set(kept)) == list(kept)  # in order, nothing twice
            if policy != "tail" and ids:
                assert kept[0] == 0
            if policy != "head" and ids:
                assert kept[-1] == ids[-1]


class TestEncoding:
    def test_truncated_and_lengths(self, tiny_model):
        found = load(tiny_model, "head+tail", 10).encode(["good", "good " * 8, "good " * 9, ""])
        assert found.full_lengths.tolist() == [3, 10, 11, 2]
        assert found.lengths.tolist() == [3, 10, 10, 2]
        assert found.truncated.tolist() == [False, False, True, False]

    def test_the_order_stays_over_many_blocks(self, tiny_model):
        texts = random_texts(2_503, longest=6)
        tokenizer = load(tiny_model)
        together = tokenizer.encode(texts).ids
        for index in (0, 999, 1_000, 1_001, 2_000, 2_502):
            assert together[index].tolist() == tokenizer.encode([texts[index]]).ids[0].tolist()

    def test_progress_is_told_by_the_block(self, tiny_model):
        seen = []
        load(tiny_model).encode(["good"] * 2_100, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1_000, 2_100), (2_000, 2_100), (2_100, 2_100)]

    def test_no_texts(self, tiny_model):
        found = load(tiny_model).encode([])
        assert found.ids == ()
        assert found.lengths.tolist() == found.truncated.tolist() == []

    def test_empty_text_is_the_special_tokens(self, tiny_model):
        assert load(tiny_model).encode([""]).ids[0].tolist() == [2, 3]
        assert load(tiny_model).count([""]) == [2]

    def test_lone_surrogates_are_replaced(self, folders):
        tokenizer = load(folders["embedded"])
        broken, replaced = tokenizer.encode(["good \ud800 film 🎬", "good ? film 🎬"]).ids
        assert broken.tolist() == replaced.tolist()

    def test_a_giant_text_is_capped_and_keeps_both_ends(self, tiny_model):
        text = f"good {'movie ' * 2_000_000} bad"
        tokenizer = load(tiny_model, "head+tail", 16, head_tokens=4)
        start = time.process_time()
        found = tokenizer.encode([text])
        assert time.process_time() - start < 3
        ids = tokenizer.encode(["good bad"]).ids[0]
        assert (found.ids[0][1], found.ids[0][-2]) == (ids[1], ids[2])
        assert found.truncated.tolist() == [True]
        assert found.full_lengths[0] < MAX_CHARACTERS

    def test_ids_are_small_integers(self, tiny_model):
        assert load(tiny_model).encode(["good"]).ids[0].dtype == np.int32

    def test_padding_id(self, folders):
        assert [load(folder).pad_id for folder in folders.values()] == [0, 0, 1]


class TestFiles:
    def test_saved_and_loaded_it_gives_the_same_ids(self, tiny_model, tmp_path):
        texts = [*random_texts(20), *ODD]
        tokenizer = load(tiny_model)
        tokenizer.encode(texts)
        tokenizer.save(tmp_path)
        assert [ids.tolist() for ids in load(tmp_path).encode(texts).ids] == [
            ids.tolist() for ids in tokenizer.encode(texts).ids
        ]

    def test_a_folder_without_a_tokenizer_is_refused(self, tmp_path):
        with pytest.raises(UsageError) as error:
            load(tmp_path)
        assert error.value.message.startswith("Cannot load the tokenizer of a model: ")
        assert "\n" not in error.value.message

    def test_code_of_its_own_is_not_run(self, tiny_model, tmp_path):
        import json
        import shutil

        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        with contextlib.suppress(UsageError):  # refusing it is as good as leaving the code alone
            load(folder)
        assert not (tmp_path / "ran").exists()
