"""The encoder with a head that names masked words: load, run, save as an encoder folder.

Hugging Face's ``…ForMaskedLM`` of the architecture, whose decoder is the table of word embeddings
once more. Logits are computed for the masked tokens alone, (M, V): those of all tokens would take
more memory than the encoder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from textlora import encoder, models, packed
from textlora.errors import ResourceError
from textlora.tokenization import TokenIds

WEIGHTS = "model.safetensors"
# The number of tokens asked for is rounded up to this: oneDNN builds a kernel for every number it meets, and
# keeps it.
WORD_STEP = 32
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "modules.json",
)  # fmt: skip


def load(folder: Path, *, attention: str, seed: int) -> tuple[Any, tuple[str, ...]]:
    """Load an encoder as a masked language model in fp32, without dropout.

    Args:
        folder: of the base model.
        attention: ``eager`` or ``sdpa``.
        seed: of what the folder has no weights for.

    Returns:
        The model, which takes what ``collate`` makes, and the names of the weights of its head that are fresh.

    Raises:
        ResourceError: the weights cannot be read, or some of the encoder's are missing.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    encoder.still_trunk(config)
    torch.manual_seed(seed)
    try:
        with encoder.quiet_libraries():
            model, report = AutoModelForMaskedLM.from_pretrained(
                folder, config=config, dtype=torch.float32, attn_implementation=attention,
                output_loading_info=True, use_safetensors=True, trust_remote_code=False,
            )  # fmt: skip
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ResourceError(f"Cannot read the weights in {folder}: {str(error).splitlines()[0]}") from error
    missing = sorted(report["missing_keys"])
    lost = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if lost:
        raise ResourceError(f"Weights of the encoder are missing in {folder}:", problems=lost[:10])
    if packed.supports(config):
        packed.install_masked(model, kernel=attention)
    else:
        _pick_masked(model)
    return model, tuple(missing)


def _pick_masked(model: Any) -> None:
    """Let the head of a model see the tokens at the places ``rows`` alone, in Hugging Face's own forward."""
    original = model.forward
    wanted: list[torch.Tensor] = []

    def pick(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = inputs
        return (hidden.flatten(0, 1).index_select(0, wanted[-1]), *others) if wanted else inputs

    def forward(*args: Any, rows: torch.Tensor | None = None, **kwargs: Any) -> Any:
        wanted[:] = [] if rows is None else [rows]
        try:
            return original(*args, **kwargs)
        finally:
            wanted.clear()

    names = [name for name, _ in model.named_children()]
    # Whatever its class calls it, the head is what comes after the encoder.
    head = names[names.index(model.base_model_prefix) + 1]
    model.get_submodule(head).register_forward_pre_hook(pick)
    model.forward = forward


def collate(
    ids: Sequence[TokenIds], places: Sequence[Sequence[int]], pad_id: int, *, limit: int, packed_rows: bool
) -> dict[str, Any]:
    """Return the model's inputs for some pieces; ``rows`` (M',) are the tokens asked for, then filler.

    Args:
        ids: token ids (T,) of each piece, masked.
        places: which tokens of each piece are asked for, M in all.
        pad_id: fills short pieces.
        limit: tokens of the longest piece there may be.
        packed_rows: lay the pieces end to end instead of padding them.
    """
    inputs = encoder.collate(ids, pad_id, limit=limit, packed_rows=packed_rows)
    if packed_rows:
        starts: Sequence[int] = packed.Layout(inputs["lengths"]).starts
    else:
        starts = range(0, inputs["input_ids"].numel(), inputs["input_ids"].shape[1])
    rows = [start + place for start, own in zip(starts, places, strict=True) for place in own]
    filler = -len(rows) % WORD_STEP
    return {**inputs, "rows": torch.tensor([*rows, *[0] * filler], dtype=torch.long)}


def logits(model: Any, inputs: Mapping[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Return the logits over the vocabulary (M', V) of the tokens asked for and of the filler, in ``dtype``.

    The weights stay in fp32. In another ``dtype`` the pass computes with copies of them, made for it and
    gone after its backward pass; gradients add up in fp32.

    Args:
        model: from ``load``.
        inputs: from ``collate``, on the model's device.
        dtype: arithmetic of the blocks and the head.
    """
    # In the weights' own precision there is nothing to copy.
    copies = {} if dtype == torch.float32 else _copies(model, dtype)
    return torch.func.functional_call(model, copies, args=(), kwargs=dict(inputs), tie_weights=False).logits


def _copies(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights in ``dtype``; packed, those of the embeddings stay as they are.

    The gradient of a frequent word is the sum over its many places, which bf16 would round away.
    """
    spared = f"{model.base_model_prefix}.embeddings." if encoder.runs_packed(model) else None
    made: dict[int, torch.Tensor] = {}
    copies = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if spared is None or not name.startswith(spared):
            copies[name] = made.setdefault(id(weight), weight.to(dtype))
    return copies


def trunk_parameters(model: Any) -> list[nn.Parameter]:
    """Return the weights of the encoder, the embeddings included that are the head's decoder as well."""
    return list(getattr(model, model.base_model_prefix).parameters())


def freeze_trunk(model: Any, *, frozen: bool) -> None:
    """Keep the encoder from being trained, or let it be trained again."""
    for parameter in trunk_parameters(model):
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Return all weights by name, each once: a tied decoder goes by the name of the embeddings."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, weight in [*model.named_parameters(remove_duplicate=False), *_saved_buffers(model)]:
        if id(weight) not in seen:
            seen.add(id(weight))
            # The packed forward lays several into one block of memory, which a file must not share.
            found[name] = weight.detach().cpu().clone()
    return found


def _saved_buffers(model: Any) -> list[tuple[str, torch.Tensor]]:
    kept = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def save_weights(model: Any, folder: Path) -> None:
    """Write the model's weights as safetensors into ``folder``.

    Raises:
        OSError: the disk is full, or whatever else keeps a file from being written.
    """
    with encoder.write_errors(folder):
        save_file(weights_of(model), folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(model: Any, folder: Path) -> None:
    """Read what ``save_weights`` wrote into the model."""
    found = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *_saved_buffers(model)]:
            weight.copy_(found[name])


def save_encoder(model: Any, base: Path, folder: Path) -> None:
    """Write an encoder folder: weights with the head for masked words, configuration and tokenizer of ``base``.

    What the base model's encoder has beside (BERT's pooler) is taken over as it is.

    Raises:
        OSError: the disk is full, or whatever else keeps a file from being written.
    """
    weights = {**_beside(base, model), **weights_of(model)}
    with encoder.write_errors(folder):
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for pattern in TOKENIZER_FILES:
        for file in base.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def _beside(base: Path, model: Any) -> dict[str, torch.Tensor]:
    """Return the encoder's weights in ``base`` that a masked language model does not have."""
    prefix = f"{model.base_model_prefix}."
    known = {f"{prefix}{name}" for name in models.encoder_names(base)} - set(model.state_dict())
    found = {}
    for file in sorted(base.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            full = name if name.startswith(prefix) else f"{prefix}{name}"
            if full in known:
                found[full] = weight
    return found
