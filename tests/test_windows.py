"""Windows: where they lie, what they lose, and that a text's answer is the mean of theirs."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICK, WORDS, write_model
from textlora import encoder, packed, planning, prefix, training, windows
from textlora.classifier import Classifier
from textlora.encoder import EncoderSpec
from textlora.errors import UsageError
from textlora.losses import Loss
from textlora.memory import Budget
from textlora.preparation import prepare
from textlora.settings import LoraSettings, TextSettings
from textlora.tokenization import TextTokenizer
from textlora.trainer import Collator
from textlora.types import TokenLengths
from textlora.windows import LengthPolicy, loss, pool, split, split_all, tally

pytestmark = pytest.mark.usefixtures("fast_reload")
WINDOWS = {"text.policy": "windows", "text.max_length": 16, "text.window_overlap": 4, "text.max_windows": 5}


def policy(size=12, overlap=4, most=5, kind="windows"):
    return LengthPolicy(kind, size, 3, overlap, most)


def random_texts(count, *, seed=0, longest=90):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, longest))) for _ in range(count)]


class TestPlaces:
    """Where windows lie: counted in the text's own tokens, with two special tokens in each window."""

    def test_what_fits_is_one_window(self):
        assert policy().windows(10, 2) == (((0, 10),),)
        assert policy().windows(0, 2) == (((0, 0),),)

    def test_the_last_window_is_full_too(self):
        assert policy().windows(11, 2) == (((0, 10),), ((1, 11),))
        assert policy().windows(16, 2) == (((0, 10),), ((6, 16),))
        assert policy().windows(17, 2) == (((0, 10),), ((3, 13),), ((7, 17),))

    def test_with_too_few_windows_for_the_overlap_they_share_less(self):
        assert policy(most=2).windows(20, 2) == (((0, 10),), ((10, 20),))

    def test_beyond_that_equal_gaps_are_left_and_both_ends_are_seen(self):
        assert policy(most=3).windows(50, 2) == (((0, 10),), ((20, 30),), ((40, 50),))

    def test_one_window_is_the_head(self):
        assert policy(most=1).windows(50, 2) == LengthPolicy("head", 12).windows(50, 2) == (((0, 10),),)

    def test_random_ones(self):
        draw = random.Random(1)
        for _ in range(2_000):
            size, specials = draw.randint(8, 40), draw.randint(0, 3)
            room, tokens, most = size - specials, draw.randint(0, 400), draw.randint(1, 9)
            overlap = draw.randint(0, room - 1)
            made = policy(size, overlap, most)
            found = [piece for (piece,) in made.windows(tokens, specials)]
            seen = {place for start, stop in found for place in range(start, stop)}
            full = np.array([tokens + specials])
            assert len(found) == made.count(full, specials)[0] <= most
            assert len(seen) + specials == made.seen(full, specials)[0]
            assert sum(stop - start + specials for start, stop in found) == made.computed(full, specials)[0]
            assert found[0][0] == 0
            assert found[-1][1] <= tokens
            if len(found) > 1:
                assert found[-1][1] == tokens
                assert {stop - start for start, stop in found} == {room}
                shared = [before[1] - after[0] for before, after in itertools.pairwise(found)]
                assert max(shared) - min(shared) <= 1
                assert min(shared) >= overlap or len(found) == most
            assert (len(seen) < tokens) == (tokens + specials > made.whole(specials))

    def test_other_policies_have_one_window(self):
        for kind in ("head", "tail", "head+tail"):
            made = policy(kind=kind)
            assert len(made.windows(100, 2)) == 1
            assert made.count(np.array([5, 100])).tolist() == [1, 1]
            assert made.computed(np.array([5, 100])).tolist() == [5, 12]
            assert made.whole() == 12


class TestIds:
    def tokenizer(self, folder, **changes):
        return TextTokenizer.load(folder, policy(**changes), base_model="tiny")

    def test_windows_end_to_end_each_with_its_special_tokens(self, tiny_model):
        text = " ".join(WORDS[:17])
        (whole,) = self.tokenizer(tiny_model, size=64).encode([text]).ids
        found = self.tokenizer(tiny_model).encode([text])
        first, last, own = whole[0], whole[-1], whole[1:-1]
        expected = [[first, *own[start : start + 10], last] for start in (0, 3, 7)]
        assert [ids.tolist() for ids in split(found.ids[0], 12)] == [[int(i) for i in ids] for ids in expected]
        assert (found.lengths.tolist(), found.full_lengths.tolist()) == ([36], [19])
        assert found.truncated.tolist() == [False]

    def test_only_beyond_the_last_window_a_text_is_truncated(self, tiny_model):
        found = self.tokenizer(tiny_model, most=3).encode(["good " * 30, "good " * 31, "good"])
        assert found.truncated.tolist() == [False, True, False]

    def test_what_fits_is_as_under_head(self, tiny_model):
        texts = [" ".join(WORDS[:count]) for count in range(11)]
        head = self.tokenizer(tiny_model, kind="head").encode(texts)
        found = self.tokenizer(tiny_model).encode(texts)
        assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in head.ids]

    def test_more_characters_than_are_tokenized_are_a_cut(self, tiny_model):
        tokenizer = self.tokenizer(tiny_model, size=64, most=64)
        assert tokenizer.encode(["x" * 200_000, "x" * 200_001]).truncated.tolist() == [False, True]

    def test_split_of_an_empty_text_is_one_window(self):
        empty = np.zeros(0, np.int32)
        assert len(split(empty, 8)) == 1
        assert split_all([empty, np.arange(20, dtype=np.int32)], 8)[1] == (1, 3)


class TestPool:
    def test_the_mean_of_each_text(self):
        logits = np.arange(12.0).reshape(6, 2)
        np.testing.assert_array_equal(pool(logits, (1, 3, 2)), [logits[0], logits[1:4].mean(0), logits[4:].mean(0)])

    def test_one_window_keeps_its_logits_to_the_last_bit(self):
        logits = np.random.default_rng(0).normal(size=(6, 3))
        assert np.array_equal(pool(logits, (1,) * 6), logits)
        assert np.array_equal(pool(logits, (1, 4, 1))[[0, 2]], logits[[0, 5]])

    def test_a_text_without_numbers_does_not_spoil_the_others(self):
        logits = np.array([[np.nan, np.inf], [1, 2], [3, 4]])
        assert np.array_equal(pool(logits, (1, 2))[1], [2, 3])

    def test_in_torch_it_is_the_same_with_a_gradient(self):
        logits = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
        counts = (2, 1, 5, 1)
        found = encoder.pool(logits, counts)
        np.testing.assert_allclose(found.detach().numpy(), pool(logits.detach().numpy(), counts), rtol=1e-14)
        assert torch.equal(found[[1, 3]], logits[[2, 8]])
        found.sum().backward()
        shares = [1 / count for count in counts for _ in range(count)]
        np.testing.assert_allclose(logits.grad.numpy(), np.tile(np.array(shares)[:, None], 3))


class TestAgainstHuggingFace:
    """The packed engine's answer is the mean of Hugging Face's own answers to the windows."""

    @pytest.fixture(scope="class")
    def model(self, tiny_model):
        torch.manual_seed(3)
        spec = EncoderSpec(tiny_model, ("a", "b", "c"))
        lora = LoraSettings(target_modules=("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"))
        model = encoder.build_model(spec, lora, seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    @pytest.fixture(scope="class")
    def ids(self, tiny_model):
        return TextTokenizer.load(tiny_model, policy(16), base_model="tiny").encode(random_texts(25)).ids

    def reference(self, model, ids):
        """Return the logits (B, C): Hugging Face's forward on each window alone, then the mean."""
        answers = [
            torch.stack([model(input_ids=torch.tensor(window)[None].long()).logits[0] for window in split(text, 16)])
            for text in ids
        ]
        return torch.stack([answer.mean(0) for answer in answers])

    def samples(self, ids):
        return [{"ids": text, "label": row % 3} for row, text in enumerate(ids)]

    @pytest.mark.parametrize("budget", [1, 40, 200, 100_000])
    @pytest.mark.parametrize("layout", ["packed", "padded"])
    def test_logits_and_gradients_whatever_the_micro_batches(self, model, ids, budget, layout):
        from textlora.trainer import _summed_loss

        assert max(len(text) for text in ids) == 5 * 16
        labels = torch.arange(len(ids)) % 3
        expected = self.reference(model, ids)
        model.zero_grad()
        torch.nn.functional.cross_entropy(expected, labels, reduction="sum").backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        collator = Collator(pad_id=0, limit=16, budget=Budget(budget), packed=layout == "packed")
        found, rows = [], []
        for batch in collator.micro_batches(self.samples(ids)):
            value, logits = _summed_loss(model, batch, Loss())
            value.backward()
            found.append(logits.detach())
            rows.append(batch["rows"])
        order = torch.argsort(torch.cat(rows))
        torch.testing.assert_close(torch.cat(found)[order], expected.detach(), atol=1e-5, rtol=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-4, rtol=1e-4, msg=name)

    @pytest.mark.parametrize("layout", ["packed", "padded"])
    def test_the_windows_of_a_text_stay_together_within_the_budget(self, ids, layout):
        collator = Collator(pad_id=0, limit=16, budget=Budget(100), packed=layout == "packed")
        parts = list(collator.micro_batches(self.samples(ids)))
        assert sorted(row for part in parts for row in part["rows"].tolist()) == list(range(len(ids)))
        for part in parts:
            assert list(part["windows"]) == [max(1, len(ids[row]) // 16) for row in part["rows"]]
            tokens = sum(part["lengths"]) if layout == "packed" else part["input_ids"].numel()
            assert tokens <= 100 or len(part["rows"]) == 1

    def test_from_the_cache_of_frozen_layers(self, model, ids, tmp_path, monkeypatch):
        from textlora.trainer import Samples, _summed_loss

        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path))
        key = prefix.PrefixKey("a", 1, "fp32", "eager", "cpu")
        cache = prefix.open_or_build(model, ids, key, window=16, progress=lambda *_: None)
        collator = Collator(pad_id=0, limit=16, budget=Budget(10_000), packed=True, start=1)
        samples = Samples(ids, [0] * len(ids), cache)
        (batch,) = collator.micro_batches([samples[row] for row in range(len(ids))])
        with torch.no_grad():
            _, logits = _summed_loss(model, batch, Loss())
            expected = self.reference(model, [ids[row] for row in batch["rows"]])
        # The first layer has adapters here too; the cache holds what it gave.
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)

    def test_the_cache_tells_windows_of_another_length_apart(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path))
        key, texts = prefix.PrefixKey("a", 1, "fp32", "eager", "cpu"), [np.arange(5, 21, dtype=np.int32)]
        for window, number in ((8, 1), (16, 2), (64, 2)):
            prefix.open_or_build(model, texts, key, window=window, progress=lambda *_: None)
            assert len(prefix.caches()) == number

    def test_short_texts_do_not_care(self, model):
        ids = [np.arange(5, 12, dtype=np.int32)]
        with torch.no_grad():
            alone = model(**packed.pack(ids, 0)).logits
            assert torch.equal(encoder.pool(alone, split_all(ids, 16)[1]), alone)


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory):
    """Texts of up to 100 words whose label shows anywhere in them."""
    draw, root = random.Random(4), tmp_path_factory.mktemp("long")
    lines = ["text,label"]
    for number in range(100):
        words = draw.choices(WORDS[15:], k=draw.randint(5, 100))
        for _ in range(3):
            words.insert(draw.randrange(len(words)), "great" if number % 2 else "awful")
        lines.append(f"{' '.join(words)},{'yes' if number % 2 else 'no'}")
    (root / "long.csv").write_text("\n".join(lines) + "\n")
    return prepare(root / "long.csv", out=root / "run")


@pytest.fixture(scope="module")
def planned(long_texts, tiny_model, machine):
    def make(**changes):
        assignments = {**QUICK, **WINDOWS, "training.epochs": 1, **changes}
        return planning.plan(long_texts, base_model=str(tiny_model), assignments=assignments, machine=machine)

    return make


@pytest.fixture(scope="module")
def trained(planned, long_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return training.train(planned(), long_texts, folder=folder)


def adapter(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


class TestTraining:
    @pytest.mark.parametrize("change", [{"compute.tokens_per_micro_batch": 100}, {"compute.engine": "transformers"}])
    def test_neither_cut_nor_engine_change_the_weights(self, planned, long_texts, trained, tmp_path, change):
        run = training.train(planned(**change), long_texts, folder=tmp_path)
        for name, expected in adapter(trained).items():
            torch.testing.assert_close(adapter(run)[name], expected, atol=2e-5, rtol=1e-3, msg=name)

    def test_the_head_s_dropout_is_drawn_by_text(self, planned, long_texts, tmp_path):
        model = write_model(tmp_path / "dropping", "distilbert", seq_classif_dropout=0.4)
        weights = []
        for budget in (64, 100_000):
            changes = {"model.base_model": str(model), "compute.tokens_per_micro_batch": budget}
            assignments = {**QUICK, **WINDOWS, "training.epochs": 0.5, **changes}
            plan = planning.plan(long_texts, base_model=str(model), assignments=assignments, machine=planned().machine)
            weights.append(adapter(training.train(plan, long_texts, folder=tmp_path / str(budget))))
        for name, expected in weights[0].items():
            torch.testing.assert_close(weights[1][name], expected, atol=2e-5, rtol=1e-3, msg=name)

    def test_with_cached_layers(self, planned, long_texts, tmp_path, monkeypatch):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        runs = []
        for cached in (True, False):
            plan = planned(**{"lora.top_layers": 1, "compute.prefix_cache": cached})
            runs.append(adapter(training.train(plan, long_texts, folder=tmp_path / str(cached))))
        for name, expected in runs[1].items():
            torch.testing.assert_close(runs[0][name], expected, atol=2e-5, rtol=1e-3, msg=name)

    def test_when_memory_runs_out_the_step_is_cut_between_texts(
        self, planned, long_texts, trained, tmp_path, monkeypatch
    ):
        original = encoder.pool
        failed = []

        def short(logits, counts):
            if logits.requires_grad and len(counts) > 1 and not failed:
                failed.append(len(counts))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(logits, counts)

        monkeypatch.setattr(encoder, "pool", short)
        with pytest.warns(match="the GPU memory ran out; micro-batches of"):
            run = training.train(planned(), long_texts, folder=tmp_path)
        assert len(run.memory_events) == 1
        for name, expected in adapter(trained).items():
            torch.testing.assert_close(adapter(run)[name], expected, atol=2e-5, rtol=1e-3, msg=name)


class TestClassifier:
    @pytest.fixture(scope="class")
    def classifier(self, trained):
        return Classifier.from_pretrained(trained.folder, device="cpu")

    def test_the_policy_travels_in_the_bundle(self, classifier):
        assert classifier.tokenizer.policy == LengthPolicy("windows", 16, 4, 4, 5)
        assert (classifier.max_length, classifier.whole_length) == (16, 72)

    def test_the_answer_is_the_mean_over_windows(self, classifier):
        tokenizer = classifier.tokenizer
        words = WORDS[:40]
        window = tokenizer.policy.windows(40, 2)[0]
        pieces = [" ".join(words[start:stop]) for ((start, stop),) in tokenizer.policy.windows(40, 2)]
        assert (window, len(pieces)) == (((0, 14),), 4)
        np.testing.assert_allclose(
            classifier.logits([" ".join(words)])[0], classifier.logits(pieces).mean(0), atol=1e-5
        )

    def test_short_texts_are_answered_as_under_head(self, classifier, trained):
        head = Classifier.from_pretrained(trained.folder, device="cpu")
        head.tokenizer.policy = LengthPolicy("head", 16)
        texts = [" ".join(WORDS[:count]) for count in range(15)]
        assert np.array_equal(classifier.logits(texts), head.logits(texts))

    def test_micro_batches_do_not_matter(self, classifier, trained):
        texts = random_texts(60)
        expected = classifier.logits(texts)
        small = Classifier.from_pretrained(trained.folder, device="cpu")
        small.budget.tokens = 50
        np.testing.assert_allclose(small.logits(texts), expected, atol=1e-5)

    def test_truncated_only_beyond_the_last_window(self, classifier):
        found = classifier.predict(["good " * 70, "good " * 71])
        assert [prediction.truncated for prediction in found] == [False, True]

    def test_export_checks_itself_on_windows(self, trained, tmp_path):
        from textlora.exporting import export

        assert export(trained.folder, to="hf", out=tmp_path / "hf").difference < 1e-4


class TestPlan:
    def test_every_setting_has_its_reason(self, planned):
        plan = planned(**{"text.max_length": 32, "text.window_overlap": None})
        assert plan.settings.text.window_overlap == 4
        assert plan.reasons["text.window_overlap"] == "an eighth of a window's 32 tokens"

    def test_how_much_is_lost_stands_beside_the_policy(self, planned, long_texts):
        counts = np.array([len(text.split()) + 2 for split in long_texts.splits().values() for text in split.texts])
        cut, kept = counts > 72, np.minimum(counts, 72)
        assert (
            planned()
            .reasons["text.policy"]
            .startswith(
                f"set on the command line; cuts {cut.sum()} texts ({cut.mean():.1%}) and loses {1 - kept.sum() / counts.sum():.1%} "
                "of all tokens; computes "
            )
        )
        head = planned(**{"text.policy": "head"}).reasons["text.policy"]
        lost = 1 - np.minimum(counts, 16).sum() / counts.sum()
        assert head == (
            f"set on the command line; cuts {(counts > 16).sum()} texts ({(counts > 16).mean():.1%}) "
            f"and loses {lost:.1%} of all tokens"
        )

    def test_more_computation_is_planned_for(self, planned):
        head, windowed = planned(**{"text.policy": "head"}).estimate, planned().estimate
        assert windowed.tokens_per_epoch > 2 * head.tokens_per_epoch
        assert windowed.train_seconds > head.train_seconds

    @pytest.mark.parametrize("engine", ["packed", "transformers"])
    def test_the_planned_tokens_are_those_of_the_windows(self, planned, long_texts, tiny_model, engine):
        plan = planned(**{"compute.engine": engine})
        tokenizer = TextTokenizer.load(tiny_model, LengthPolicy("windows", 16, 4, 4, 5), base_model="tiny")
        computed = tokenizer.encode(long_texts.train.texts).lengths.sum()
        # Rows are rounded up to 128 tokens, many of them in batches as small as here.
        assert computed < plan.estimate.tokens_per_epoch < 1.6 * computed

    def test_what_does_not_fit_together(self, planned):
        with pytest.raises(UsageError) as error:
            planned(**{"text.window_overlap": 14, "compute.tokens_per_micro_batch": 0})
        assert list(error.value.problems) == [
            "text.window_overlap is 14 (set on the command line), which leaves nothing new in a window of "
            "text.max_length 16: at most 13.",
            "text.policy is windows, but compute.tokens_per_micro_batch is 0 (set on the command line): Trainer's plain "
            "batches hold one window of each text.",
        ]


class TestLoss:
    LENGTHS = TokenLengths("tiny", 16, (4,) * 8 + (90,), 20.0, 10.0, 2, 0.5, (), {4: 6, 40: 3, 90: 1})

    def test_counted(self):
        found = loss(LengthPolicy("head", 16), self.LENGTHS, rows=10)
        assert (found.rows, found.row_share, found.exact) == (4, 0.4, True)
        assert found.token_share == 1 - (6 * 4 + 4 * 16) / (24 + 120 + 90)
        assert found.mean_computed == (24 + 64) / 10
        assert str(found) == "cuts 4 texts (40.0%) and loses 62.4% of all tokens"

    def test_under_windows(self):
        found = loss(LengthPolicy("windows", 16, 0, 4, 5), self.LENGTHS, rows=10)
        assert (found.rows, found.token_share) == (1, pytest.approx(18 / 234))
        assert found.mean_computed == (24 + 3 * 64 + 80) / 10

    def test_from_a_sample(self):
        found = loss(LengthPolicy("tail", 16), self.LENGTHS, rows=1_000)
        assert (found.rows, found.exact) == (400, False)
        assert str(found) == "cuts about 400 texts (40.0%) and loses about 62.4% of all tokens"

    def test_from_the_quantiles_of_older_files(self):
        old = replace(self.LENGTHS, rows_by_tokens={}, quantiles=(10, 20, 30, 40, 50, 60, 70, 80, 90))
        found = loss(LengthPolicy("head", 35), old, rows=200)
        assert (found.rows, found.exact) == (123, False)

    def test_nothing(self):
        assert str(loss(LengthPolicy("head", 90), self.LENGTHS, rows=10)) == "no text is cut"

    def test_very_many_different_lengths_are_rounded(self):
        counts = np.arange(2, 60_000)
        found = tally(counts)
        assert len(found) < windows.MOST_LENGTHS
        assert sum(found.values()) == len(counts)
        assert sum(tokens * rows for tokens, rows in found.items()) == pytest.approx(counts.sum(), rel=1e-3)
        assert tally(counts[:4_096]) == dict.fromkeys(range(2, 4_098), 1)

    def test_what_prepare_says(self, tmp_path, tiny_model):
        from textlora.api import tokenizer_of

        (tmp_path / "long.csv").write_text(
            "text,label\n" + "".join(f"{'good ' * (20 * n + 1)}x{'ab'[n % 2] * n},{'ab'[n % 2]}\n" for n in range(40))
        )
        dataset = prepare(tmp_path / "long.csv", out=tmp_path / "run", token_counter=tokenizer_of(str(tiny_model)))
        found = [finding for finding in dataset.info.findings if finding.kind == "windows"]
        policy = LengthPolicy.of_settings(TextSettings(policy="windows"), max_length=64)
        cut = loss(policy, dataset.info.token_lengths, rows=40)
        head = loss(replace(policy, policy="head"), dataset.info.token_lengths, rows=40)
        assert cut.exact
        assert cut.rows > 0
        assert [finding.message for finding in found] == [
            f"With text.policy=windows (up to 8 of 64 tokens) {cut.rows} would be cut, {cut.token_share:.1%} of all text, "
            f"for {cut.mean_computed / head.mean_computed:.2f} times the computation."
        ]
