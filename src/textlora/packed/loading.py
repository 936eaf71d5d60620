"""A saved classifier for prediction alone, without importing transformers or PEFT.

Those two take longer to import than torch itself and the weights together. Here the base model's
and the adapter's files become plain modules under the names that Hugging Face gives them, which is
all that the packed forward looks at; its results are the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from textlora.packed.architectures import ARCHITECTURES
from textlora.packed.forward import PackedForward, supports
from textlora.packed.quantized import QuantizedLinear

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
}
SAVED_PREFIX = "base_model.model."
# What a configuration calls its values, by the name that Hugging Face's classes agree on.
ALIASES = {"num_attention_heads": "n_heads", "hidden_size": "dim", "hidden_act": "activation"}


class LoadedClassifier(nn.Module):
    """Encoder, adapters and head read from files; called like a packed Hugging Face classifier.

    Attributes:
        packed: the forward pass.
        trained: the adapter file's weights by their names there.
        settings: the adapter's configuration.
    """

    def __init__(
        self, root: Any, packed: PackedForward, trained: dict[str, torch.Tensor], settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.root = root
        self.packed = packed
        self.trained = trained
        self.settings = settings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, input_ids: torch.Tensor, lengths: Any) -> Any:
        """Return an object with ``logits`` (B, C) for what ``pack`` made."""
        return SimpleNamespace(logits=self.packed.logits(input_ids, lengths))

    def save(self, folder: Path) -> None:
        """Write the adapter's files as they were read."""
        save_file(self.trained, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(self.settings, indent=2), encoding="utf-8")


def can_load(base: Path, adapter: Path) -> bool:
    """Return whether ``load`` knows how to read this base model with this adapter."""
    config, settings = _config(base), _adapter_settings(adapter)
    unusual = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if settings.get(name)]
    known = config.model_type in ARCHITECTURES and supports(config) and config.hidden_act in ACTIVATIONS
    return known and not unusual and settings.get("bias", "none") == "none"


def load(base: Path, adapter: Path, *, dtype: torch.dtype, kernel: str, bits: int | None = None) -> LoadedClassifier:
    """Read a base model and an adapter into a classifier for prediction.

    Args:
        base: folder of the base model, in safetensors.
        adapter: folder of the adapter.
        dtype: arithmetic of the frozen part.
        kernel: attention kernel, see ``attend``.
        bits: quantize the frozen linear layers to so many bits.

    Raises:
        KeyError: a weight is missing.
        OSError, safetensors.SafetensorError: a file cannot be read.
    """
    config, settings = _config(base), _adapter_settings(adapter)
    architecture = ARCHITECTURES[config.model_type]
    trained = load_file(adapter / "adapter_model.safetensors")
    weights = _base_weights(base, architecture.encoder)
    modules = _frozen(weights, config, dtype)
    if bits:
        _quantize(modules, weights, trained, bits)
    _add_trained(modules, trained, settings["lora_alpha"] / settings["r"])
    root = _tree(modules)
    _add_functions(root, config)
    root.config = config
    root.base_model_prefix = architecture.encoder
    return LoadedClassifier(root, PackedForward(root, kernel=kernel), trained, settings).eval()


def check_classes(model: LoadedClassifier, classes: int) -> None:
    """Compare the head's outputs with the number of labels.

    Raises:
        ValueError: they differ.
    """
    head = model.root.classifier
    found = getattr(head, "out_proj", head).out_features
    if found != classes:
        raise ValueError(f"its head has {found} outputs for {classes} labels")


def _config(base: Path) -> SimpleNamespace:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for name, alias in ALIASES.items():
        config.setdefault(name, config.get(alias))
    config.setdefault("layer_norm_eps", 1e-12)
    config.setdefault("pad_token_id", 0)
    return SimpleNamespace(**config)


def _adapter_settings(adapter: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return settings


def _base_weights(base: Path, encoder: str) -> dict[str, torch.Tensor]:
    """Return the encoder's weights under a classifier's names, whichever task they were saved with."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        weights.update(load_file(file))
    prefix = f"{encoder}."
    if any(name.startswith(prefix) for name in weights):
        weights = {name: value for name, value in weights.items() if name.startswith(prefix)}
    else:
        weights = {f"{prefix}{name}": value for name, value in weights.items()}
    # Old checkpoints of BERT call a norm's scale and shift so.
    return {name.replace(".gamma", ".weight").replace(".beta", ".bias"): value for name, value in weights.items()}


def _frozen(weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return a module in ``dtype`` for each path that has a weight."""
    modules: dict[str, nn.Module] = {}
    for name, weight in weights.items():
        path, _, kind = name.rpartition(".")
        if kind == "weight":
            bias = weights.get(f"{path}.bias")
            modules[path] = _module(path, weight.to(dtype), None if bias is None else bias.to(dtype), config)
    return modules


def _module(path: str, weight: torch.Tensor, bias: torch.Tensor | None, config: Any) -> nn.Module:
    if weight.ndim == 1:
        return _Norm(weight, bias, config.layer_norm_eps)
    if path.endswith("_embeddings"):
        return _Embedding(weight)
    return _Linear(weight, bias)


def _quantize(
    modules: dict[str, nn.Module], weights: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], bits: int
) -> None:
    """Replace the linear layers that no trained layer will replace."""
    for path, module in modules.items():
        if isinstance(module, _Linear) and f"{SAVED_PREFIX}{path}.weight" not in trained:
            # From the weights as they are on disk: rounded ones would get other codes.
            modules[path] = QuantizedLinear(weights[f"{path}.weight"], module.bias, bits=bits)


class _Weight(nn.Module):
    """Given weights that are not trained.

    The layers of ``torch.nn`` would fill weights of their own first.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


class _Linear(_Weight):
    @property
    def out_features(self) -> int:
        return len(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class _Fresh(_Linear):
    """A trained layer of the head; it computes in fp32 whatever comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float())


class _Embedding(_Weight):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.weight)


class _Norm(_Weight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> None:
        super().__init__(weight, bias)
        self._eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self._eps)


class _Adapted(nn.Module):
    """A frozen linear layer with one adapter, under the names of PEFT's layer."""

    disable_adapters = merged = False
    active_adapters = ("default",)

    def __init__(self, base: nn.Module, down: torch.Tensor, up: torch.Tensor, scaling: float) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": _Weight(down)})
        self.lora_B = nn.ModuleDict({"default": _Weight(up)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.scaling = {"default": scaling}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W x + b + (alpha / r) B A x for x of (…, in)."""
        down = self.lora_A["default"].weight.to(x.dtype)
        up = (self.lora_B["default"].weight * self.scaling["default"]).to(x.dtype)
        base = self.base_layer(x)
        inner = functional.linear(x, down)
        return torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), up.t()).view_as(base)


def _add_trained(modules: dict[str, nn.Module], trained: Mapping[str, torch.Tensor], scaling: float) -> None:
    """Put the adapters around their layers, and the fresh layers among the modules."""
    for full, weight in trained.items():
        path, _, kind = full.removeprefix(SAVED_PREFIX).rpartition(".")
        if path.endswith(".lora_A"):
            layer = path.removesuffix(".lora_A")
            up = trained[full.replace(".lora_A.", ".lora_B.")]
            modules[layer] = _Adapted(modules[layer], weight, up, scaling)
        elif kind == "weight" and ".lora_" not in path:
            modules[path] = _Fresh(weight, trained.get(f"{SAVED_PREFIX}{path}.bias"))


def _tree(modules: Mapping[str, nn.Module]) -> Any:
    """Hang modules into each other by their dotted paths; numbered children become a list."""
    root = nn.Module()
    for path, module in modules.items():
        node = root
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node._modules[parent]
        node.add_module(name, module)
    return _numbered(root)


def _numbered(node: nn.Module) -> nn.Module:
    children = {name: _numbered(child) for name, child in node.named_children()}
    if children and all(name.isdigit() for name in children):
        return nn.ModuleList([children[name] for name in sorted(children, key=int)])
    for name, child in children.items():
        setattr(node, name, child)
    return node


def _add_functions(root: Any, config: Any) -> None:
    """Add what has no weights: activations, poolers, heads, the padding's place."""
    activation = ACTIVATIONS[config.hidden_act]
    kind = config.model_type
    encoder = getattr(root, ARCHITECTURES[kind].encoder)
    root.dropout = nn.Identity()
    if kind == "distilbert":
        for layer in encoder.transformer.layer:
            layer.ffn.activation = activation
        return
    for layer in encoder.encoder.layer:
        layer.intermediate.intermediate_act_fn = activation
    encoder.embeddings.padding_idx = config.pad_token_id
    if kind == "bert":
        encoder.pooler = _Then(encoder.pooler.dense, torch.tanh)
    else:
        between = functional.gelu if kind == "electra" else torch.tanh
        root.classifier = _Head(root.classifier.dense, between, root.classifier.out_proj)


class _Then(nn.Module):
    """A layer over the first token, then a function: BERT's pooler."""

    def __init__(self, dense: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.dense = dense
        self._function = function

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return f(W x₀ + b) for rows (B, T, H)."""
        return self._function(self.dense(rows[:, 0]))


class _Head(nn.Module):
    """Two layers over the first token: the heads of RoBERTa and ELECTRA."""

    def __init__(self, dense: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], out_proj: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.out_proj = out_proj
        self._function = function

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, C) for rows (B, T, H)."""
        logits: torch.Tensor = self.out_proj(self._function(self.dense(rows[:, 0])))
        return logits
