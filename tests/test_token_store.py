"""Token ids on disk: the same as in memory, used again, never half there."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.conftest import WORDS
from textlora import token_store, training
from textlora.errors import ResourceError
from textlora.token_store import IDS, INDEX, LOCK, Joined, open_or_build
from textlora.tokenization import LengthPolicy, TextTokenizer

pytestmark = pytest.mark.usefixtures("fast_reload")


def load(folder, policy="head+tail", max_length=24):
    return TextTokenizer.load(folder, LengthPolicy(policy, max_length, 8), base_model="tiny")


def random_texts(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, 40))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "tokens"


@pytest.fixture(scope="module")
def large_vocabulary(tmp_path_factory):
    """A tokenizer of whole words with more ids than two bytes can tell apart."""
    folder = tmp_path_factory.mktemp("tokenizers") / "large"
    folder.mkdir()
    names = ["[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(70_000))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[UNK]"}'
    )
    return folder


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 3_456])
def test_ids_are_those_that_are_made_in_memory(folder, tiny_model, count):
    texts, tokenizer = random_texts(count), load(tiny_model)
    found, expected = open_or_build(folder, texts, tokenizer, data="a"), tokenizer.encode(texts)
    assert len(found.ids) == count
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in expected.ids]
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.full_lengths.tolist() == expected.full_lengths.tolist()
    assert found.truncated.tolist() == expected.truncated.tolist()
    assert all(ids.dtype == np.int32 for ids in found.ids)


def test_two_bytes_a_token(folder, tiny_model):
    found = open_or_build(folder, random_texts(100), load(tiny_model), data="a")
    assert (folder / IDS).stat().st_size == 2 * found.lengths.sum()


def test_four_bytes_for_a_large_vocabulary(folder, large_vocabulary):
    texts = ["w69999 w0 w65535", "w65536"]
    found = open_or_build(folder, texts, load(large_vocabulary), data="a")
    assert [ids.tolist() for ids in found.ids] == [[1, 70_002, 3, 65_538, 2], [1, 65_539, 2]]
    assert (folder / IDS).stat().st_size == 4 * found.lengths.sum()


def test_indices_as_of_any_sequence(folder, tiny_model):
    texts = random_texts(10)
    found, expected = open_or_build(folder, texts, load(tiny_model), data="a").ids, load(tiny_model).encode(texts).ids
    assert found[-1].tolist() == expected[-1].tolist()
    assert [ids.tolist() for ids in found[2:8:3]] == [ids.tolist() for ids in expected[2:8:3]]
    with pytest.raises(IndexError):
        found[10]
    both = Joined(found, found[:3])
    assert [ids.tolist() for ids in both] == [ids.tolist() for ids in (*expected, *expected[:3])]
    assert [ids.tolist() for ids in both[8:12]] == [ids.tolist() for ids in (*expected[8:], *expected[:2])]


def test_progress(folder, tiny_model):
    seen = []
    texts = random_texts(2_100)
    for _ in range(2):
        open_or_build(folder, texts, load(tiny_model), data="a", progress=lambda *step: seen.append(step))
    assert seen == [(1_000, 2_100), (2_000, 2_100), (2_100, 2_100)], "the second time there is nothing to do"


class TestReuse:
    @pytest.fixture
    def texts(self):
        return random_texts(50)

    @pytest.fixture
    def built(self, folder, tiny_model, texts):
        open_or_build(folder, texts, load(tiny_model), data="a")
        return folder

    @pytest.fixture
    def encoded(self, monkeypatch):
        """The number of texts that are tokenized."""
        counts = []
        original = TextTokenizer.encode
        monkeypatch.setattr(
            TextTokenizer, "encode", lambda self, texts: counts.append(len(texts)) or original(self, texts)
        )
        return counts

    def test_the_same_again_is_taken_over(self, built, tiny_model, texts, encoded):
        open_or_build(built, texts, load(tiny_model), data="a")
        assert encoded == []

    @pytest.mark.parametrize("change", ["data", "length", "policy"])
    def test_whatever_decides_the_ids_makes_them_new(self, built, tiny_model, texts, encoded, change):
        tokenizer = load(tiny_model, "head" if change == "policy" else "head+tail", 12 if change == "length" else 24)
        found = open_or_build(built, texts, tokenizer, data="b" if change == "data" else "a")
        assert encoded == [50]
        assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in tokenizer.encode(texts).ids]

    def test_another_tokenizer_makes_them_new(self, built, large_vocabulary, texts, encoded):
        open_or_build(built, texts, load(large_vocabulary), data="a")
        assert encoded == [50]

    @pytest.mark.parametrize("damage", ["cut", "missing", "index"])
    def test_damaged_ones_are_made_again(self, built, tiny_model, texts, encoded, damage):
        if damage == "cut":
            (built / IDS).write_bytes((built / IDS).read_bytes()[:-2])
        elif damage == "missing":
            (built / IDS).unlink()
        else:
            (built / INDEX).write_text("[]")
        found = open_or_build(built, texts, load(tiny_model), data="a")
        assert encoded == [50]
        assert len(found.ids[49]) == found.lengths[49]

    def test_a_stop_leaves_nothing_half_written(self, built, tiny_model, texts):
        before = (built / IDS).read_bytes()

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            open_or_build(built, texts * 100, load(tiny_model), data="b", progress=stop)
        assert (built / IDS).read_bytes() == before
        assert {item.name for item in built.parent.iterdir()} == {built.name, LOCK}

    def test_a_folder_that_cannot_be_written(self, tmp_path, tiny_model, texts):
        (tmp_path / "run").write_text("in the way")
        with pytest.raises(ResourceError, match="a file of that name is in the way"):
            open_or_build(tmp_path / "run" / "tokens", texts, load(tiny_model), data="a")


class TestTraining:
    def test_the_ids_are_gone_when_training_has_ended(self, toy_run):
        assert not (toy_run.folder / "tokens").exists()

    def test_a_resume_does_not_tokenize_again(self, toy_plan, toy_dataset, tmp_path, monkeypatch):
        class Stopped(Exception):
            pass

        def stop(stage, done, total, note):
            if stage == "train" and done == total - 1:
                raise Stopped

        with pytest.raises(Stopped):
            training.train(toy_plan, toy_dataset, folder=tmp_path, progress=stop)
        assert {item.name for item in (tmp_path / "tokens").iterdir()} == {"train", "validation", LOCK}
        monkeypatch.setattr(token_store, "_build", None)  # tokenizing again would fail
        run = training.train(toy_plan, toy_dataset, folder=tmp_path, resume=True)
        assert run.steps > 0
        assert not (tmp_path / "tokens").exists()
