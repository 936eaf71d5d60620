"""Base models by name: the embedded one, a local folder, or a hub id; their shapes.

Foreign folders are checked before anything is loaded from them: safetensors only, no code of
their own, no file names that lead out of the folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from textlora.embedded import NAME as EMBEDDED
from textlora.embedded import embedded_folder
from textlora.errors import ResourceError, UsageError

DEFAULT_REVISION = "main"
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json",
         "added_tokens.json", "vocab*", "merges.txt", "*.model"]  # fmt: skip
# Learnt positions of these start after the padding index, so 514 rows serve 512 tokens.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer")


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A base model on disk and its shapes.

    Attributes:
        name: as the user gave it.
        revision: the hub commit, or ``"local"`` or ``"embedded"``.
        model_type: the architecture, for instance ``"distilbert"``.
        max_length: tokens that fit, special ones included.
        linear_names: names of the linear layers in the repeated blocks, LoRA's targets.
        parameters: of the encoder, without a head.
        packable: whether our own forward pass knows the architecture.
        folder: where config, weights and tokenizer lie.
    """

    name: str
    revision: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    max_length: int
    linear_names: tuple[str, ...]
    parameters: int
    packable: bool
    folder: Path


def model_folder(base_model: str, revision: str | None = None) -> tuple[Path, str]:
    """Return the folder and the revision of a base model, downloading it if need be.

    Args:
        base_model: ``"embedded"``, a local folder, or a hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        ResourceError: neither in the cache nor reachable, or the package of ``embedded`` is missing.
        UsageError: the folder is not a model that may be loaded.
    """
    if base_model == EMBEDDED:
        return embedded_folder(), EMBEDDED
    folder = Path(os.path.expanduser(base_model))  # noqa: PTH111 - Path's own raises for an unknown user
    if folder.is_dir():
        check_folder(folder)
        return folder, "local"
    if folder.is_absolute() or base_model.startswith((".", "~")) or base_model.count("/") > 1:
        raise UsageError(
            f"There is no folder {base_model}.",
            hint="Give a hub id, the folder of an encoder, or --base-model embedded.",
        )
    snapshot = _download(base_model, revision)
    check_folder(snapshot)
    return snapshot, snapshot.name


def _download(base_model: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    wanted = None if revision in (None, DEFAULT_REVISION) else revision
    embedded_hint = "Or use the model that comes with textlora: --base-model embedded"
    try:
        return Path(snapshot_download(base_model, revision=wanted, allow_patterns=FILES))
    except errors.HFValidationError as error:
        raise UsageError(f"{base_model!r} is neither a folder nor a hub id.", hint=embedded_hint) from error
    except errors.GatedRepoError as error:
        raise ResourceError(
            f"{base_model} is gated on the hub: log in with an account that has access (`hf auth login`).",
            hint=embedded_hint,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ResourceError(
            f"{base_model} has no revision {revision!r} on the hub.", hint="Check the branch, tag or commit."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ResourceError(
            f"There is no model {base_model!r} on the hub (or it is private).", hint=embedded_hint
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ResourceError(
            f"The base model {base_model!r} is not in the local cache, and the hub cannot be reached.",
            hint=f"Connect to the network once to download it. {embedded_hint}",
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a model folder that lacks files, brings code, or names files outside itself.

    Raises:
        UsageError: all problems together.
    """
    problems: list[str] = []
    config = _json(folder / "config.json", problems)
    if "auto_map" in config:
        problems.append("config.json asks to run code of its own (auto_map), which textlora never does.")
    if "quantization_config" in config:
        problems.append("the weights are quantized (quantization_config); textlora needs them whole.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        problems.append("there are no weights in safetensors format (*.safetensors).")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = set(_json(index, problems).get("weight_map", {}).values())
        problems += [
            f"{index.name} names {name!r}, which is not in the folder."
            for name in sorted(named)
            if name not in {file.name for file in weights}
        ]
    if problems:
        raise UsageError(
            f"Cannot use {folder} as a base model:",
            problems=problems,
            hint="Give the folder of a Hugging Face encoder, or --base-model embedded.",
        )


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing.")
        return {}
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}.")
        return {}
    if not isinstance(document, dict):
        problems.append(f"{path.name} is not a JSON object.")
        return {}
    return document


@lru_cache(maxsize=8)
def base_info(base_model: str, revision: str | None = None) -> BaseInfo:
    """Return where a base model lies and its shapes.

    Raises:
        ResourceError: neither in the cache nor reachable.
        UsageError: the folder is not an encoder that may be loaded.
    """
    from textlora import packed

    folder, found = model_folder(base_model, revision)
    config = _load_config(folder)
    model = _empty_encoder(folder, config)
    return BaseInfo(
        name=base_model,
        revision=found,
        model_type=config.model_type,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=getattr(config, "intermediate_size", None)
        or getattr(config, "hidden_dim", 4 * config.hidden_size),
        vocabulary=config.vocab_size,
        max_length=position_limit(config),
        linear_names=linear_names(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        packable=packed.supports(config),
        folder=folder,
    )


def _load_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise UsageError(f"Cannot read {folder / 'config.json'}: {str(error).splitlines()[0]}") from error


def _empty_encoder(folder: Path, config: Any) -> Any:
    """Build the encoder without memory for its weights, to read its structure."""
    import torch
    from transformers import AutoModel

    if not _is_encoder(config):
        raise UsageError(
            f"{folder} holds a {config.model_type} model, which is not an encoder that classifies texts.",
            hint="Give an encoder such as distilbert-base-uncased.",
        )
    with torch.device("meta"):
        # A foreign config could name a kernel on the hub as its attention.
        return AutoModel.from_config(config, attn_implementation="eager")


def encoder_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the weights of the encoder in a folder, without a head."""
    return tuple(name for name, _ in _empty_encoder(folder, _load_config(folder)).named_parameters())


def _is_encoder(config: Any) -> bool:
    """Return whether the architecture fills in masked words (no decoder does) and can classify."""
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    able = all(
        type(config) in auto._model_mapping for auto in (AutoModelForMaskedLM, AutoModelForSequenceClassification)
    )
    return able and not (config.is_encoder_decoder or getattr(config, "is_decoder", False))


def linear_names(model: Any) -> tuple[str, ...]:
    """Return the distinct names of the linear layers in the repeated blocks, in order.

    A layer is in a repeated block when its path holds a number, as ``layer.0.attention.q_lin``.
    """
    import torch

    names: dict[str, None] = {}
    for path, module in model.named_modules():
        parts = path.split(".")
        if isinstance(module, torch.nn.Linear) and any(part.isdigit() for part in parts):
            names[parts[-1]] = None
    return tuple(names)


def position_limit(config: Any) -> int:
    """Return how many tokens the position embeddings serve."""
    rows = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in POSITIONS_AFTER_PADDING:
        # MPNet takes 1 for the padding's id, whatever its configuration says.
        rows -= (1 if config.model_type == "mpnet" else int(config.pad_token_id or 0)) + 1
    return rows
