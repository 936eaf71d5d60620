"""Callbacks of Trainer: what moved, what is told, how it stops, how long it took."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from textlora import checkpoints, encoder
from textlora.errors import TrainingError


class MovementCheck(TrainerCallback):
    """After the first steps: what should train has moved, and what is frozen has not.

    B starts at zero, so A's gradient is zero in the very first step: A is checked after the
    second step that had a learning rate above zero, everything else after the first.
    """

    def __init__(self) -> None:
        self._start: dict[str, torch.Tensor] = {}
        self._frozen: dict[str, int] = {}
        self._rate = 0.0
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Remember all weights: the trained ones whole, the frozen ones by a checksum."""
        # By name: an adapter that somebody froze is what this is for.
        self._start = {name: p.detach().clone() for name, p in model.named_parameters() if encoder.is_ours(name)}
        self._frozen = {name: _checksum(p) for name, p in model.named_parameters() if not encoder.is_ours(name)}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Remember the learning rate of this step."""
        self._rate = optimizer.param_groups[0]["lr"]

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Check once after the first and once after the second effective step."""
        if not self._start or self._rate == 0 or getattr(optimizer, "step_was_skipped", False):
            return
        self._steps += 1
        self._check(model, first=self._steps == 1)
        if self._steps > 1:
            self._start = {}

    def _check(self, model: Any, *, first: bool) -> None:
        now = dict(model.named_parameters())
        idle = [
            name
            for name, old in self._start.items()
            if not (first and "lora_A" in name) and torch.equal(old, now[name])
        ]
        moved = [name for name, old in self._frozen.items() if _checksum(now[name]) != old]
        problems = [f"did not train: {name}" for name in idle] + [f"changed though frozen: {name}" for name in moved]
        if problems:
            raise TrainingError("The wrong weights moved in the first steps of training:", problems=problems[:20])


def _checksum(parameter: torch.Tensor) -> int:
    raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(memoryview(raw.numpy()))


class Recorder(TrainerCallback):
    """Hands every log entry and every step on to plain functions."""

    def __init__(self, on_entry: Callable[[dict[str, float]], None], on_step: Callable[[int, int, str], None]) -> None:
        self._on_entry = on_entry
        self._on_step = on_step
        self._loss = ""
        self._score = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Pass the entry on with its step and epoch; Trainer's closing summary is left out."""
        entry = dict(logs or {})
        if "train_runtime" in entry:
            return
        if "loss" in entry:
            self._loss = f"loss {entry['loss']:.3f}"
        if "eval_f1_micro" in entry:  # several labels a row
            self._score = f"validation F1 {entry['eval_f1_macro']:.4f}"
        elif "eval_accuracy" in entry:
            self._score = f"validation accuracy {entry['eval_accuracy']:.4f}"
        elif "eval_perplexity" in entry:  # masked words
            self._score = f"validation perplexity {entry['eval_perplexity']:.2f}"
        # The gradient's norm is infinite in a step that fp16's scaler skips; JSON has no infinity.
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._on_entry({"step": state.global_step, **numbers})
        self._report(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step; have the last steps' loss logged too."""
        control.should_log = control.should_log or state.global_step >= state.max_steps
        self._report(state)

    def _report(self, state: Any) -> None:
        note = ", ".join(part for part in (self._loss, self._score) if part)
        self._on_step(state.global_step, state.max_steps, note)


class StopRequest(TrainerCallback):
    """Saves and stops at the end of the step once ``signal`` is set (by a signal handler)."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask Trainer for a log entry, a checkpoint and the end."""
        if self.signal is not None:
            # Without the entry, the losses since the last one would be lost.
            control.should_log = True
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take back the validation that Trainer wants when an epoch is left early.

        It would cost time now, and give the run a candidate for the best checkpoint that an
        undisturbed run does not have.
        """
        if self.signal is not None and not float(state.epoch).is_integer() and state.global_step < state.max_steps:
            control.should_evaluate = False
            control.should_save = False


@contextlib.contextmanager
def stopping_at_signals(stop: StopRequest) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM finish the step and save; the second one acts at once."""
    before: dict[int, Any] = {}

    def request(number: int, _: FrameType | None) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request)
    except ValueError:  # not in the main thread: whoever runs us handles signals
        pass
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class MovedFolder(TrainerCallback):
    """Finds the best checkpoint again when the run folder was moved before a resume."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Name the best checkpoint by where the folder is now."""
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"{checkpoints.PREFIX}{state.best_global_step}")


class Clock:
    """Wall and processor time, over resumed parts as well."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self._start = time.monotonic() - seconds
        self._cpu_start = time.process_time() - cpu_seconds

    @property
    def seconds(self) -> float:
        """Wall time in seconds."""
        return time.monotonic() - self._start

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all threads in seconds."""
        return time.process_time() - self._cpu_start
