"""Texts to token ids, and what is kept of a text longer than the encoder.

The same object cuts texts in training, evaluation, prediction and (through the bundle) wherever
the model is used, so that a model never meets texts cut in another way than it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import storage
from textlora.errors import UsageError
from textlora.windows import LengthPolicy, Piece

TokenIds = NDArray[np.int32]

# Tokenising costs time and memory by the character, so a giant text is cut before: half from
# the start, half from the end, far more than any policy keeps.
MAX_CHARACTERS = 200_000
# Under windows a policy may keep more than that; words hold about five characters a token.
CHARACTERS_PER_TOKEN = 20
BLOCK = 1_000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of some texts, special tokens included.

    Attributes:
        ids: one array (T,) a text: its windows end to end, see ``textlora.windows``. Under every
            policy but ``windows`` there is one.
        lengths: tokens of all windows, (N,).
        full_lengths: tokens before any cut, (N,).
        truncated: whether something of a text was left out, (N,).
    """

    ids: Sequence[TokenIds]
    lengths: NDArray[np.int64]
    full_lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class TextTokenizer:
    """A fast tokenizer with a length policy.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        policy: what to keep of long texts.
        base_model: the base model's name, for messages.
    """

    def __init__(self, tokenizer: Any, policy: LengthPolicy, *, base_model: str) -> None:
        self.tokenizer = tokenizer
        self.policy = policy
        self.base_model = base_model
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._prefix, self._suffix = _special_ids(self._backend)

    @classmethod
    def load(cls, folder: Path, policy: LengthPolicy, *, base_model: str) -> TextTokenizer:
        """Load the tokenizer files of a model folder or bundle.

        Raises:
            UsageError: there is no fast tokenizer in the folder.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UsageError(f"Cannot load the tokenizer of {base_model}: {str(error).splitlines()[0]}") from error
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{base_model} has no fast tokenizer (tokenizer.json).",
                hint="Save one with AutoTokenizer.from_pretrained(…).save_pretrained(…).",
            )
        return cls(tokenizer, policy, base_model=base_model)

    @classmethod
    def load_saved(cls, folder: Path, policy: LengthPolicy, *, base_model: str) -> TextTokenizer:
        """Load what ``save`` wrote; its ``tokenizer.json`` is whole, so that transformers is not needed.

        Raises:
            UsageError: the files are missing or damaged.
        """
        try:
            return cls(SavedTokenizer(folder), policy, base_model=base_model)
        except Exception as error:
            raise UsageError(
                f"Cannot load the tokenizer of {base_model} in {folder}: {str(error).splitlines()[0]}"
            ) from error

    @property
    def max_length(self) -> int:
        """Tokens per forward pass, special ones included."""
        return self.policy.max_length

    @property
    def pad_id(self) -> int:
        """Id that fills short texts up."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def largest_id(self) -> int:
        """The largest id that a text can have."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides which ids a text gets."""
        return storage.fingerprint([version("tokenizers"), self._backend.to_str(), repr(self.policy)])

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> Tokenized:
        """Turn texts into ids, cut by the policy.

        Args:
            texts: any strings; lone surrogates are replaced.
            progress: called with the texts done and the number of texts.
        """
        kept: list[TokenIds] = []
        full: list[int] = []
        for ids in self._raw_ids(texts, progress):
            full.append(len(ids) + self.specials)
            kept.append(np.array(self._windows(ids), dtype=np.int32))
        lengths, full_lengths = np.array([len(ids) for ids in kept], np.int64), np.array(full, np.int64)
        giant = np.array([len(text) > self._most_characters for text in texts], np.bool_)
        truncated = (full_lengths > self.policy.whole(self.specials)) | giant
        return Tokenized(tuple(kept), lengths, full_lengths, truncated)

    def _windows(self, ids: list[int]) -> list[int]:
        """Return the windows of a text end to end, each with the special tokens."""
        pieces: Sequence[Sequence[Piece]] = self.policy.windows(len(ids), self.specials)
        joined: list[int] = []
        for window in pieces:
            joined += self._prefix
            for start, stop in window:
                joined += ids[start:stop]
            joined += self._suffix
        return joined

    @property
    def specials(self) -> int:
        """Special tokens of a text."""
        return len(self._prefix) + len(self._suffix)

    @property
    def special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        return self._prefix, self._suffix

    @property
    def mask_id(self) -> int | None:
        """Id that stands for a token to be guessed, or None where the tokenizer has none."""
        found = self.tokenizer.mask_token_id
        return None if found is None else int(found)

    def whole(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield all ids of each text, however long it is, without special tokens."""
        parts = [list(_parts(text)) for text in texts]
        encoded = self._raw_ids([part for own in parts for part in own], None)
        for own in parts:
            yield [found for _ in own for found in next(encoded)]

    @property
    def _most_characters(self) -> int:
        return max(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * self.policy.whole(self.specials))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special ones included, before any cut."""
        return [len(ids) + self.specials for ids in self._raw_ids(texts, None)]

    def _raw_ids(self, texts: Sequence[str], progress: Callable[[int, int], None] | None) -> Iterator[list[int]]:
        for start in range(0, len(texts), BLOCK):
            block = [_tame(text, self._most_characters) for text in texts[start : start + BLOCK]]
            for encoding in self._backend.encode_batch_fast(block, add_special_tokens=False):
                yield encoding.ids
            if progress:
                progress(min(start + BLOCK, len(texts)), len(texts))

    def save(self, folder: Path) -> None:
        """Write the tokenizer files into ``folder``."""
        self.tokenizer.save_pretrained(folder)


class SavedTokenizer:
    """The files of a saved fast tokenizer, with as much of its interface as is used here."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES}
        self.backend_tokenizer = Tokenizer.from_buffer(self._files["tokenizer.json"])
        pad = json.loads(self._files["tokenizer_config.json"]).get("pad_token")
        content = pad.get("content") if isinstance(pad, dict) else pad
        self.pad_token_id = self.backend_tokenizer.token_to_id(content) if content else None

    def save_pretrained(self, folder: Path) -> None:
        """Write the files as they were read."""
        for name, content in self._files.items():
            (folder / name).write_bytes(content)


def _parts(text: str) -> Iterator[str]:
    """Yield a text in parts that can be tokenized at once, cut where words end."""
    start = 0
    while len(text) - start > MAX_CHARACTERS:
        end = start + MAX_CHARACTERS
        space = text.rfind(" ", start, end)
        end = space if space > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _tame(text: str, most: int) -> str:
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} {text[-half:]}"
    # The tokenizer is Rust and takes no lone surrogates.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _special_ids(backend: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a text."""
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
