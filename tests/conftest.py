"""Shared fixtures: the shipped example, tiny real models, and runs made once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from textlora.types import Dataset, Machine, Plan, Run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "movie_reviews.csv"

WORDS = [
    "a",
    "the",
    "film",
    "movie",
    "story",
    "acting",
    "plot",
    "good",
    "great",
    "fine",
    "lovely",
    "bad",
    "dull",
    "awful",
    "boring",
    "was",
    "is",
    "not",
    "very",
    "and",
    "but",
    "with",
    "this",
    "i",
    "it",
    "loved",
    "hated",
    "never",
    "always",
    "end",
    "music",
    "script",
    "of",
    "to",
    "in",
    "for",
    "my",
    "we",
    "you",
    "he",
    "she",
    "long",
    "short",
]


def write_tokenizer(folder: Path) -> int:
    """Write a small lower-casing word-piece tokenizer; return the vocabulary's size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(97, 123)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **names, "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(vocabulary)


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 66, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, object]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    "bert": SMALL,
    "roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 16},
    "deberta": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True, "type_vocab_size": 0},
    "albert": {**SMALL, "embedding_size": 16},
    "mpnet": SMALL,
    "xlm-roberta": SMALL,
    "camembert": SMALL,
    "modernbert": {**SMALL, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip


def write_model(folder: Path, architecture: str, *, seed: int = 0, **changes: object) -> Path:
    """Save a tiny encoder with random weights and a tokenizer; ``changes`` go into its configuration."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder)
    torch.manual_seed(seed)
    # Wide initial weights: texts shall differ in what comes out.
    options = {"initializer_range": 0.2, **ARCHITECTURES[architecture], **changes}
    config = AutoConfig.for_model(architecture, vocab_size=size, **options)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DistilBERT of two layers with random weights."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-distilbert", "distilbert")


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short texts whose label a tiny model can learn."""
    import random

    draw = random.Random(3)
    good, bad = ["good", "great", "fine", "lovely", "loved"], ["bad", "dull", "awful", "boring", "hated"]
    lines = ["review,sentiment"]
    for number in range(120):
        label = "positive" if number % 2 else "negative"
        words = draw.choices(WORDS, k=draw.randint(4, 30)) + draw.choices(good if number % 2 else bad, k=4)
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{label}")
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def example_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped example, trained briefly with the embedded model; a finished run folder."""
    from textlora import api

    folder = tmp_path_factory.mktemp("example") / "run"
    api.fit(EXAMPLE, base_model="embedded", out=folder, assignments={"training.epochs": 1})
    return folder


QUICK: dict[str, Any] = {
    "compute.device": "cpu", "compute.precision": "fp32", "compute.tokens_per_micro_batch": 256, "lora.r": 4,
    "training.epochs": 2, "training.batch_size": 8, "training.eval_batch_size": 16, "training.learning_rate": 5e-3,
}  # fmt: skip


@pytest.fixture(scope="session")
def machine() -> Machine:
    """A small machine without a GPU, so that no test waits for a probe."""
    from textlora.types import Machine

    return Machine(
        processor="Test CPU",
        cores=2,
        memory_gb=8.0,
        available_memory_gb=6.0,
        gpu=None,
        gpu_memory_gb=None,
        gpu_capability=None,
        features=(),
        rates={"fp32": 100.0},
        platform="Linux",
    )


@pytest.fixture(scope="session")
def toy_dataset(toy_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The toy texts, prepared."""
    from textlora.preparation import prepare

    return prepare(toy_csv, out=tmp_path_factory.mktemp("toy") / "run", text="review", label="sentiment")


@pytest.fixture(scope="session")
def toy_plan(toy_dataset: Dataset, tiny_model: Path, machine: Machine) -> Plan:
    """A plan that trains the tiny model in a second."""
    from textlora import planning

    return planning.plan(toy_dataset, base_model=str(tiny_model), assignments=QUICK, machine=machine)


@dataclass(frozen=True)
class ToyRun:
    """A finished run with all that it was made from."""

    folder: Path
    dataset: Dataset
    plan: Plan
    run: Run


@pytest.fixture(scope="session")
def toy_run(toy_dataset: Dataset, toy_plan: Plan) -> ToyRun:
    """The toy data prepared, planned and trained in one run folder; not to be changed by tests."""
    from textlora import planning, storage
    from textlora.training import train

    planning.save_plan(toy_dataset.folder / storage.PLAN, toy_plan)
    return ToyRun(toy_dataset.folder, toy_dataset, toy_plan, train(toy_plan, toy_dataset, command="textlora train"))


def reload_in_this_process(classifier: Any, folder: Path, texts: list[str]) -> float:
    """Do as ``reload_difference`` does, without the seconds that a process of its own takes."""
    from textlora.reloading import reload_difference_here

    return reload_difference_here(classifier, folder, texts)


@pytest.fixture
def fast_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the reload in this process; ``toy_run`` and the slower tests do it in a fresh one."""
    from textlora import training

    monkeypatch.setattr(training.saving, "reload_difference", reload_in_this_process)


def strike(when: Callable[..., bool], number: int = signal.SIGINT) -> Callable[..., None]:
    """Return a progress callback that sends this process one signal, the first time that ``when`` holds."""
    sent: list[int] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if not sent and when(stage, done, total, note):
            sent.append(number)
            os.kill(os.getpid(), number)

    return progress
