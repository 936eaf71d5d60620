"""Cross-validation: every row of training and validation split scored by a classifier that has not seen it.

division ──▶ folds/1, folds/2, … ──▶ ``out_of_fold.parquet`` ──▶ pooled and per fold: ``folds.json``
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import evaluation, planning, series, storage
from textlora.backup import Backup
from textlora.classifier import Classifier
from textlora.errors import UsageError
from textlora.preparation.crossing import USED, Division, fold_dataset, make_folds
from textlora.preparation.views import pick
from textlora.repeated import FoldRun, Folds, check_folds, seconds_of_folds, spreads, stage_of_folds
from textlora.resampling import RESAMPLES
from textlora.series import Progress
from textlora.training import Passing
from textlora.types import Dataset, Plan, Run

SCORE = "fold.json"
MADE_BY = "fit --folds 5"
# What is held out is cached too, so that all folds and the plan's own training share one cache.
CACHED = ("train", "validation", "test")
RANKING = ("roc_auc", "average_precision")
"""Scores that compare rows by their probabilities: those of two classifiers need not be on one scale
(Forman and Scholz 2010, "Apples-to-apples in cross-validation studies")."""


def cross_validate(
    plan: Plan,
    dataset: Dataset,
    number: int,
    *,
    backup: Backup | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Folds:
    """Train a plan once for each fold without it, and score it on the fold.

    The rows are those of the training and the validation split; the test split takes no part. Beside the
    fold that is held out, each training has a validation part of its own to choose the checkpoint by.
    Labels are as frequent in every fold; groups and near-duplicates stay in one. Folds that an earlier
    call has finished are taken over. The classifiers are not kept.

    Raises:
        UsageError: fewer than two folds, or data that are split by time.
        DataError: the rows cannot be divided so.
        Others: what ``training.train`` and ``evaluation.evaluate`` raise.
    """
    check_folds(number)
    earlier = _earlier(plan, dataset, number)
    if earlier:
        return earlier
    division = make_folds(dataset, number)
    jobs = [_Fold(plan, dataset, division, place, number) for place in range(1, number + 1)]
    known = [job.known() for job in jobs]
    bar = series.Bar(progress, stage_of_folds(number), trainings=known.count(None), steps=plan.estimate.steps)
    runs = []
    for job, found in zip(jobs, known, strict=True):
        if found:
            runs.append(found)
            continue
        with bar.training(f"fold {job.number}"):
            runs.append(job.train(series.nested_backup(backup, job.folder), bar, command))
    pooled = _pool(dataset, division, jobs)
    folds = _described(plan, dataset, division, runs, pooled)
    storage.write_noun(dataset.folder / storage.FOLDS, folds)
    shutil.rmtree(dataset.folder / storage.FOLD_RUNS, ignore_errors=True)
    return folds


def load_folds(folder: Path) -> Folds:
    """Read ``folds.json`` of a run folder.

    Raises:
        UsageError: there is none, or it is damaged or of another version.
    """
    return storage.read_noun(folder / storage.FOLDS, Folds, made_by=MADE_BY)


def folds_of(run: Run) -> Folds | None:
    """Return the cross-validation of a run's data, if there is one in its folder."""
    if not (run.folder / storage.FOLDS).exists():
        return None
    folds = load_folds(run.folder)
    return folds if folds.dataset_fingerprint == run.dataset_fingerprint else None


def _earlier(plan: Plan, dataset: Dataset, number: int) -> Folds | None:
    """Return what an earlier call has finished for the same plan and data."""
    if not all((dataset.folder / name).exists() for name in (storage.FOLDS, storage.OUT_OF_FOLD)):
        return None
    try:
        folds = load_folds(dataset.folder)
    except UsageError:  # damaged, or of another version: it is made again
        return None
    asked = (planning.plan_fingerprint(plan), dataset.fingerprint, number)
    return folds if (folds.plan_fingerprint, folds.dataset_fingerprint, len(folds.runs)) == asked else None


class _Fold:
    """One fold: its data, its folder, its training."""

    def __init__(self, plan: Plan, dataset: Dataset, division: Division, number: int, of: int) -> None:
        self.number = number
        self.folder = dataset.folder / storage.FOLD_RUNS / str(number)
        self.dataset = fold_dataset(dataset, division.folds[number - 1], number=number, of=of, folder=self.folder)
        self.plan = replace(plan, dataset_fingerprint=self.dataset.fingerprint)

    @property
    def predictions(self) -> Path:
        return self.folder / storage.PREDICTIONS

    def known(self) -> FoldRun | None:
        """Return the fold with its scores, if an earlier call has finished it."""
        score = self.folder / SCORE
        if not score.exists() or series.finished_run(self.plan, self.dataset, self.folder) is None:
            return None
        return storage.read_noun(score, FoldRun, made_by=MADE_BY)

    def train(self, backup: Backup | None, bar: series.Bar, command: str) -> FoldRun:
        (self.folder / SCORE).unlink(missing_ok=True)
        run = series.train_or_resume(
            self.plan, self.dataset, self.folder, backup=backup, progress=bar, command=command, passing=Passing(series.AGAIN, CACHED, fresh_reload=False),
        )  # fmt: skip
        judged = evaluation.judge(Classifier.from_pretrained(self.folder), self.dataset.test, self.dataset)
        evaluation.write_predictions(self.predictions, judged)
        found = self._described(run, judged.points())
        storage.write_noun(self.folder / SCORE, found)
        series.drop_checkpoints(self.folder)
        shutil.rmtree(self.folder / storage.ADAPTER, ignore_errors=True)
        return found

    def _described(self, run: Run, points: dict[str, float]) -> FoldRun:
        return FoldRun(
            number=self.number,
            train_rows=len(self.dataset.train),
            validation_rows=len(self.dataset.validation),
            rows=len(self.dataset.test),
            best_step=run.best_step,
            validation=run.best_metric,
            seconds=run.stage_seconds,
            metrics=points,
        )


def _pool(dataset: Dataset, division: Division, jobs: Sequence[_Fold]) -> evaluation.Judged:
    """Write the predictions of all folds as one file, in the order of the rows, and return them beside the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        table.append_column("fold", pa.array([job.number] * len(table), pa.int32()))
        for job in jobs
        for table in (pq.read_table(job.predictions),)
    ]
    places = np.concatenate([fold.held_out for fold in division.folds])
    order = np.argsort(places, kind="stable")
    table = pa.concat_tables(tables).take(pa.array(order))
    with storage.atomic_path(dataset.folder / storage.OUT_OF_FOLD) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    rows = pick([dataset.splits()[name] for name in USED], np.sort(places))
    names = dataset.label_names
    probabilities = np.stack([table[f"probability_{name}"].to_numpy() for name in names], axis=1)
    return evaluation.beside(rows, dataset, probabilities, _given(table, dataset))


def _given(table: Any, dataset: Dataset) -> NDArray[np.bool_]:
    """Return which labels the rows were given (N, C)."""
    given = table["prediction"].to_pylist()
    if dataset.task == "single_label":
        given = [[name] for name in given]
    return np.array([[name in labels for name in dataset.label_names] for labels in given], np.bool_)


def _described(
    plan: Plan, dataset: Dataset, division: Division, runs: Sequence[FoldRun], pooled: evaluation.Judged
) -> Folds:
    scores = pooled.scores(RESAMPLES, dataset.info.seed).metrics
    sizes = {name: len(split) for name, split in dataset.splits().items()}
    return Folds(
        rows=sum(run.rows for run in runs),
        task=dataset.task,
        best_metric=plan.settings.training.best_metric,
        runs=tuple(runs),
        pooled={name: found for name, found in scores.items() if name not in RANKING},
        metrics=spreads([run.metrics for run in runs]),
        notes=division.notes,
        predicted_seconds=seconds_of_folds(plan, len(runs), sizes),
        seconds=sum(run.seconds for run in runs),
        dataset_fingerprint=dataset.fingerprint,
        plan_fingerprint=planning.plan_fingerprint(plan),
    )
