"""A rehearsal of training on this machine: what a token costs in seconds and bytes, found by doing it.

A model with the planned widths, a few layers and random weights takes some passes in a process of its
own, through the code that will train. From them follow the terms that arithmetic cannot know: how fast
kernels are at these shapes, what they keep in memory, what libraries take before there is any model.
``docs/planning.md`` says how the terms add up.

python -m textlora.rehearsal < specification.json prints them as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from textlora import hardware, storage
from textlora.batching import padded_length, text_rows
from textlora.types import Rehearsal

VERSION = 7
# Share of the last layer that the packed engine saves by computing it for one token per text.
LAST_LAYER_SAVED = 0.95
# Blocks of the small model: two for all tokens, and the last one.
LAYERS = 3
# A pass costs as much with a small vocabulary.
VOCABULARY = 1_000
# Rounds of the passes that are timed: at least so many, and until so many seconds are over. The median of each
# counts: the fastest promises a speed that a training of minutes does not hold. Rounds alternate, so that a short
# disturbance does not hit all passes of one shape. Where others compute all the time, the fastest is nearest the truth.
LEAST_ROUNDS, MOST_ROUNDS, ROUND_SECONDS = 3, 10, 2.0
# Tokens per text of the passes; no padding in either engine, which would be computed but not counted.
SHORT, LONG = 64, 512
SMALL = 0.25
# Full fine-tuning in fp32 is slow, and no faster with more tokens.
FULL_TOKENS = 1024
# Tokens of the passes whose bytes are counted.
COUNTED = 512
# Texts of the passes that show what kernels keep: numbers of texts, of rows and groups of texts differ in turn.
SHAPES = (
    (384, 384), (384, 256), (384, 256, 256), (384, 384, 128), (256, 256, 256, 128), (128,) * 5, (192,) * 5, (256,) * 3,
    (192, 192, 192, 192, 128),
)  # fmt: skip
SECONDS = 240
# Above this share of the processor's time for others, the fastest pass counts, and the times are not remembered.
DISTURBED_SHARE = 0.15
PREDICTED_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Specification:
    """All that the terms depend on.

    Attributes:
        folder: of the base model; its configuration alone is read.
        classes: number of labels.
        adapted: whether adapters are trained, or else all weights in fp32.
        budget: tokens per micro-batch of training.
        packed: whether our own forward pass runs.
    """

    folder: str
    classes: int
    device: str
    precision: str
    attention: str
    prediction_attention: str
    packed: bool
    adapted: bool
    r: int
    target_modules: tuple[str, ...]
    budget: int
    max_length: int


def rehearse(specification: Specification, *, cache: Path | None = None) -> Rehearsal | None:
    """Return the terms, from ``cache`` where they were measured before; a few seconds otherwise.

    Returns:
        None where the rehearsal fails, for instance for want of memory: the plan has rougher figures then.
    """
    key = _key(specification)
    path = cache / f"rehearsal-{key}.json" if cache else None
    if path and (known := _read(path)):
        return known
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "textlora.rehearsal"],
            input=json.dumps(asdict(specification)), capture_output=True, text=True, check=True, timeout=SECONDS,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        answer = json.loads(done.stdout.splitlines()[-1])
        disturbed = answer.pop("others_share") > DISTURBED_SHARE
        found = _rehearsal({**answer, "disturbed": disturbed})
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError, TypeError):
        return None
    # Times from a busy machine are good enough for now, but not to be kept.
    if path and not disturbed:
        with contextlib.suppress(OSError):
            storage.make_folder(path.parent)
            storage.write_text(path, json.dumps(answer, indent=1))
    return found


def _key(specification: Specification) -> str:
    import torch

    config = Path(specification.folder) / "config.json"
    machine = (hardware.processor_name(), hardware.usable_cores(), torch.__version__, torch.get_num_threads())
    parts = (VERSION, machine, sorted(asdict(specification).items(), key=str), config.read_text(encoding="utf-8"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> Rehearsal | None:
    try:
        return _rehearsal(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rehearsal(answer: Mapping[str, Any]) -> Rehearsal:
    return TypeAdapter(Rehearsal).validate_python(answer)


# -- in the process of its own -----------------------------------------------------------------------


def main() -> None:
    """Read a specification from standard input and print the terms."""
    given = json.loads(sys.stdin.read())
    given["target_modules"] = tuple(given["target_modules"])
    others = OthersShare()
    start = time.perf_counter()
    _import_all()
    imported = time.perf_counter() - start
    answer = {**_rehearse(Specification(**given)), "import_seconds": imported, "others_share": others()}
    print(json.dumps(answer))  # noqa: T201 - the answer


class OthersShare:
    """Measures from its making on which share of the processor's time other processes have had."""

    def __init__(self) -> None:
        self._start = self._busy()
        self._began = time.perf_counter()

    def __call__(self) -> float:
        """Return the share, 0 to 1."""
        import psutil

        own, busy = time.process_time(), self._busy() - self._start
        seconds = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        return max(0.0, busy - own) / seconds

    @staticmethod
    def _busy() -> float:
        import psutil

        times = psutil.cpu_times()
        # Background work counts as nice, where the system tells it apart, and other machines' on the same host as steal.
        return float(sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "steal")))


def _import_all() -> None:
    """Import what a training process has imported when its model is built."""
    import accelerate
    import peft
    import pyarrow.parquet
    import tokenizers
    from transformers import Trainer

    _ = accelerate, peft, pyarrow.parquet, tokenizers, Trainer


def _rehearse(specification: Specification) -> dict[str, Any]:
    from textlora import allocation

    _start_device(specification.device)
    runtime = _resident()
    allocation.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        model = _small_model(specification, Path(folder))
    stage = Stage(model, specification)
    kernels = stage.kernel_bytes()
    kept = stage.bytes()
    train = stage.costs("train")
    return {
        "runtime_bytes": runtime,
        "train": train,
        "validate": stage.costs("validate"),
        "predict": stage.costs("predict"),
        **kernels,
        **kept,
    }


def _start_device(device: str) -> None:
    """Have a GPU's libraries loaded: they are resident memory of the host."""
    import torch

    one = torch.ones((1, 1), device=device)
    one @ one


def _small_model(specification: Specification, folder: Path) -> Any:
    """Build a model as training does, from a folder with few layers and words."""
    from transformers import AutoConfig, AutoModel

    from textlora import encoder
    from textlora.settings import LoraSettings

    config = AutoConfig.from_pretrained(specification.folder, trust_remote_code=False)
    config.num_hidden_layers = min(LAYERS, config.num_hidden_layers)
    config.vocab_size = min(VOCABULARY, config.vocab_size)
    with encoder.quiet_libraries():
        AutoModel.from_config(config, attn_implementation="eager").save_pretrained(folder)
    names = tuple(map(str, range(specification.classes)))
    spec = encoder.EncoderSpec(folder, names, specification.precision, specification.attention)
    if specification.adapted:
        lora = LoraSettings(r=specification.r, target_modules=specification.target_modules)
        model: Any = encoder.build_model(spec, lora, seed=0)
    else:
        model = encoder.load_classifier(spec)[0]
    return model.to(specification.device)


class Stage:
    """A small model and the passes it takes."""

    def __init__(self, model: Any, specification: Specification) -> None:
        import torch

        self.model = model
        self.specification = specification
        self.layers = int(model.config.num_hidden_layers)
        self.packed = specification.packed and specification.adapted
        self._words = int(model.config.vocab_size)
        self._generator = torch.Generator().manual_seed(0)

    def bytes(self) -> dict[str, float]:
        """Count bytes per token (and pair of tokens) and layer that a pass keeps, and those it needs for a moment."""
        length = min(LONG, self.specification.max_length)
        few = self._counted([SHORT] * (COUNTED // SHORT))
        long = self._counted([length] * max(1, COUNTED // length))
        one = self._counted([SHORT] * (COUNTED // SHORT // 2))
        full = self._full_layers
        # Held bytes are linear in tokens and pairs; the three passes have different shares of both.
        held = _solve([few, long, one], "held")
        peak = _solve([few, long, one], "peak")
        return {
            "kept_token_bytes": held[1] / full,
            "kept_pair_bytes": held[2] / full,
            "passing_token_bytes": max(0.0, peak[1] - held[1]),
            "passing_pair_bytes": max(0.0, peak[2] - held[2]),
        }

    @property
    def _full_layers(self) -> float:
        return self.layers - (LAST_LAYER_SAVED if self.packed else 0.0)

    def costs(self, mode: str) -> dict[str, float]:
        """Time passes of short, long and few texts; return the seconds by layer of a pass, of a token and of a pair."""
        budget = PREDICTED_TOKENS if mode == "predict" else self.specification.budget
        if not self.specification.adapted:
            budget = min(budget, FULL_TOKENS)
        length = min(LONG, self.specification.max_length)
        rows = [
            [SHORT] * max(1, budget // SHORT),
            [length] * max(1, budget // length),
            [SHORT] * max(1, int(SMALL * budget) // SHORT),
        ]
        fixed, token, pair = _solve(self._timed(mode, rows), "seconds")
        return {
            "pass_seconds": fixed / self._full_layers,
            "token_seconds": token / self._full_layers,
            "pair_seconds": pair / self._full_layers,
        }

    def kernel_bytes(self) -> dict[str, float]:
        """Return what the heap holds on to for every further number of rows, of texts, and group of texts.

        Libraries build kernels for the shapes they meet, and keep them. To be called before other passes.
        """
        names = ("row_kernel_bytes", "text_kernel_bytes", "group_kernel_bytes", "first_kernel_bytes")
        if self.specification.device != "cpu" or _heap_in_use() is None:
            return dict.fromkeys(names, 0.0)
        seen, before = Seen(packed=self.packed), _heap_in_use() or 0
        found = []
        for lengths in SHAPES:
            fitting = [min(length, self.specification.max_length) for length in lengths]
            self._pass("train", fitting)
            after = _heap_in_use() or 0
            found.append((*seen.new(fitting), after - before))
            before = after
        return dict(zip(names, _kernels(found), strict=True))

    def _timed(self, mode: str, shapes: Sequence[Sequence[int]]) -> list[dict[str, float]]:
        """Return the work of a pass over each of the shapes and the seconds it takes."""
        for lengths in shapes:
            self._run(mode, lengths)  # builds the kernels
        rounds: list[list[float]] = []
        start, others = time.perf_counter(), OthersShare()
        while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() - start < ROUND_SECONDS):
            rounds.append([self._run(mode, lengths) for lengths in shapes])
        usual = min if others() > DISTURBED_SHARE else statistics.median
        return [
            {**_work(lengths), "seconds": usual(times)}
            for lengths, times in zip(shapes, zip(*rounds, strict=True), strict=True)
        ]

    def _run(self, mode: str, lengths: Sequence[int]) -> float:
        """Return the seconds of a pass; under ``predict`` of one on each core at once, divided by their number."""
        import torch

        from textlora.threads import side_by_side

        pieces = torch.get_num_threads() if mode == "predict" and self.specification.device == "cpu" else 1
        before = time.perf_counter()
        for _ in side_by_side([lambda: self._pass(mode, lengths)] * pieces, on=self.specification.device):
            pass
        self._wait()
        return (time.perf_counter() - before) / pieces

    def _wait(self) -> None:
        import torch

        if self.specification.device == "cuda":
            torch.cuda.synchronize()
        elif self.specification.device == "mps":
            torch.mps.synchronize()

    def _pass(self, mode: str, lengths: Sequence[int]) -> None:
        import torch

        from textlora import encoder

        kernel = self.specification.prediction_attention if mode == "predict" else self.specification.attention
        encoder.use_kernel(self.model, kernel)
        self.model.train(mode == "train")
        with encoder.arithmetic(self.specification.precision):
            if mode == "train":
                self._loss(lengths).backward()
                self.model.zero_grad(set_to_none=False)
            else:
                with torch.inference_mode():
                    self._loss(lengths)

    def _loss(self, lengths: Sequence[int]) -> Any:
        import torch

        from textlora import encoder

        device = self.specification.device
        ids = [
            torch.randint(self._words // 2, self._words, (length,), generator=self._generator).numpy()
            for length in lengths
        ]
        batch = encoder.collate(ids, 0, limit=self.specification.max_length, packed_rows=self.packed)
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
        logits = self.model(**moved).logits.float()
        labels = torch.zeros(len(lengths), dtype=torch.long, device=device)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def _counted(self, lengths: Sequence[int]) -> dict[str, float]:
        from textlora import encoder

        self._pass("train", lengths)  # what is laid out at first use is no part of a pass
        live = LiveBytes()
        encoder.use_kernel(self.model, self.specification.attention)
        self.model.train()
        with live, encoder.arithmetic(self.specification.precision):
            loss = self._loss(lengths)
            held = live.now
            loss.backward()
        self.model.zero_grad(set_to_none=False)
        return {**_work(lengths), "held": float(held), "peak": float(live.peak)}


def _work(lengths: Sequence[int]) -> dict[str, float]:
    return {"tokens": float(sum(lengths)), "pairs": float(sum(length**2 for length in lengths))}


def _solve(passes: Sequence[Mapping[str, float]], name: str) -> tuple[float, float, float]:
    """Return what a pass, a token and a pair cost, from three passes; none of them less than nothing."""
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([[1.0, each["tokens"], each["pairs"]] for each in passes])
    # Relative errors count: the small pass tells most about the fixed part.
    targets = np.array([each[name] for each in passes])
    scale = rows.max(0)
    found, _ = nnls(rows / scale / targets[:, None], np.ones(len(passes)))
    fixed, token, pair = (float(value) for value in found / scale)
    return fixed, token, pair


class Seen:
    """Keeps the shapes that kernels were built for."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed
        self._shapes: set[object] = set()

    def new(self, lengths: Sequence[int]) -> tuple[int, int, int]:
        """Return how many numbers of rows, numbers of texts and groups of a pass have not been there before."""
        rows, texts, groups = self._of(lengths)
        shapes = ({("rows", rows)}, {("texts", texts)}, {("group", *group) for group in groups})
        numbers = tuple(len(found - self._shapes) for found in shapes)
        self._shapes.update(*shapes)
        return numbers[0], numbers[1], numbers[2]

    def _of(self, lengths: Sequence[int]) -> tuple[int, int, set[tuple[int, int]]]:
        if not self._packed:
            width = padded_length(max(lengths), max(lengths))
            return width * len(lengths), len(lengths), {(width, len(lengths))}
        from textlora.packed import Layout

        layout = Layout(list(lengths))
        return layout.rows, text_rows(len(lengths)), {(segment.padded, segment.texts) for segment in layout.segments}


def _kernels(found: Sequence[tuple[int, int, int, float]]) -> tuple[float, float, float, float]:
    """Return the bytes of a new number of rows, number of texts and group, and what the first pass kept beside them."""
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([[*each[:3], float(number == 0)] for number, each in enumerate(found)])
    solved, _ = nnls(rows, np.array([max(0.0, each[3]) for each in found]))
    row, text, group, first = (float(value) for value in solved)
    return row, text, group, first


class LiveBytes:
    """Counts the bytes of the tensors that come to life inside, and of those alive at once at most."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()
        self._mode: Any = None

    def __enter__(self) -> LiveBytes:
        """Begin to count."""
        from torch.utils._python_dispatch import TorchDispatchMode

        owner = self

        class Mode(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
                return owner._note(function(*args, **(kwargs or {})))

        self._mode = Mode()
        self._mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting new tensors."""
        self._mode.__exit__(*error)

    def _note(self, result: Any) -> Any:
        import torch
        from torch.utils._pytree import tree_leaves

        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, memory: Any) -> None:
        key = memory._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = memory.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(memory, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _Heap(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def _heap_in_use() -> int | None:
    """Return the bytes that are allocated from glibc's heap, or None without glibc 2.33."""
    try:
        mallinfo: Callable[[], Any] = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    mallinfo.restype = _Heap  # type: ignore[attr-defined]
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
