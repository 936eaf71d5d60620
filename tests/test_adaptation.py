"""``adapt``: masks, pieces, the masked language model against Hugging Face's, training, resume, messages."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ARCHITECTURES, QUICK, WORDS, write_model
from tests.test_cli import call
from textlora import adaptation, storage
from textlora.adaptation import corpus as corpora
from textlora.adaptation import model as masked_model
from textlora.adaptation.masking import Masking
from textlora.adaptation.settings import AdaptationSettings, build, describe, names, parse
from textlora.adaptation.sources import given_names, open_sources
from textlora.adaptation.steps import Passes, Rates
from textlora.errors import DataError, Interrupted, ResourceError, UsageError
from textlora.models import base_info
from textlora.tokenization import TextTokenizer
from textlora.windows import LengthPolicy

FAST = {
    "compute.device": "cpu", "compute.precision": "fp32", "compute.attention": "eager",
    "compute.tokens_per_micro_batch": 256, "training.batch_size": 16, "training.epochs": 2,
    "training.learning_rate": 3e-3, "training.evaluations": 2, "head.steps": 3,
}  # fmt: skip


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 texts of a grammar that a tiny model can learn: some long, some twice, some empty."""
    draw = np.random.default_rng(5)
    lines = []
    for number in range(150):
        phrases = [f"the {noun} was {word}" for noun, word in draw.choice(WORDS[2:15], size=(draw.integers(2, 6), 2))]
        lines.append(" and ".join(phrases * (12 if number % 40 == 7 else 1)))
    path = tmp_path_factory.mktemp("unlabelled") / "texts.txt"
    path.write_text("\n".join([*lines, "", lines[0], lines[1]]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def adapted(unlabelled: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> adaptation.Adaptation:
    """The tiny DistilBERT, adapted; not to be changed by tests."""
    out = tmp_path_factory.mktemp("adapted") / "encoder"
    return adaptation.adapt(unlabelled, out=out, base_model=str(tiny_model), assignments=FAST)


def passes(*, packed: bool = True, dtype: torch.dtype = torch.float32) -> Passes:
    masking = Masking(probability=0.15, mask_id=4, special_ids=(0, 1, 2, 3, 4), vocabulary=90)
    return Passes(masking, pad_id=0, limit=64, packed=packed, dtype=dtype)


def some_pieces(vocabulary: int = 90) -> list[np.ndarray]:
    draw = np.random.default_rng(2)
    lengths = (40, 7, 64, 23, 31)
    return [np.array([2, *draw.integers(5, vocabulary, length - 2), 3], np.int32) for length in lengths]


# -- the model ---------------------------------------------------------------------------------------


def reference(model, pieces):
    """Return Hugging Face's own logits over all padded tokens, at the places asked for."""
    from textlora import encoder

    inputs = encoder.pad([piece.ids for piece in pieces], 0, limit=64)
    whole = type(model).forward(model, **inputs).logits
    return torch.cat([whole[row, piece.places] for row, piece in enumerate(pieces)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masked_logits_equal_those_of_hugging_face(architecture, tmp_path):
    folder = write_model(tmp_path / architecture, architecture)
    model, fresh = masked_model.load(folder, attention="eager", seed=1)
    model.eval()
    assert fresh  # an encoder alone has no head
    way = passes(packed=hasattr(model, "packed"))
    pieces = [piece for piece in way.masking.mask_all(some_pieces(), (3,)) if len(piece.places)]
    pieces.sort(key=lambda piece: -len(piece.ids))
    batches = list(way.cut(pieces, 10_000))
    assert len(batches) == 1
    batch = batches[0]
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "pieces")}
    with torch.no_grad():
        ours = masked_model.logits(model, inputs, torch.float32)
        theirs = reference(model, pieces)
    words = [word for piece in pieces for word in piece.words]
    filler = -len(words) % 32
    assert ours.shape == (len(words) + filler, model.config.vocab_size)
    assert torch.allclose(ours[: len(words)], theirs, atol=1e-5)
    assert batch["labels"].tolist() == [*words, *[-100] * filler]


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "electra", "mpnet"])
def test_gradients_equal_those_of_hugging_face(architecture, tmp_path):
    model, _ = masked_model.load(write_model(tmp_path / "m", architecture), attention="eager", seed=1)
    way = passes(packed=hasattr(model, "packed"))
    pieces = [piece for piece in way.masking.mask_all(some_pieces(), (3,)) if len(piece.places)]
    for batch in way.cut(pieces, 100):  # several micro-batches add up
        way.summed_loss(model, batch).backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    words = torch.from_numpy(np.concatenate([piece.words for piece in pieces]).astype(np.int64))
    torch.nn.functional.cross_entropy(reference(model, pieces), words, reduction="sum").backward()
    theirs = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert ours.keys() == theirs.keys()
    assert "distilbert.embeddings.word_embeddings.weight" in ours or architecture != "distilbert"
    for name, grad in theirs.items():
        assert torch.allclose(ours[name], grad, atol=2e-4, rtol=1e-4), name


def test_bf16_passes_leave_weights_and_gradients_in_fp32(tiny_model):
    model, _ = masked_model.load(tiny_model, attention="eager", seed=1)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        way = passes(dtype=dtype)
        for batch in way.cut(way.masking.mask_all(some_pieces(), (3,)), 10_000):
            way.summed_loss(model, batch).backward()
        found[dtype] = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert found[torch.bfloat16].dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(*found.values(), dim=0)
    assert 0.99 < cosine < 1  # rounded, and the same direction


def test_a_frozen_encoder_keeps_its_weights_and_gets_no_gradient(tiny_model):
    model, _ = masked_model.load(tiny_model, attention="eager", seed=1)
    masked_model.freeze_trunk(model, frozen=True)
    way = passes()
    for batch in way.cut(way.masking.mask_all(some_pieces(), (3,)), 10_000):
        way.summed_loss(model, batch).backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
        "vocab_transform.weight", "vocab_transform.bias", "vocab_layer_norm.weight", "vocab_layer_norm.bias", "vocab_projector.bias",
    }  # fmt: skip
    masked_model.freeze_trunk(model, frozen=False)
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_pooler_of_a_bert_is_carried_over(tmp_path):
    base = write_model(tmp_path / "bert", "bert")
    model, _ = masked_model.load(base, attention="eager", seed=1)
    target = tmp_path / "saved"
    target.mkdir()
    masked_model.save_encoder(model, base, target)
    before, after = load_file(base / "model.safetensors"), load_file(target / "model.safetensors")
    assert torch.equal(after["bert.pooler.dense.weight"], before["pooler.dense.weight"])
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    assert config["hidden_dropout_prob"] == 0.1  # training is without, the encoder keeps its own
    again, fresh = masked_model.load(target, attention="eager", seed=2)
    assert not fresh
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


# -- masks -------------------------------------------------------------------------------------------


def test_masks_are_as_published_and_follow_from_the_seed():
    masking = Masking(probability=0.15, mask_id=4, special_ids=(0, 1, 2, 3, 4), vocabulary=30_000)
    draw = np.random.default_rng(0)
    pieces = [np.array([2, *draw.integers(1_000, 30_000, 510), 3], np.int32) for _ in range(200)]
    masked = masking.mask_all(pieces, (7, 1))
    asked = sum(len(piece.places) for piece in masked)
    assert asked / (200 * 510) == pytest.approx(0.15, abs=0.005)
    seen = np.concatenate([piece.ids[piece.places] for piece in masked])
    words = np.concatenate([piece.words for piece in masked])
    assert np.mean(seen == 4) == pytest.approx(0.8, abs=0.015)
    assert np.mean(seen == words) == pytest.approx(0.1, abs=0.01)
    for piece, ids in zip(masked, pieces, strict=True):
        assert not {0, 511} & set(piece.places.tolist())  # never special tokens
        assert np.array_equal(piece.words, ids[piece.places])
        others = np.setdiff1d(np.arange(512), piece.places)
        assert np.array_equal(piece.ids[others], ids[others])
    again = masking.mask_all(pieces, (7, 1))
    assert all(np.array_equal(one.ids, two.ids) for one, two in zip(masked, again, strict=True))
    other = masking.mask_all(pieces, (7, 2))
    assert not np.array_equal(masked[0].places, other[0].places)


# -- texts -------------------------------------------------------------------------------------------


def open_corpus(sources, model: Path, folder: Path, max_length: int = 16, **changes):
    tokenizer = TextTokenizer.load(model, LengthPolicy("head", max_length), base_model="tiny")
    opened = open_sources(sources, text=None, encoding=None)
    return corpora.open_or_build(folder, opened, tokenizer, build(changes), progress=lambda *_: None), tokenizer


def test_nothing_of_a_text_is_lost_and_equal_texts_are_dropped(tiny_model, tmp_path):
    texts = [" ".join(WORDS[:count]) for count in (3, 14, 15, 40, 43)] + ["a film"] * 3 + ["", "  ", "film<br />plot"]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    corpus, tokenizer = open_corpus(path, tiny_model, tmp_path / "corpus", **{"data.validation_share": 0.4})
    facts = corpus.facts
    assert (facts.read, facts.texts, facts.duplicates, facts.without_text, facts.broken) == (11, 7, 2, 2, 0)
    assert facts.read == facts.texts + facts.duplicates + facts.without_text + facts.broken
    assert facts.long_texts == 3
    pieces = [*corpus.train, *corpus.held_out]
    assert all(piece[0] == 2 and piece[-1] == 3 and 3 <= len(piece) <= 16 for piece in pieces)
    found = sorted(tuple(piece[1:-1]) for piece in pieces)
    wanted = []
    for ids in tokenizer.whole([*texts[:5], "a film", "film plot"]):
        count = math.ceil(len(ids) / 14)
        cut = [ids[len(ids) * place // count : len(ids) * (place + 1) // count] for place in range(count)]
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
        wanted += map(tuple, cut)
    assert found == sorted(wanted)
    assert facts.pieces == len(corpus.train)
    assert facts.tokens == sum(map(len, corpus.train)) == corpus.train.lengths.sum()
    assert facts.held_out == len(corpus.held_out) >= 1


def test_a_held_out_text_is_held_out_whole(unlabelled, tiny_model, tmp_path):
    corpus, _ = open_corpus(unlabelled, tiny_model, tmp_path / "corpus", **{"data.validation_share": 0.3})
    assert corpus.facts.held_out_texts < corpus.facts.held_out
    seen = {tuple(piece) for piece in corpus.train}
    held = [tuple(piece) for piece in corpus.held_out]
    repeated = [piece for piece in held if piece in seen]
    assert len(repeated) < len(held) / 4  # phrases come again, texts do not
    again, _ = open_corpus(unlabelled, tiny_model, tmp_path / "again", **{"data.validation_share": 0.3})
    assert [tuple(piece) for piece in again.held_out] == held
    assert again.facts.fingerprint == corpus.facts.fingerprint
    other, _ = open_corpus(unlabelled, tiny_model, tmp_path / "other", **{"data.validation_share": 0.3, "seed": 1})
    assert [tuple(piece) for piece in other.held_out] != held


def test_a_corpus_is_taken_over_while_its_files_are_the_same(unlabelled, tiny_model, tmp_path):
    copy = tmp_path / "texts.txt"
    shutil.copy(unlabelled, copy)
    folder = tmp_path / "corpus"
    open_corpus(copy, tiny_model, folder)
    (folder / corpora.IDS).rename(tmp_path / "ids")
    (tmp_path / "ids").rename(folder / corpora.IDS)
    before = (folder / corpora.IDS).stat().st_ino
    open_corpus(copy, tiny_model, folder)
    assert (folder / corpora.IDS).stat().st_ino == before
    copy.write_text(copy.read_text() + "the plot was fine\n")
    changed, _ = open_corpus(copy, tiny_model, folder)
    assert (folder / corpora.IDS).stat().st_ino != before
    assert changed.facts.texts == 151


def test_a_giant_text_is_tokenized_whole(tiny_model):
    tokenizer = TextTokenizer.load(tiny_model, LengthPolicy("head", 16), base_model="tiny")
    text = "film plot " * 45_000
    (ids,) = tokenizer.whole([text])
    assert len(ids) == 90_000
    assert set(ids) == set(next(iter(tokenizer.whole(["film plot"]))))
    (unbroken,) = tokenizer.whole(["film" * 60_000])
    assert unbroken


def test_folders_give_their_files_and_run_folders_their_training_split(toy_dataset, tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    (folder / "b.csv").write_text("review,stars\na fine film to watch,3\nbad,1\n")
    (folder / "a.txt").write_text("the plot was dull\n\nit was fine\n")
    (folder / "deep" / "c.jsonl").write_text('{"text": "a story"}\n{"text": "an end"}\n')
    (folder / "notes.md").write_text("no data")
    (folder / "deep" / ".hidden" / "d.txt").write_text("not this")
    shutil.copytree(toy_dataset.folder, folder / "run")
    sources = open_sources([folder], text=None, encoding=None)
    assert [Path(source.name.removesuffix(" (training split)")).name for source in sources] == [
        "a.txt",
        "b.csv",
        "c.jsonl",
        "run",
    ]
    assert list(sources[0].read()) == ["the plot was dull", "it was fine"]
    assert list(sources[3].read()) == list(toy_dataset.train.texts)
    assert [source.prepared for source in sources] == [False, False, False, True]
    assert given_names(sources) == (f"{folder} (4 files)",)
    assert given_names(open_sources(folder / "a.txt", text=None, encoding=None)) == (str(folder / "a.txt"),)
    (held,) = open_sources(toy_dataset, text=None, encoding=None)
    assert not set(held.read()) & {*toy_dataset.test.texts, *toy_dataset.validation.texts}


def test_a_data_frame_is_read_too(tiny_model, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": [f"the film was {word} for {word} people" for word in WORDS[:20]]})
    corpus, _ = open_corpus(frame, tiny_model, tmp_path / "corpus")
    assert corpus.facts.texts == 20


# -- training ----------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_result_is_an_encoder_folder(adapted, tiny_model):
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    assert adapted.perplexity_after < 0.8 * adapted.perplexity_before
    assert adapted.improved
    assert adapted.ending == "planned"
    assert adapted.plan.fresh_head
    assert adapted.plan.head_steps == 3
    folder = adapted.folder
    assert not Path(f"{folder}.unfinished").exists()
    info = base_info(str(folder))
    assert (info.model_type, info.packable, info.hidden) == ("distilbert", True, 32)
    encoder, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    base = AutoModel.from_pretrained(tiny_model)
    assert not torch.equal(encoder.transformer.layer[0].ffn.lin1.weight, base.transformer.layer[0].ffn.lin1.weight)
    whole, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert whole.vocab_projector.weight is whole.distilbert.embeddings.word_embeddings.weight
    assert AutoTokenizer.from_pretrained(folder).mask_token == "[MASK]"
    assert adaptation.load_adaptation(folder) == adapted
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert f"{adapted.perplexity_after:.2f}" in card


def test_history_holds_the_perplexities(adapted):
    scored = [entry for entry in adapted.history if "eval_loss" in entry]
    assert [entry["step"] for entry in scored] == [
        0,
        3,
        adapted.plan.steps - (adapted.plan.steps - 3) // 2 - (adapted.plan.steps - 3) % 2,
        adapted.plan.steps,
    ]
    assert all(entry["eval_perplexity"] == pytest.approx(math.exp(entry["eval_loss"])) for entry in scored)
    assert adapted.loss_before == scored[1]["eval_loss"]
    assert adapted.loss_after == min(entry["eval_loss"] for entry in scored)


@pytest.mark.usefixtures("fast_reload")
def test_an_adapted_encoder_is_a_base_model(adapted, toy_dataset, machine, tmp_path):
    from textlora import planning
    from textlora.classifier import Classifier
    from textlora.training import train

    encoder = tmp_path / "runs" / "encoder"
    shutil.copytree(adapted.folder, encoder)
    run = tmp_path / "runs" / "reviews"
    shutil.copytree(toy_dataset.folder, run)
    from textlora.preparation import load_dataset

    dataset = load_dataset(run)
    plan = planning.plan(dataset, base_model=str(encoder), assignments={**QUICK, "training.epochs": 1}, machine=machine)
    train(plan, dataset)
    before = Classifier.from_pretrained(run).predict_proba(["a film"])
    # The runs' folder moves as a whole: the encoder is found beside the run.
    moved = tmp_path / "elsewhere"
    (tmp_path / "runs").rename(moved)
    assert np.array_equal(Classifier.from_pretrained(moved / "reviews").predict_proba(["a film"]), before)
    shutil.rmtree(moved / "encoder")
    with pytest.raises(ResourceError) as caught:
        Classifier.from_pretrained(moved / "reviews")
    assert str(caught.value) == (
        f"The base model of this classifier, {encoder.resolve()}, is not there, nor {moved / 'encoder'}.\n"
        "Put the encoder's folder back, or beside the run folder under the same name."
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("stop_at", [2, 8])
def test_a_resumed_adaptation_equals_an_undisturbed_one(adapted, unlabelled, tiny_model, tmp_path, stop_at):
    sent: list[int] = []

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "adapt" and done == stop_at and not sent:
            sent.append(done)
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "encoder"
    given = {"out": out, "base_model": str(tiny_model), "assignments": FAST}
    with pytest.raises(Interrupted) as caught:
        adaptation.adapt(unlabelled, **given, progress=stop)
    assert caught.value.exit_code == 130
    assert (
        str(caught.value) == f"Stopped by SIGINT; the state is saved in {out}.unfinished.\nGo on with the same command."
    )
    assert not out.exists()
    with pytest.raises(UsageError, match="begun with other texts or settings"):
        adaptation.adapt(unlabelled, **{**given, "assignments": {**FAST, "seed": 1}})
    done = adaptation.adapt(unlabelled, **given)
    expected = weights(adapted.folder)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(out).items())
    assert [entry.get("eval_loss") for entry in done.history] == [entry.get("eval_loss") for entry in adapted.history]


def test_the_head_trains_before_the_encoder(unlabelled, tiny_model, tmp_path):
    kept: dict[int, Path] = {}

    def keep(stage: str, done: int, total: int, note: str) -> None:
        for folder in (tmp_path / "encoder.unfinished" / "checkpoints").glob("checkpoint-*"):
            if (folder / "manifest.json").exists() and folder.name not in {path.name for path in kept.values()}:
                kept[int(folder.name.rpartition("-")[2])] = shutil.copytree(folder, tmp_path / folder.name)

    adaptation.adapt(unlabelled, out=tmp_path / "encoder", base_model=str(tiny_model), assignments=FAST, progress=keep)
    base, head = weights(tiny_model), weights(kept[3])
    trunk = {
        name.removeprefix("distilbert."): weight for name, weight in head.items() if name.startswith("distilbert.")
    }
    assert all(torch.equal(trunk[name], weight) for name, weight in base.items())
    assert not torch.equal(head["vocab_transform.weight"], weights(tmp_path / "encoder")["vocab_transform.weight"])


def test_rates_train_the_head_alone_then_warm_up_and_decay():
    rates = Rates(peak=1e-4, steps=110, warmup=10, head_peak=1e-3, head_steps=10, weight_decay=0.01)
    assert [rates.encoder_share(step) for step in (0, 9)] == [0, 0]
    assert rates.head_share(9) == pytest.approx(10)
    assert 0 < rates.encoder_share(10) < rates.encoder_share(19) < 1
    assert rates.encoder_share(20) == 1
    assert rates.encoder_share(65) == pytest.approx(0.5)
    assert rates.encoder_share(110) == 0
    assert rates.head_share(50) == rates.encoder_share(50)


def test_it_ends_early_without_gain_and_keeps_the_best(unlabelled, tiny_model, tmp_path):
    wild = {
        **FAST,
        "training.learning_rate": 0.5,
        "training.warmup_steps": 0,
        "training.evaluations": 10,
        "training.early_stopping_patience": 2,
    }
    done = adaptation.adapt(unlabelled, out=tmp_path / "encoder", base_model=str(tiny_model), assignments=wild)
    assert done.ending == "no gain"
    assert done.steps < done.plan.steps
    losses = {entry["step"]: entry["eval_loss"] for entry in done.history if "eval_loss" in entry}
    assert done.best_step == min((step for step in losses if step), key=losses.__getitem__)


def test_memory_that_runs_out_halves_the_micro_batch(unlabelled, tiny_model, tmp_path, monkeypatch):
    original = Passes.summed_loss
    failed = []

    def run_out(self, model, batch):
        if (
            model.training
            and sum(batch["lengths"]) > 150
            and any(weight.grad is not None for weight in model.parameters())
        ):
            failed.append(batch)
            raise MemoryError
        return original(self, model, batch)

    from textlora.adaptation import preparing

    measured = preparing.measure
    monkeypatch.setattr(
        preparing, "measure", lambda *given: (measured(*given), monkeypatch.setattr(Passes, "summed_loss", run_out))[0]
    )
    with pytest.warns(UserWarning, match="micro-batches of 128 tokens instead of 256"):
        done = adaptation.adapt(
            unlabelled, out=tmp_path / "e", base_model=str(tiny_model), assignments={**FAST, "training.epochs": 0.2}
        )
    assert failed
    assert done.memory_events[0].after == 128


# -- command line and messages -----------------------------------------------------------------------


def test_the_command_tells_the_plan_and_the_result(unlabelled, tiny_model, tmp_path):
    out = tmp_path / "encoder"
    words = ["adapt", str(unlabelled), "--base-model", str(tiny_model), "--out", str(out)]
    for name, value in FAST.items():
        words += ["--set", f"{name}={value}"]
    dry = call(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert "152 rows read = 150 texts + 2 equal to another" in dry.out
    assert "Estimate:" in dry.out
    assert "GB of disk" in dry.out
    assert "! All texts of these files are used." in dry.out
    assert not out.exists()
    assert not Path(f"{out}.unfinished").exists()
    done = call(*words)
    assert done.code == 0, done.err
    assert "held-out perplexity" in done.out
    assert f"--base-model {out}" in done.out
    again = call(*words)
    assert again.code == 2
    assert f"{out} holds an adapted encoder already." in again.err
    replaced = call(*words, "--overwrite", "--json", "--time-limit", "30m")
    assert replaced.code == 0, replaced.err
    assert json.loads(replaced.out)["adaptation"]["plan"]["settings"]["limits"]["minutes"] == 30


def test_a_time_limit_takes_fewer_steps_or_says_what_it_needs(unlabelled, tiny_model, tmp_path):
    given = {"base_model": str(tiny_model)}
    long = {**FAST, "training.epochs": 1000, "training.evaluations": 1}
    whole = adaptation.plan(unlabelled, **given, assignments=long)
    short = adaptation.plan(unlabelled, **given, assignments={**long, "limits.minutes": 0.3})
    assert 0 < short.steps < whole.steps
    assert short.estimate.seconds < 18
    with pytest.raises(ResourceError, match=r"0.001 minutes are not enough: 10 steps of the encoder take about"):
        adaptation.plan(unlabelled, **given, assignments={**long, "limits.minutes": 0.001})


def test_the_clock_ends_training_that_takes_longer_than_planned(unlabelled, tiny_model, tmp_path, monkeypatch):
    from textlora.adaptation import running

    monkeypatch.setattr(running, "_closing_seconds", lambda job: 60 * 30 - 0.01)
    given = {"base_model": str(tiny_model)}
    limited = {**FAST, "limits.minutes": 30}
    done = adaptation.adapt(unlabelled, out=tmp_path / "e", **given, assignments={**limited, "head.steps": 0})
    assert done.ending == "time limit"
    assert done.steps < done.plan.steps
    assert (tmp_path / "e" / "model.safetensors").exists()
    assert refused(unlabelled, out=tmp_path / "f", **given, assignments=limited) == (
        "The time limit was reached before the encoder was trained: after 1 of the 3 steps of the head alone.\n"
        "Raise --time-limit; this machine is slower than it was when the limit was planned with."
    )


def refused(*given, **named) -> str:
    with pytest.raises((DataError, UsageError, ResourceError)) as caught:
        adaptation.adapt(*given, **named)
    return str(caught.value)


def test_wrong_uses_have_clear_messages(unlabelled, tiny_model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    tiny = {"out": out, "base_model": str(tiny_model), "assignments": FAST}
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    assert "No column of" in refused(tmp_path / "numbers.csv", **tiny)
    assert "There is no column 'txt'" in refused(tmp_path / "numbers.csv", text="txt", **tiny)
    several = refused([tmp_path / "numbers.csv", tmp_path / "gone.csv"], **tiny)
    assert "2 of the sources cannot be read:" in several
    assert "gone.csv does not exist" in several
    (tmp_path / "empty").mkdir()
    assert f"There are no files of texts in {tmp_path / 'empty'}." in refused(tmp_path / "empty", **tiny)
    (tmp_path / "one.txt").write_text("the film\nthe film\n\n")
    assert "1 different text in" in refused(tmp_path / "one.txt", **tiny)
    (out / "mine").mkdir(parents=True)
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []
    assert f"{out} holds other files, which would be replaced." in refused(unlabelled, overwrite=True, **tiny)
    assert "is the base model itself" in refused(unlabelled, **{**tiny, "out": tiny_model}, overwrite=True)
    fresh = {**tiny, "out": tmp_path / "new"}
    assert "training.epochs is 0, expected greater than 0." in refused(
        unlabelled, **{**fresh, "assignments": {"training.epochs": 0}}
    )
    wrong = refused(unlabelled, **{**fresh, "assignments": {"epoch": 1}})
    assert "adapt has no setting 'epoch'. Did you mean 'training.epochs'?" in wrong
    assert "text.max_length is 100, but" in refused(
        unlabelled, **{**fresh, "assignments": {**FAST, "text.max_length": 100}}
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "adapt runs in one process." in refused(unlabelled, **fresh)


def test_a_tokenizer_without_a_mask_is_refused(unlabelled, tmp_path):
    model = write_model(tmp_path / "m", "distilbert")
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert "has no mask token" in refused(unlabelled, out=tmp_path / "out", base_model=str(model), assignments=FAST)


def test_a_decoder_is_refused(unlabelled, tmp_path):
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=1, vocab_size=90)
    AutoModel.from_config(config).save_pretrained(tmp_path / "gpt")
    assert "which is not an encoder" in refused(unlabelled, out=tmp_path / "out", base_model=str(tmp_path / "gpt"))


def test_too_little_memory_or_disk_is_told_before_the_start(unlabelled, tiny_model, tmp_path, monkeypatch):
    from textlora import hardware

    given = {"out": tmp_path / "out", "base_model": str(tiny_model), "assignments": FAST}
    monkeypatch.setattr(hardware, "free_disk_gb", lambda path: 0.0001)
    assert "GB of disk with its checkpoints" in refused(unlabelled, **given)
    monkeypatch.setattr(hardware, "memory", lambda: (1e9, 1e6))
    assert "GB of memory more, and 0.0 GB are free." in refused(unlabelled, **given)


def test_a_file_of_broken_rows_is_suspect(tiny_model, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "a film"}\n' + "{broken\n" * 3 + '{"text": "a plot"}\n')
    message = refused(path, out=tmp_path / "out", base_model=str(tiny_model), assignments=FAST)
    assert "3 of 5 rows of" in message
    assert "are broken (60%)" in message


def test_a_training_that_is_under_way_is_left_alone(unlabelled, tiny_model, tmp_path):
    from filelock import FileLock

    work = storage.make_folder(tmp_path / "e.unfinished")
    with FileLock(work / "lock"):
        message = refused(unlabelled, out=tmp_path / "e", base_model=str(tiny_model), assignments=FAST)
    assert f"Another process is adapting into {tmp_path / 'e'}." in message


def test_settings_are_described_and_read_from_text():
    assert all(describe(name) for name in names())
    found = parse(["training.epochs=0.5", "compute.precision=bf16", "head.steps=auto"])
    assert found == {"training.epochs": 0.5, "compute.precision": "bf16", "head.steps": None}
    assert build(found).training.epochs == 0.5
    assert build({}) == AdaptationSettings()
    with pytest.raises(UsageError, match="has no '='"):
        parse(["seed"])
    page = (Path(__file__).parents[1] / "docs" / "adapt.md").read_text(encoding="utf-8")
    assert [name for name in names() if f"`{name}`" not in page] == []


def test_help_loads_no_torch():
    import subprocess
    import sys

    code = "import sys; from textlora.cli import app; import textlora; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
