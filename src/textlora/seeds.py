"""Several seeds on the same splits: how far chance in training moves the scores, and the best of them.

plan ──▶ seeds/42, seeds/43, … ──▶ the best on validation into the run folder, ``seeds.json``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from textlora import evaluation, planning, series, storage, training
from textlora.backup import Backup
from textlora.classifier import Classifier
from textlora.errors import TrainingError
from textlora.repeated import SeedRun, Seeds, check_seeds, seconds_of_seeds, spreads, stage_of_seeds, students_interval
from textlora.series import Progress
from textlora.training import Passing
from textlora.types import Dataset, Evaluation, Plan, Run

SPLIT = "test"
SCORE = "seed.json"
SEED_LIMIT = 1 << 32


def train_seeds(
    plan: Plan,
    dataset: Dataset,
    number: int,
    *,
    backup: Backup | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Seeds:
    """Train a plan with several seeds, score all of them on the test split, and keep the best.

    The first seed is the plan's, the others follow it. Each training is in ``seeds/SEED`` of the run
    folder; those that an earlier call has finished are taken over. The classifier with the best
    validation score goes into the run folder itself (of equals the one with the smaller validation
    loss, then the first): the test has no say in it.

    Raises:
        UsageError: fewer than two seeds.
        Others: what ``training.train`` and ``evaluation.evaluate`` raise.
    """
    check_seeds(number)
    _adopt(plan, dataset)
    plans = [with_seed(plan, (plan.settings.seed + place) % SEED_LIMIT, of=number) for place in range(number)]
    known = [_known(each, dataset) for each in plans]
    bar = series.Bar(progress, stage_of_seeds(number), trainings=known.count(None), steps=plan.estimate.steps)
    runs = []
    for each, earlier in zip(plans, known, strict=True):
        if earlier:
            runs.append(earlier)
            continue
        with bar.training(f"seed {each.settings.seed}"):
            inner = series.nested_backup(backup, _folder(dataset, each))
            runs.append(_train(each, dataset, inner, bar, command))
    best = _best(runs, plan.settings.training.best_metric)
    if series.put_in_place(_seed_folder(dataset, best.seed), dataset.folder):
        _check_kept(dataset)
    seeds = _described(plan, dataset, runs, best)
    storage.write_noun(dataset.folder / storage.SEEDS, seeds)
    return seeds


def load_seeds(folder: Path) -> Seeds:
    """Read ``seeds.json`` of a run folder.

    Raises:
        UsageError: there is none, or it is damaged or of another version.
    """
    return storage.read_noun(folder / storage.SEEDS, Seeds, made_by="fit --seeds 5")


def seeds_of(run: Run, found: Evaluation) -> Seeds | None:
    """Return the seeds that a run is the best of; None where it was trained on its own."""
    if not (run.folder / storage.SEEDS).exists():
        return None
    seeds = load_seeds(run.folder)
    same = (seeds.dataset_fingerprint, seeds.kept) == (run.dataset_fingerprint, run.seed)
    return seeds if same and seeds.kept_run.classifier == found.run_fingerprint else None


def with_seed(plan: Plan, seed: int, *, of: int) -> Plan:
    """Return a plan with another seed, which says where it is from."""
    if seed == plan.settings.seed:
        return plan
    reason = f"one of {of} seeds (--seeds); the splits keep the seed {plan.settings.seed}"
    return replace(
        plan, settings=plan.settings.model_copy(update={"seed": seed}), reasons={**plan.reasons, "seed": reason}
    )


def _seed_folder(dataset: Dataset, seed: int) -> Path:
    return dataset.folder / storage.SEED_RUNS / str(seed)


def _folder(dataset: Dataset, plan: Plan) -> Path:
    return _seed_folder(dataset, plan.settings.seed)


def _adopt(plan: Plan, dataset: Dataset) -> None:
    """Take over what an ordinary training of the same plan has left: it is the first seed."""
    folder = _folder(dataset, plan)
    alone = series.finished_run(plan, dataset, dataset.folder)
    if alone and not series.finished_run(plan, dataset, folder):
        series.put_in_place(dataset.folder, folder)


def _known(plan: Plan, dataset: Dataset) -> SeedRun | None:
    """Return the seed's training with its scores, if an earlier call has finished it."""
    folder = _folder(dataset, plan)
    if series.finished_run(plan, dataset, folder) is None or not (folder / SCORE).exists():
        return None
    return storage.read_noun(folder / SCORE, SeedRun, made_by="fit --seeds 5")


def _train(plan: Plan, dataset: Dataset, backup: Backup | None, bar: series.Bar, command: str) -> SeedRun:
    folder = _folder(dataset, plan)
    # A score without its training would be taken for this one's.
    if series.finished_run(plan, dataset, folder) is None:
        (folder / SCORE).unlink(missing_ok=True)
    run = series.train_or_resume(
        plan,
        dataset,
        folder,
        backup=backup,
        progress=bar,
        command=command,
        passing=Passing(series.AGAIN, fresh_reload=False),
    )
    found = _scored(run, dataset)
    storage.write_noun(folder / SCORE, found)
    series.drop_checkpoints(folder)
    return found


def _scored(run: Run, dataset: Dataset) -> SeedRun:
    classifier = Classifier.from_pretrained(run.folder)
    judged = evaluation.judge(classifier, dataset.splits()[SPLIT], dataset)
    best = next(entry for entry in run.history if entry["step"] == run.best_step and "eval_loss" in entry)
    return SeedRun(
        seed=run.seed,
        best_step=run.best_step,
        validation=run.best_metric,
        validation_loss=best["eval_loss"],
        seconds=run.stage_seconds,
        metrics=judged.points(),
        classifier=classifier.fingerprint,
    )


def _best(runs: Sequence[SeedRun], metric: str) -> SeedRun:
    """Return the best on validation; of equals the one with the smaller loss, then the first."""
    sign = -1 if metric == "loss" else 1
    return max(runs, key=lambda run: (sign * run.validation, -run.validation_loss))


def _check_kept(dataset: Dataset) -> None:
    """Refuse a kept classifier that answers otherwise in a fresh process; the seeds were compared in this one."""
    try:
        training.check_reload(Classifier.from_pretrained(dataset.folder), dataset.folder / storage.ADAPTER, dataset)
    except TrainingError:
        (dataset.folder / storage.RUN).unlink()
        raise


def _described(plan: Plan, dataset: Dataset, runs: Sequence[SeedRun], best: SeedRun) -> Seeds:
    metrics = spreads([run.metrics for run in runs])
    return Seeds(
        split=SPLIT,
        rows=len(dataset.splits()[SPLIT]),
        task=dataset.task,
        best_metric=plan.settings.training.best_metric,
        runs=tuple(runs),
        kept=best.seed,
        metrics=metrics,
        intervals={name: students_interval(name, found, len(runs)) for name, found in metrics.items()},
        predicted_seconds=seconds_of_seeds(plan, len(runs)),
        seconds=sum(run.seconds for run in runs),
        dataset_fingerprint=dataset.fingerprint,
        plan_fingerprint=planning.plan_fingerprint(plan),
    )
