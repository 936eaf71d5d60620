"""The frozen layers below the adapters run once; what they give is kept on disk for every epoch.

Without adapters, dropout or gradients in the lower layers, a text's hidden states there never
change. They are computed once, laid into one memory-mapped file, and every further epoch, seed or
trial on the same texts starts from them. (Published as embedding recycling,
Findings of EACL 2023.)
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from textlora import __version__, encoder, hardware, packed, storage, windows
from textlora.batching import packed_batches
from textlora.errors import ResourceError
from textlora.memory import Budget, Pass
from textlora.tokenization import TokenIds

FOLDER = storage.PREFIX_CACHE
STATES = "states.bin"
INDEX = "index.json"
# Raise it when the same texts would give other states.
VERSION = 1
# Texts sorted by length together, and tokens of one forward pass.
BLOCK = 2_048
TOKENS_PER_PASS = {"cpu": 2_048, "mps": 8_192, "cuda": 65_536}
# The disk stays usable for everything else.
FREE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """All that the states depend on besides the texts.

    Attributes:
        base_fingerprint: SHA-256 of the base model's weights.
        layers: frozen layers that were run.
        precision: their arithmetic.
        attention: their attention kernel.
        device: kind of device.
        bits: of the quantized weights, or None.
    """

    base_fingerprint: str
    layers: int
    precision: str
    attention: str
    device: str
    bits: int | None = None


class PrefixCache:
    """Hidden states of texts, memory-mapped.

    Args:
        folder: what ``build`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.layers: int = index["layers"]
        self._width: int = index["width"]
        self._dtype: torch.dtype = encoder.DTYPES[index["precision"]]
        self._first_rows: dict[str, int] = index["first_rows"]
        with (folder / STATES).open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def states(self, ids: TokenIds) -> torch.Tensor:
        """Return the hidden states (T, H) of a text by its token ids."""
        row_bytes = self._width * self._dtype.itemsize
        start = self._first_rows[text_hash(ids)] * row_bytes
        raw = bytearray(self._map[start : start + len(ids) * row_bytes])
        self._forget_pages()
        return torch.frombuffer(raw, dtype=self._dtype).view(len(ids), self._width)

    def _forget_pages(self) -> None:
        # What was read stays in the system's cache, but no longer counts as this process's memory.
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def text_hash(ids: TokenIds) -> str:
    """Return a short hash of a text's token ids."""
    return hashlib.blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=12).hexdigest()


def needed_bytes(tokens: int, width: int, precision: str) -> int:
    """Return the bytes that the states of ``tokens`` tokens take on disk."""
    return tokens * width * encoder.DTYPES[precision].itemsize


def open_or_build(
    model: Any,
    texts: Sequence[TokenIds],
    key: PrefixKey,
    *,
    window: int,
    progress: Callable[[int, int, str], None],
) -> PrefixCache:
    """Return the cache of these texts; compute it if it is not there yet.

    Args:
        model: what ``encoder.build_model`` returned, on its device, with a packed forward.
        texts: token ids of each text, its windows end to end.
        key: what else the states depend on.
        window: tokens of each window of a text that has several.
        progress: called with tokens done, tokens in all, and a note.

    Raises:
        ResourceError: the disk has no room for it.
    """
    distinct = _Distinct(texts)
    folder = storage.cache_folder() / FOLDER / _name(key, distinct, window)
    if not (folder / INDEX).exists():
        size = needed_bytes(sum(len(ids) for ids in distinct.values()), _width(model), key.precision)
        _check_disk(folder, size)
        storage.make_folder(folder.parent)
        with storage.atomic_folder(folder) as temporary:
            _build(
                model,
                distinct,
                key,
                temporary,
                window=window,
                progress=lambda done, total: progress(done, total, _note(size)),
            )
    return PrefixCache(folder)


class _Distinct(Mapping[str, TokenIds]):
    """Every text once, by its hash; the ids stay where they are."""

    def __init__(self, texts: Sequence[TokenIds]) -> None:
        self._texts = texts
        self._places = {text_hash(ids): place for place, ids in enumerate(texts)}

    def __getitem__(self, name: str) -> TokenIds:
        return self._texts[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _name(key: PrefixKey, distinct: Mapping[str, TokenIds], window: int) -> str:
    # Where every text is one window, the window's length changes nothing.
    several = [f"windows of {window}"] if any(len(ids) > window for ids in distinct.values()) else []
    parts = [str(VERSION), torch.__version__, repr(key), *several, *sorted(distinct)]
    return storage.fingerprint(parts)[:24]


def _width(model: Any) -> int:
    width: int = model.get_base_model().config.hidden_size
    return width


def _note(size: int) -> str:
    return f"{size / 1e9:.2f} GB in {storage.cache_folder() / FOLDER}"


def _check_disk(folder: Path, size: int) -> None:
    free = hardware.free_disk_gb(folder)
    if size / 1e9 > FREE_SHARE * free:
        raise ResourceError(
            f"The states of the frozen layers take {size / 1e9:.1f} GB, and {folder.parent} has {free:.1f} GB free.",
            hint="Free some space, set TEXTLORA_CACHE to another disk, or train without the cache: "
            "--set compute.prefix_cache=false",
        )


def _build(
    model: Any,
    distinct: Mapping[str, TokenIds],
    key: PrefixKey,
    folder: Path,
    *,
    window: int,
    progress: Callable[[int, int], None],
) -> None:
    first_rows: dict[str, int] = {}
    total, done = sum(len(ids) for ids in distinct.values()), 0
    budget = Budget(TOKENS_PER_PASS[model.device.type])
    with (folder / STATES).open("wb") as stream:
        for names in _passes(distinct, model.device.type):
            texts = [distinct[name] for name in names]
            _append(stream, _states_within(budget, model, texts, key.layers, window))
            for name, ids in zip(names, texts, strict=True):
                first_rows[name] = done
                done += len(ids)
            progress(done, total)
    index = {"layers": key.layers, "width": _width(model), "precision": key.precision, "first_rows": first_rows}
    about = {"textlora": __version__, "texts": len(distinct), "tokens": total}
    (folder / INDEX).write_text(json.dumps({**about, **index}), encoding="utf-8")


def _passes(distinct: Mapping[str, TokenIds], device: str) -> Iterator[list[str]]:
    """Yield the texts of each forward pass, of like length within blocks."""
    names = list(distinct)
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        for rows in packed_batches([len(distinct[name]) for name in block], TOKENS_PER_PASS[device]):
            yield [block[row] for row in rows]


def _states_within(budget: Budget, model: Any, texts: Sequence[TokenIds], layers: int, window: int) -> torch.Tensor:
    """Return the states (N, H) of one pass's texts, computed in parts where memory does not allow the whole."""

    def work(under_way: Pass) -> torch.Tensor:
        parts = []
        # The texts come longest first, so that their order stays in any cut.
        for rows in packed_batches([len(ids) for ids in texts], budget.tokens):
            under_way.holds(len(rows), sum(len(texts[row]) for row in rows))
            parts.append(_states(model, windows.split_all([texts[row] for row in rows], window)[0], layers))
        return torch.cat(parts)

    return budget.run(work, stage="frozen layers")


@torch.inference_mode()
def _states(model: Any, pieces: Sequence[TokenIds], layers: int) -> torch.Tensor:
    forward: packed.PackedForward = model.get_base_model().packed
    inputs = packed.pack(pieces, 0)
    layout = packed.Layout(inputs["lengths"])
    states = forward.hidden(inputs["input_ids"].to(model.device), layout, blocks=layers)
    return states[: layout.tokens].cpu()


def _append(stream: BinaryIO, states: torch.Tensor) -> None:
    stream.write(memoryview(states.contiguous().view(torch.uint8).numpy()))


def caches() -> list[tuple[Path, int]]:
    """Return the folder and the bytes of every cache on this machine."""
    root = storage.cache_folder() / FOLDER
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [(path, sum(file.stat().st_size for file in path.iterdir())) for path in found]


def clean() -> tuple[int, int]:
    """Delete all caches of frozen layers; return how many there were and their bytes.

    Raises:
        ResourceError: one cannot be deleted.
    """
    found = caches()
    for path, _ in found:
        with storage.disk_errors(path):
            shutil.rmtree(path)
    return len(found), sum(size for _, size in found)
