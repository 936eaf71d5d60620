"""The base models that are measured: distilbert-base's shapes with random weights, and the embedded one."""

from __future__ import annotations

import shutil
from pathlib import Path

from textlora import embedded, storage

NOTE = "distilbert-base: random weights; timing does not depend on the values"


def distilbert_folder() -> Path:
    """Return a folder with distilbert-base's shapes, random weights and a tokenizer; make it on first use."""
    folder = storage.cache_folder() / "benchmarks" / "distilbert-base-random"
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    from textlora import encoder

    storage.make_folder(folder.parent)
    with storage.atomic_folder(folder) as temporary, encoder.quiet_libraries():
        torch.manual_seed(0)
        DistilBertModel(DistilBertConfig()).save_pretrained(temporary)
        for file in embedded.embedded_folder().glob("tokenizer*"):
            shutil.copy(file, temporary)
    return folder


def folder_of(name: str) -> Path:
    """Return the folder of ``distilbert-base`` (random weights) or ``embedded``."""
    return embedded.embedded_folder() if name == "embedded" else distilbert_folder()
