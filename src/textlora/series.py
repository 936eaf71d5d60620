"""Trainings in a row, each in a folder of its own: taken over where finished, resumed where stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from textlora import planning, storage, training
from textlora.backup import Backup
from textlora.training import Passing
from textlora.types import Dataset, Plan, Run

# progress(stage, done, total or 0 when unknown, note)
Progress = Callable[[str, int, int, str], None]
AGAIN = "the same call once more"


def finished_run(plan: Plan, dataset: Dataset, folder: Path) -> Run | None:
    """Return the folder's training if it is of this plan and these data, and has ended."""
    if not (folder / storage.RUN).exists():
        return None
    run = training.load_run(folder)
    same = run.plan_fingerprint == planning.plan_fingerprint(plan) and run.dataset_fingerprint == dataset.fingerprint
    return run if same else None


def train_or_resume(  # noqa: PLR0913 - what, where, and how to tell of it
    plan: Plan,
    dataset: Dataset,
    folder: Path,
    *,
    backup: Backup | None = None,
    progress: Progress | None = None,
    command: str = "",
    passing: Passing | None = None,
) -> Run:
    """Return the folder's finished training, or go on with one that was stopped, or begin it.

    Raises: what ``training.train`` raises.
    """
    run = finished_run(plan, dataset, folder)
    if run:
        return run
    resume = training.has_checkpoint(plan, dataset, folder, backup)
    return training.train(
        plan, dataset, folder=folder, resume=resume, backup=backup, progress=progress, command=command,
        passing=passing,
    )  # fmt: skip


class Bar:
    """Progress of several trainings as one stage, so that its time left is that of all of them.

    Args:
        progress: called with stage, steps done, steps in all and a note; None for nobody.
        stage: name of the stage.
        trainings: how many are still to do.
        steps: planned steps of each.
    """

    def __init__(self, progress: Progress | None, stage: str, *, trainings: int, steps: int) -> None:
        self._progress = progress
        self._stage = stage
        self._steps = steps
        self._total = trainings * steps
        self._before = 0
        self._name = ""

    @contextmanager
    def training(self, name: str) -> Iterator[None]:
        """Count what is reported inside as the next training's."""
        self._name = name
        yield
        self._before += self._steps

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Take note of a training's own progress; stages of a moment are left out."""
        if self._progress is None:
            return
        if stage == "train":
            steps = self._before + min(done, self._steps)
            self._progress(self._stage, steps, self._total, ", ".join(part for part in (self._name, note) if part))
        elif stage == "frozen layers":
            self._progress(stage, done, total, note)


def nested_backup(backup: Backup | None, folder: Path) -> Backup | None:
    """Return the backup of a training within a run folder that has one."""
    return Backup(backup.folder / folder.relative_to(backup.run), folder) if backup else None


def drop_checkpoints(folder: Path) -> None:
    """Delete what only a resume would need."""
    shutil.rmtree(folder / storage.CHECKPOINTS, ignore_errors=True)


def put_in_place(source: Path, target: Path) -> bool:
    """Copy a finished training into another folder: classifier, history, and ``run.json`` last.

    Returns:
        Whether there was anything to do.

    Raises:
        ResourceError: the folder cannot be written.
    """
    run = (source / storage.RUN).read_bytes()
    if (target / storage.RUN).exists() and (target / storage.RUN).read_bytes() == run:
        return False
    storage.make_folder(target)
    # Without it nobody takes a half-exchanged folder for a finished training.
    (target / storage.RUN).unlink(missing_ok=True)
    with storage.atomic_folder(target / storage.ADAPTER) as temporary:
        shutil.copytree(source / storage.ADAPTER, temporary, dirs_exist_ok=True)
    for name in (storage.HISTORY, storage.RUN):
        with storage.atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return True
