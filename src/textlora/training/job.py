"""One training: its inputs, its folder, and what is derived from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from textlora import (
    checkpoints,
    models,
    planning,
    storage,
)
from textlora.backup import Backup
from textlora.checkpoints import Checkpoint
from textlora.encoder import EncoderSpec
from textlora.errors import UsageError
from textlora.tokenization import TextTokenizer
from textlora.types import Dataset, Plan
from textlora.windows import LengthPolicy

# progress(stage, done, total, note)
Progress = Callable[[str, int, int, str], None]
CACHED_SPLITS = ("train", "validation")


def silent(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Passing:
    """What is otherwise about a training that is one of several.

    Attributes:
        again: what goes on with it when it was stopped, for messages.
        cached_splits: whose texts share a cache of the frozen layers, where there is one; trainings on other
            divisions of the same rows find it again if it holds them all.
        fresh_reload: compare the saved classifier with the trained one in a fresh process, and not in this one.
        watch: told the log entry of each validation; what it raises ends the training.
    """

    again: str
    cached_splits: Sequence[str] = CACHED_SPLITS
    fresh_reload: bool = True
    watch: Callable[[dict[str, float]], None] = silent


class Job:
    """One training: its inputs, its folder, and what is derived from them."""

    def __init__(
        self, plan: Plan, dataset: Dataset, folder: Path, progress: Progress, backup: Backup | None = None
    ) -> None:
        self.plan = plan
        self.dataset = dataset
        self.folder = folder
        self.progress = progress
        self.backup = backup
        self.passing = Passing(again=f"textlora train {folder} --resume")
        self.settings = plan.settings
        self.base = models.base_info(self.settings.model.base_model, _hub_revision(plan))
        self.plan_fingerprint = planning.plan_fingerprint(plan)

    @property
    def checkpoint_root(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / storage.CHECKPOINTS

    @property
    def history(self) -> Path:
        """The file of what training logs."""
        return self.folder / storage.HISTORY

    def newest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint of this plan and data."""
        return checkpoints.newest(self.checkpoint_root, plan=self.plan_fingerprint, dataset=self.dataset.fingerprint)

    def take_from_backup(self, *, resume: bool) -> None:
        """Check that the backup is of this training, and fetch its checkpoints where ``resume`` wants them."""
        if self.backup is None:
            return
        plan, dataset = self.plan_fingerprint, self.dataset.fingerprint
        self.backup.check(plan=plan, dataset=dataset, resume=resume)
        if resume:
            self.backup.restore_checkpoints(plan=plan, dataset=dataset)
        self.backup.save_files()

    def checkpoint_to_resume(self) -> Checkpoint:
        """Return the newest whole checkpoint.

        Raises:
            UsageError: there is none of this plan and data.
        """
        found = self.newest()
        if found is None:
            raise UsageError(
                f"{self.checkpoint_root} holds no whole checkpoint of this plan and data.",
                hint=f"Start from the beginning: textlora train {self.folder}",
            )
        return found

    def clear(self) -> None:
        """Remove what an earlier training left."""
        checkpoints.clear(self.checkpoint_root)
        (self.folder / storage.RUN).unlink(missing_ok=True)
        storage.write_text(self.history, "")

    def spec(self) -> EncoderSpec:
        """Return how the encoder is loaded."""
        compute = self.settings.compute
        return EncoderSpec(
            folder=self.base.folder,
            label_names=self.dataset.label_names,
            precision=compute.precision or "fp32",
            attention=compute.attention or "eager",
            trunk_dropout=self.settings.training.trunk_dropout,
            bits=self.settings.quantization.bits,
            task=self.dataset.task,
        )

    def tokenizer(self) -> TextTokenizer:
        """Return the base model's tokenizer with the plan's length policy."""
        policy = LengthPolicy.of_settings(self.settings.text, max_length=self.base.max_length)
        return TextTokenizer.load(self.base.folder, policy, base_model=self.base.name)


def _hub_revision(plan: Plan) -> str | None:
    revision = plan.settings.model.revision
    return None if revision in ("local", "embedded") else revision
