"""Running out of memory: which errors say so, and how the work goes on in smaller micro-batches.

Budget.run(work) ── work ends ──▶ its result
     ▲                └─ out of memory ─▶ undo, free, halve the tokens per micro-batch ─┐
     └──────────────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import contextlib
import errno
import gc
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from textlora import allocation
from textlora.errors import ResourceError, TextloraWarning
from textlora.types import MemoryEvent

Result = TypeVar("Result")
# Halvings by one budget: to a 32nd. What does not fit then is not the micro-batch.
MOST_HALVINGS = 5
# What a smaller micro-batch cannot make room for: the weights and the longest text.
LESS = (
    "Close other programs that use the memory, or plan with less: shorter texts (--set text.max_length=128), "
    "--set compute.precision=bf16, or a smaller --base-model."
)
# What the libraries below us write when an allocation fails, and what a person calls it.
MESSAGES = (
    (r"(CUDA|HIP|XPU) out of memory", "GPU memory"),
    (r"(CUDA|HIP) error: out of memory", "GPU memory"),
    (r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|MIOPEN)_STATUS_(ALLOC_FAILED|INSUFFICIENT_WORKSPACE)", "GPU memory"),
    (r"MPS backend out of memory", "GPU memory"),
    (r"DefaultCPUAllocator: (can't allocate memory|not enough memory)", "memory"),
    # oneDNN: its own words for a failed allocation of a tensor, and of a kernel's code.
    (r"could not create a memory object", "memory"),
    (r"^could not create a primitive$", "memory"),
    (r"^(std::)?bad_alloc$|^std::bad_alloc\b", "memory"),
    (r"^(oneDNN: )?out of memory$", "memory"),
)


def shortage(error: BaseException) -> str | None:
    """Return ``"memory"`` or ``"GPU memory"`` if ``error`` says that it ran out, else ``None``.

    Recognised are PyTorch's, oneDNN's and the CUDA libraries' messages, ``MemoryError`` (NumPy's and
    Arrow's too) and the system's ``ENOMEM``.
    """
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return "memory" if error.errno == errno.ENOMEM else None
    torch = sys.modules.get("torch")  # who has not imported it cannot have its errors
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "GPU memory"
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).strip()
    return next((kind for pattern, kind in MESSAGES if re.search(pattern, text)), None)


def release() -> None:
    """Give back what failed work has left: dead tensors, cached GPU blocks, the free parts of the heap."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
    allocation.return_freed_memory()


def tidy() -> None:
    """Give back what lies free after a part of the work, before the next one needs memory of its own.

    Unlike after a shortage, what is freed from now on is kept as before.
    """
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    allocation.trim()


@contextlib.contextmanager
def explained(doing: str, *, hint: str = LESS) -> Iterator[None]:
    """Turn running out of memory inside into a ``ResourceError`` that says what was being done."""
    try:
        yield
    except Exception as error:
        kind = shortage(error)
        if kind is None:
            raise
        raise ResourceError(f"The {kind} ran out while {doing}: {_first_line(error)}", hint=hint) from error


def ran_out(error: ResourceError) -> bool:
    """Return whether an error of ours says that memory ran out, rather than something else."""
    return re.match(r"The (GPU )?memory ran out\b", error.message) is not None


class Pass:
    """The forward pass under way: how many texts it holds and how many tokens, padding counted."""

    def __init__(self) -> None:
        self.texts = 0
        self.tokens = 0
        self.alone = True

    def holds(self, texts: int, tokens: int, *, alone: bool = True) -> None:
        """Take note of a pass that is about to begin, and whether others run beside it."""
        self.texts, self.tokens, self.alone = texts, tokens, alone


class Budget:
    """Tokens per micro-batch, halved when memory runs out and never raised again.

    Args:
        tokens: the budget to begin with; 0 is no limit.
        processes: how many train together. Recovery is for one: a process that repeats its work alone
            would leave the others waiting for its gradients.
        on_event: told of every halving.
    """

    def __init__(
        self, tokens: int, *, processes: int = 1, on_event: Callable[[MemoryEvent], None] | None = None
    ) -> None:
        self.tokens = tokens
        self.events: list[MemoryEvent] = []
        self._processes = processes
        self._on_event = on_event

    def run(
        self,
        work: Callable[[Pass], Result],
        *,
        stage: str,
        step: int = 0,
        undo: Callable[[], None] | None = None,
        hint: str = LESS,
    ) -> Result:
        """Return what ``work`` returns; when memory runs out, do it again in smaller micro-batches.

        Args:
            work: cuts by ``tokens`` and tells the given ``Pass`` what each forward pass holds.
            stage: what the work is for, as events and errors name it.
            step: optimiser step, for the event.
            undo: brings back the state from before the work.
            hint: of the error when nothing helps.

        Raises:
            ResourceError: one text alone does not fit, the budget was halved too often, or several
                processes train together.
        """
        while True:
            under_way = Pass()
            try:
                return work(under_way)
            except (RuntimeError, MemoryError, OSError) as error:
                kind = shortage(error)
                if kind is None:
                    raise
                message = _first_line(error)
            # Outside the clause: only now is the error gone, and with its traceback the frames that held tensors.
            if undo:
                undo()
            release()
            where = f"{stage}, step {step:,}" if step else stage
            self._check(under_way, f"The {kind} ran out ({where}): {message}", hint)
            self._halve(under_way, MemoryEvent(step, stage, kind, message, self.tokens, 0))

    def _check(self, failed: Pass, what: str, hint: str) -> None:
        tried = [describe(event) for event in self.events]
        if self._processes > 1:
            raise ResourceError(
                what,
                problems=[f"{self._processes} processes train together; only a single one can go on by itself"],
                hint=f"Plan with smaller micro-batches: --set compute.tokens_per_micro_batch={max(1, failed.tokens // 2)}",
            )
        if failed.texts <= 1 and failed.alone:
            alone = f"not even one text of {failed.tokens:,} tokens fits" if failed.texts else "before any text"
            raise ResourceError(what, problems=[*tried, alone], hint=hint)
        if len(self.events) >= MOST_HALVINGS:
            raise ResourceError(
                what, problems=[*tried, f"the micro-batch was halved {len(tried)} times; more is not tried"], hint=hint
            )

    def _halve(self, failed: Pass, event: MemoryEvent) -> None:
        before = self.tokens or failed.tokens
        after = before // 2
        # A budget far above what was there to compute would fail again at half of it.
        while after >= failed.tokens:
            after //= 2
        self.tokens = after
        done = MemoryEvent(event.step, event.stage, event.kind, event.message, event.before, after)
        self.events.append(done)
        warnings.warn(describe(done), TextloraWarning, stacklevel=3)
        if self._on_event:
            self._on_event(done)


def describe(event: MemoryEvent) -> str:
    """Return a line for a person: where memory ran out, and what the micro-batch became."""
    where = f"{event.stage}, step {event.step:,}" if event.step else event.stage
    before = f"{event.before:,}" if event.before else "all"
    return f"{where}: the {event.kind} ran out; micro-batches of {event.after:,} tokens instead of {before}"


def persisted(events: Sequence[MemoryEvent]) -> int | None:
    """Return the tokens per micro-batch that the last event left, or ``None`` without any."""
    return events[-1].after if events else None


def _first_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    # PyTorch's goes on for a paragraph about its settings.
    return (first[:197] + "…" if len(first) > 198 else first) or type(error).__name__  # noqa: PLR2004
