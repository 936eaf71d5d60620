"""A base model's mean hidden states of all rows, on disk; what an earlier call has computed is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from textlora import encoder, models, planning, states, storage, token_store
from textlora.auditing.members import States, check_disk
from textlora.memory import Budget
from textlora.settings import Settings
from textlora.tokenization import TextTokenizer
from textlora.types import Dataset, Machine
from textlora.windows import LengthPolicy

BLOCK = 512
"""Rows that are computed, and written, together."""
LAYERS = 4
Progress = Callable[[str, int, int, str], None]


def chosen_layers(depth: int) -> tuple[int, ...]:
    """Return layers from the middle of an encoder to its top: which of them serves best differs by encoder."""
    middle = depth // 2
    steps = min(LAYERS, depth - middle + 1)
    return tuple(sorted({middle + round(step * (depth - middle) / max(1, steps - 1)) for step in range(steps)}))


def represent(
    dataset: Dataset, settings: Settings, machine: Machine, *, folder: Path, progress: Progress
) -> tuple[States, int]:
    """Return the states of all rows (N, S * H), layer after layer, and the width H of the last layer.

    Args:
        dataset: its training split holds the rows.
        settings: resolved: base model, length policy, arithmetic.
        machine: what the settings were resolved for.
        folder: where the states wait; states of other texts or settings are not taken for these.
        progress: called with stage, rows done, rows in all and a note.

    Raises:
        ResourceError: the base model is not there, the disk is too small, or memory ran out.
    """
    base = models.base_info(settings.model.base_model, settings.model.revision)
    policy = LengthPolicy.of_settings(settings.text, max_length=base.max_length)
    tokenizer = TextTokenizer.load(base.folder, policy, base_model=base.name)
    layers = chosen_layers(base.layers)
    attention = planning.prediction_attention(settings, machine)
    precision, device = settings.compute.precision or "fp32", settings.compute.device or "cpu"
    # Labels do not count: an audit of a corrected file may go on with the same states.
    content = storage.fingerprint(dataset.train.texts)
    parts = [content, base.revision, tokenizer.fingerprint, repr(layers), precision, attention, device]
    check_disk(folder, len(dataset.train), len(layers) * base.hidden)
    found = States(folder / storage.fingerprint(parts)[:16], len(dataset.train), len(layers) * base.hidden)
    if found.done == len(dataset.train):
        return found, base.hidden
    texts = token_store.open_or_build(
        folder / storage.TOKENS, dataset.train.texts, tokenizer, data=content,
        progress=lambda done, total: progress("tokenize", done, total, ""),
    )  # fmt: skip
    spec = encoder.EncoderSpec(base.folder, dataset.label_names, precision, attention, bits=settings.quantization.bits)
    model = encoder.load_frozen(spec).to(device)
    budget = Budget(settings.compute.tokens_per_micro_batch or base.max_length)
    with encoder.arithmetic(precision):
        while (done := found.done) < len(dataset.train):
            block = texts.ids[done : done + BLOCK]
            found.append(
                states.mean_states(
                    model, block, layers, window=tokenizer.max_length, pad_id=tokenizer.pad_id, budget=budget
                ).reshape(len(block), -1)
            )
            progress(
                "hidden states", done + len(block), len(dataset.train), f"{base.name}, layers {layers[0]}-{layers[-1]}"
            )
    return found, base.hidden
