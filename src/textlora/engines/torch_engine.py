"""Logits by torch: adapters over a base model or merged weights, texts end to end where the packed forward knows the architecture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textlora import bundles, encoder, models
from textlora.batching import packed_batches
from textlora.encoder import EncoderSpec
from textlora.engines.base import Engine, Ids, Lengths, Logits
from textlora.errors import TextloraWarning
from textlora.extras import QLORA
from textlora.threads import side_by_side
from textlora.tokenization import TextTokenizer
from textlora.types import Bundle

TOKENS_PER_MICRO_BATCH = {"cpu": 4_096, "mps": 8_192, "cuda": 65_536}


class TorchEngine(Engine):
    """A torch module, on the device and in the precision that it is in.

    Args:
        model: encoder with adapters and head, in the order of the label names.
        bundle: precision, attention kernel, and the base model's name.
        tokenizer: for the padding and the length of a window.
    """

    def __init__(self, model: Any, bundle: Bundle, tokenizer: TextTokenizer) -> None:
        self.model = model
        self.max_length = tokenizer.max_length
        self._pad_id = tokenizer.pad_id
        self._precision, self._base_model = bundle.precision, bundle.base_model
        encoder.use_kernel(model, bundle.attention)

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``: where the module is now."""
        return str(self.model.device.type)

    @property
    def usual_tokens(self) -> int:
        """Tokens of a micro-batch that suit the device."""
        return TOKENS_PER_MICRO_BATCH[self.device]

    @property
    def _packed(self) -> bool:
        return encoder.runs_packed(self.model)

    def logits(self, windows: Sequence[Ids]) -> Logits:
        """Return the head's outputs (W, C) for the ids (T,) of each window, in one forward pass."""
        inputs = encoder.collate(windows, self._pad_id, limit=self.max_length, packed_rows=self._packed)
        device = self.model.device
        moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
        with torch.inference_mode():
            output = self.model(**moved).logits
        return np.asarray(output.double().cpu().numpy())

    @property
    def files(self) -> Sequence[Path]:
        """None: adapters are written as they are in memory."""
        return ()

    def weights(self) -> Iterable[str | bytes]:
        """Yield names and values of adapters and head."""
        state = encoder.trained_weights(self.model)
        for name in sorted(state):
            yield name
            yield state[name].detach().float().cpu().numpy().tobytes()

    def save(self, folder: Path) -> None:
        """Write adapters and head."""
        # PEFT noted the cache path of this machine; others need the name.
        encoder.save_adapter(self.model, folder, base_model=self._base_model)

    def cut(self, lengths: Lengths, budget: int) -> list[list[int]]:
        """Cut texts with these lengths (N,) into micro-batches of at most ``budget`` tokens, the longest first."""
        return packed_batches(lengths, budget) if self._packed else super().cut(lengths, budget)

    def tokens(self, lengths: Lengths) -> int:
        """Return the tokens that a micro-batch of texts with these lengths takes, padding counted."""
        return int(lengths.sum()) if self._packed else super().tokens(lengths)

    def together(self, pieces: Sequence[Callable[[], Logits]]) -> Iterator[Logits]:
        """Yield the results of independent forward passes; on a CPU each on a core of its own."""
        return side_by_side(pieces, on=self.device)

    def ready(self) -> AbstractContextManager[None]:
        """Compute fp32 products in the way that the precision asks for while inside."""
        return encoder.arithmetic(self._precision)


class MergedEngine(TorchEngine):
    """A merged Hugging Face folder, in fp32.

    Args:
        model: what the folder holds.
        bundle: precision and attention kernel.
        tokenizer: for the padding and the length of a window.
        folder: where the files lie.
    """

    def __init__(self, model: Any, bundle: Bundle, tokenizer: TextTokenizer, *, folder: Path) -> None:
        super().__init__(model, bundle, tokenizer)
        self._folder = folder

    @property
    def files(self) -> Sequence[Path]:
        """Configuration and weights."""
        return sorted([self._folder / "config.json", *self._folder.glob("*.safetensors*")])

    def weights(self) -> Iterable[str | bytes]:
        """Yield the fingerprints of the files."""
        return Engine.weights(self)

    def save(self, folder: Path) -> None:
        """Copy the files."""
        Engine.save(self, folder)


def load(folder: Path, bundle: Bundle, tokenizer: TextTokenizer, *, device: str | None) -> TorchEngine:
    """Put the adapters in ``folder`` onto their base model.

    Raises:
        ResourceError: files are missing or damaged, or the base model is another one than in training.
    """
    base = bundles.find_base(bundle, folder)
    bundles.check_base(base, bundle)
    bits = usable_bits(bundle)
    spec = EncoderSpec(base, bundle.label_names, bundle.precision, bundle.attention, bits=bits, task=bundle.task)
    model = encoder.load_for_prediction(spec, folder)
    model.to(device or best_device(quantized=bits is not None)).eval()
    return TorchEngine(model, bundle, tokenizer)


def load_merged(folder: Path, bundle: Bundle, tokenizer: TextTokenizer, *, device: str | None) -> MergedEngine:
    """Open a merged Hugging Face folder.

    Raises:
        UsageError: the folder lacks files, or names some outside of itself.
        ResourceError: the weights are damaged.
    """
    models.check_folder(folder)
    model = encoder.load_merged(EncoderSpec(folder, bundle.label_names, attention=bundle.attention, task=bundle.task))
    model.to(device or best_device()).eval()
    return MergedEngine(model, bundle, tokenizer, folder=folder)


def best_device(*, quantized: bool = False) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``, the first there is; quantized weights stay off Apple GPUs."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not quantized else "cpu"


def usable_bits(bundle: Bundle) -> int | None:
    """Return the bits to quantize the base weights to, as in training where that can be done here.

    Without bitsandbytes the full-precision weights have to serve, and a warning says what that changes.
    """
    if bundle.bits is None or not QLORA.obstacle:
        return bundle.bits
    known = f" In training that was measured: {bundle.drift}." if bundle.drift else ""
    warnings.warn(
        f"The classifier was trained over {bundle.bits}-bit base weights, but {QLORA.obstacle}; "
        f"the full-precision weights are used instead.{known} For the same answers as in training: {QLORA.command}",
        TextloraWarning,
        stacklevel=5,
    )
    return None
