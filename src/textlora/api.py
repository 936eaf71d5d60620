"""The verbs as plain Python functions over run folders; what the command line is a thin skin of.

``prepare``, ``plan``, ``train``, ``evaluate``, ``report`` and ``export`` each read their
predecessors' files from the run folder and write their own; ``compare`` reads those of several runs. ``fit`` runs them all and goes on
where an interrupted call stopped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textlora import planning, preparation, settings, storage
from textlora.backup import Backup
from textlora.errors import UsageError
from textlora.preparation import crossing
from textlora.repeated import Folds, Seeds, check_repeats
from textlora.types import Dataset, Estimate, Evaluation, Plan, Run

if TYPE_CHECKING:
    from textlora.adaptation import Adaptation
    from textlora.comparing import Comparison
    from textlora.exports import Exported
    from textlora.tokenization import TextTokenizer

# progress(stage, done, total or 0 when unknown, note)
Progress = Callable[[str, int, int, str], None]
REQUEST = "request.json"
SUFFIXES = (".gz", ".xz", ".zst", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")
DERIVED = (
    storage.DATASET, storage.QUARANTINE, storage.PLAN, storage.ADAPTER, storage.CHECKPOINTS, storage.HISTORY,
    storage.TOKENS, storage.RUN, storage.EVALUATION, storage.PREDICTIONS, storage.REPORT_HTML, storage.REPORT_MARKDOWN,
    storage.MODEL_CARD, storage.EXPORT, storage.EXPORTS, storage.SEEDS, storage.SEED_RUNS, storage.FOLDS,
    storage.OUT_OF_FOLD, storage.FOLD_RUNS, storage.TRIALS, storage.TRIALS_HTML, storage.TRIALS_MARKDOWN,
    storage.BEST_PLAN, storage.TRIAL_RUNS, REQUEST, "train.parquet", "validation.parquet", "test.parquet",
)  # fmt: skip


@dataclass(frozen=True)
class DataOptions:
    """What ``prepare`` is told about the source; None means "find out"."""

    text: str | None = None
    label: str | None = None
    labels: Sequence[str] | None = None
    test: Any = None
    validation: Any = None
    encoding: str | None = None


@dataclass(frozen=True)
class PlanOptions:
    """What ``plan`` is told; the assignments win over the plan file, that over the recipe."""

    base_model: str | None = None
    recipe: str = "default"
    assignments: Mapping[str, Any] = field(default_factory=dict)
    plan_file: Path | None = None

    def flat(self) -> dict[str, Any]:
        """Return recipe, plan file and assignments merged, by dotted name."""
        values = settings.recipe(self.recipe)[0]
        from_file = planning.read_plan_settings(self.plan_file) if self.plan_file else {}
        base = {"model.base_model": self.base_model} if self.base_model else {}
        return settings.merge(values, from_file, base, self.assignments)

    def settings(self) -> settings.Settings:
        """Return the settings as far as they are decided before the data are known."""
        return settings.build(self.flat(), where="the settings")


def default_folder(source: Any) -> Path:
    """Return the run folder of a data file: ``IMDB Dataset.csv`` gives ``runs/imdb``."""
    if not isinstance(source, str | Path):
        return Path("runs/data")
    name = Path(source).name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return Path("runs") / (slug.removesuffix("-dataset") or "data")


def prepare(  # noqa: PLR0913 - one source, the rest are switches with defaults
    source: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    test: Any = None,
    validation: Any = None,
    encoding: str | None = None,
    out: str | Path | None = None,
    sample: float | None = None,
    group: str | None = None,
    time: str | None = None,
    near_duplicates: float | None = None,
    seed: int | None = None,
    base_model: str | None = None,
    label_separator: str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read, check, clean and split labelled texts into a run folder.

    Args:
        source: path of a CSV, TSV, JSON lines or Parquet file, or a pandas data frame.
        text: text column; found when not given.
        label: label column; found when not given.
        labels: label names in the order of the class indices.
        test: file or frame that is the test split.
        validation: file or frame that is the validation split.
        encoding: of the files, when neither UTF-8 nor UTF-16.
        out: the run folder, ``runs/<name of the file>`` by default.
        sample: share of the rows to draw.
        group: column whose equal values stay in one split.
        time: column to split by: the oldest rows train, the newest are the test.
        near_duplicates: similarity from which texts stay in one split, 0.8 by default; 0 is off.
        seed: of the sample and the splits.
        base_model: whose tokenizer measures the texts; without it no lengths are found.
        label_separator: what stands between the labels of a row that has several; lists need none.
        progress: called with stage, rows done, rows in all and a note.

    Raises:
        DataError: the file cannot become a data set; all problems together.
        UsageError: a column, label list or encoding that makes no sense.
        ResourceError: the folder cannot be written.
    """
    flat = {
        "data.sample": sample, "data.group_column": group, "data.time_column": time,
        "data.near_duplicates": near_duplicates, "data.label_separator": label_separator, "seed": seed,
    }  # fmt: skip
    chosen = settings.build({name: value for name, value in flat.items() if value is not None})
    options = DataOptions(text, label, labels, test, validation, encoding)
    return _prepare(source, Path(out or default_folder(source)), options, chosen, base_model, progress)


def _prepare(  # noqa: PLR0917 - the two option groups, folder, tokenizer and progress
    source: Any,
    out: Path,
    options: DataOptions,
    chosen: settings.Settings,
    base_model: str | None,
    progress: Progress | None,
) -> Dataset:
    return preparation.prepare(
        source,
        out=out,
        **_shallow(options),
        settings=chosen,
        token_counter=_LateTokenizer(base_model, chosen.model.revision) if base_model else None,
        progress=(lambda stage, done, total: progress(stage, done, total or 0, "")) if progress else None,
    )


def _shallow(options: DataOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


class _LateTokenizer:
    """Counts tokens; loads the tokenizer only when the rows are read and found good."""

    def __init__(self, base_model: str, revision: str | None) -> None:
        self.base_model = base_model
        self._revision = revision

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return tokenizer_of(self.base_model, self._revision)

    @property
    def max_length(self) -> int:
        return self._tokenizer.max_length

    def count(self, texts: Sequence[str], /) -> list[int]:
        return self._tokenizer.count(texts)


def tokenizer_of(base_model: str, revision: str | None = None) -> TextTokenizer:
    """Return a base model's tokenizer with the encoder's own limit.

    Raises:
        ResourceError: the base model is neither cached nor reachable.
    """
    from textlora import models
    from textlora.tokenization import TextTokenizer
    from textlora.windows import LengthPolicy

    base = models.base_info(base_model, revision)
    return TextTokenizer.load(base.folder, LengthPolicy("head", base.max_length), base_model=base_model)


def plan(
    dataset: Dataset,
    *,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    plan_file: str | Path | None = None,
) -> Plan:
    """Decide every setting for a data set and this machine; write ``plan.toml``.

    Args:
        dataset: from ``prepare``.
        base_model: hub id, local folder or ``embedded``.
        recipe: ``default``, ``fast``, ``accurate`` or ``stock``.
        assignments: settings by dotted name, for instance ``{"lora.r": 8}``.
        plan_file: an edited ``plan.toml``.

    Raises:
        UsageError: unknown or contradictory settings, all together.
        ResourceError: the base model or device is not there.
    """
    made = planning.plan(
        dataset,
        base_model=base_model,
        recipe=recipe,
        assignments=assignments,
        plan_file=Path(plan_file) if plan_file else None,
    )
    planning.save_plan(dataset.folder / storage.PLAN, made)
    return made


def train(
    plan: Plan,
    dataset: Dataset,
    *,
    resume: bool = False,
    backup: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Run:
    """Fine-tune; see ``textlora.training.train``."""
    from textlora import training

    copy = _backup(backup, dataset.folder)
    return training.train(plan, dataset, resume=resume, backup=copy, progress=progress, command=command)


def _backup(folder: str | Path | None, run: Path) -> Backup | None:
    return Backup(Path(folder), run) if folder else None


def evaluate(run: Run, dataset: Dataset, *, split: str = "test", progress: Progress | None = None) -> Evaluation:
    """Score the run on a split it has not seen, beside cheap baselines; write ``evaluation.json``."""
    from textlora import evaluation

    tell = (lambda done, total: progress("evaluate", done, total, "")) if progress else None
    return evaluation.evaluate(run.folder, dataset, split=split, progress=tell)


def compare(*runs: Run | str | Path) -> Comparison:
    """Say whether runs are really better than the first of them; see ``textlora.comparing.compare``."""
    from textlora import comparing

    return comparing.compare(*(run.folder if isinstance(run, Run) else run for run in runs))


def report(plan: Plan, run: Run, evaluation: Evaluation, *, dataset: Dataset | None = None) -> Path:
    """Write ``report.html``, ``report.md`` and ``model_card.md``; return the page's path."""
    from textlora import reporting
    from textlora.bundles import exports_of
    from textlora.folds import folds_of
    from textlora.seeds import seeds_of, with_seed

    found = dataset or preparation.load_dataset(run.folder)
    several = seeds_of(run, evaluation)
    told = with_seed(plan, run.seed, of=len(several.runs)) if several else plan
    return reporting.report(
        run.folder,
        dataset=found,
        plan=told,
        run=run,
        evaluation=evaluation,
        seeds=several,
        folds=folds_of(run),
        exports=exports_of(run.folder),
    )


def export(
    run: Run | str | Path,
    *,
    to: str = "hf",
    out: str | Path | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the classifier in another tool's format; see ``textlora.exporting.export``."""
    from textlora import exporting

    folder = run.folder if isinstance(run, Run) else Path(run)
    return exporting.export(folder, to=to, out=Path(out) if out else None, tolerance=tolerance, progress=progress)


def adapt(  # noqa: PLR0913 - where from, where to, and switches with defaults
    data: Any,
    *,
    out: str | Path,
    base_model: str | None = None,
    text: str | None = None,
    encoding: str | None = None,
    assignments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Adaptation:
    """Train an encoder on unlabelled texts before it is fine-tuned; see ``textlora.adaptation.adapt``."""
    from textlora import adaptation

    return adaptation.adapt(
        data, out=out, base_model=base_model, text=text, encoding=encoding, assignments=assignments,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


Stage = Dataset | Plan | Seeds | Run | Evaluation | Folds | Path


def fit(  # noqa: PLR0913 - the options of all stages
    source: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    backup: str | Path | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, Plan, Run, Evaluation, Path]:
    """Prepare, plan, train, evaluate and report in one call; goes on where an earlier call stopped.

    Args:
        source: path of a data file, or a pandas data frame.
        text: text column; found when not given.
        label: label column; found when not given.
        base_model: hub id, local folder or ``embedded``.
        recipe: ``default``, ``fast``, ``accurate`` or ``stock``.
        assignments: settings by dotted name.
        out: the run folder.
        overwrite: replace another run in the folder.
        backup: folder on another disk that gets a copy of the run with every checkpoint.
        seeds: train with so many seeds and keep the best on validation; ``textlora.seeds.load_seeds``
            reads what they came to.
        folds: cross-validate with so many folds, too; ``textlora.folds.load_folds`` reads the scores.
        progress: called with stage, steps done, steps in all and a note.

    Returns:
        Data set, plan, run, evaluation and the path of the report.
    """
    options = PlanOptions(base_model, recipe, assignments or {})
    stages = fit_stages(
        source, Path(out or default_folder(source)), DataOptions(text=text, label=label), options,
        overwrite=overwrite, backup=backup, seeds=seeds, folds=folds, progress=progress,
    )  # fmt: skip
    dataset, made, run, evaluation, page = (stage for stage in stages if not isinstance(stage, Seeds | Folds))
    return dataset, made, run, evaluation, page  # type: ignore[return-value]


def fit_stages(  # noqa: PLR0913 - where, what, how, and three switches
    source: Any,
    out: Path,
    data: DataOptions,
    options: PlanOptions,
    *,
    overwrite: bool = False,
    backup: str | Path | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Iterator[Stage]:
    """Run the stages of ``fit`` one by one and yield what each made.

    What an earlier call with the same arguments has finished is taken over; a training that was
    stopped is resumed, from the backup if the run folder is gone.

    Raises:
        UsageError: the folder holds another run, and ``overwrite`` is off; or numbers of seeds or folds
            that make no sense.
        DataError: the file cannot become a data set, or not so many folds.
    """
    check_repeats(seeds, folds)
    copy = _backup(backup, out)
    if overwrite:
        clear(out)
        if copy:
            clear(copy.folder)
    if copy:
        copy.restore_files(REQUEST)
    dataset = prepared(source, out, data, options, progress)
    if folds:
        crossing.make_folds(dataset, folds)  # what cannot be divided is refused before anything is trained
    yield dataset
    made = _planned(dataset, _sharing_time(options, (seeds or 1) + (folds or 0)))
    if copy and copy.restore_files(REQUEST):
        made = planning.load_plan(out / storage.PLAN)
    yield made
    run = yield from _trained(made, dataset, copy, seeds, progress, command)
    evaluation = evaluate(run, dataset, progress=progress)
    yield evaluation
    if folds:
        yield _crossed(made, dataset, copy, folds, progress, command)
    yield report(made, run, evaluation, dataset=dataset)
    if copy:
        copy.save_files()


def _trained(  # noqa: PLR0917 - what, where, how often, and how to tell of it
    made: Plan, dataset: Dataset, copy: Backup | None, seeds: int | None, progress: Progress | None, command: str
) -> Generator[Stage, None, Run]:
    """Train, once or with several seeds; yield what that made, and return the run that is in the folder."""
    from textlora import training
    from textlora.seeds import train_seeds
    from textlora.series import train_or_resume

    if seeds is None:
        run = train_or_resume(made, dataset, dataset.folder, backup=copy, progress=progress, command=command)
    else:
        if copy:
            copy.save_files()
        yield train_seeds(made, dataset, seeds, backup=copy, progress=progress, command=command)
        run = training.load_run(dataset.folder)
    yield run
    return run


def _crossed(  # noqa: PLR0917 - what, where, how often, and how to tell of it
    made: Plan, dataset: Dataset, copy: Backup | None, folds: int, progress: Progress | None, command: str
) -> Folds:
    from textlora.folds import cross_validate

    if copy:
        copy.save_files()
    return cross_validate(made, dataset, folds, backup=copy, progress=progress, command=command)


def _sharing_time(options: PlanOptions, trainings: int) -> PlanOptions:
    """Return the options with the time limit divided: it is meant for all trainings together."""
    minutes = options.flat().get("limits.minutes")
    if trainings == 1 or not isinstance(minutes, int | float):
        return options
    return replace(options, assignments={**options.assignments, "limits.minutes": minutes / trainings})


def prepare_folder(
    source: Any,
    out: Path,
    data: DataOptions,
    options: PlanOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Prepare into ``out``, or take over what the same call has made before."""
    if overwrite:
        clear(out)
    return prepared(source, out, data, options, progress)


def plan_folder(
    target: Path,
    out: Path | None,
    options: PlanOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Plan for a run folder, or prepare a data file first; estimate the alternatives too.

    Raises:
        UsageError: the folder has a plan made with other options, and ``overwrite`` is off.
    """
    if target.is_dir():
        dataset = preparation.load_dataset(target)
    else:
        folder = out or default_folder(target)
        dataset = prepare_folder(target, folder, DataOptions(), options, overwrite=overwrite, progress=progress)
    made = _planned(dataset, options, overwrite=overwrite)
    return replace(made, alternatives=planning.compare(made, dataset))


def train_folder(
    folder: Path,
    *,
    resume: bool = False,
    backup: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    expect: Callable[[Estimate], None] | None = None,
) -> Run:
    """Train as the folder's ``plan.toml`` says; a folder that is gone comes back from its backup to be resumed.

    ``expect`` is told what the plan says that it takes.
    """
    copy = _backup(backup, folder)
    if copy and resume:
        copy.restore_files(REQUEST)
    dataset = preparation.load_dataset(folder)
    made = planning.load_plan(folder / storage.PLAN)
    if expect:
        expect(made.estimate)
    return train(made, dataset, resume=resume, backup=backup, progress=progress, command=command)


def evaluate_folder(folder: Path, *, split: str = "test", progress: Progress | None = None) -> Evaluation:
    """Evaluate the folder's classifier."""
    from textlora import training

    dataset = preparation.load_dataset(folder)
    return evaluate(training.load_run(folder), dataset, split=split, progress=progress)


def report_folder(folder: Path) -> Path:
    """Write the report of a folder's finished stages."""
    from textlora import evaluation, training

    dataset = preparation.load_dataset(folder)
    made = planning.load_plan(folder / storage.PLAN)
    return report(made, training.load_run(folder), evaluation.load_evaluation(folder), dataset=dataset)


def clear(folder: Path) -> None:
    """Delete what textlora wrote in a run folder, and nothing else."""
    for name in DERIVED:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def prepared(source: Any, out: Path, data: DataOptions, options: PlanOptions, progress: Progress | None) -> Dataset:
    """Return what the same call has prepared in the folder before, or prepare it.

    Raises:
        UsageError: the folder holds data that were made otherwise.
    """
    chosen = options.settings()
    if preparation.is_current(out, source, **_shallow(data), settings=chosen):
        return preparation.load_dataset(out)
    refuse_other(out, storage.DATASET, "was made from other data or options")
    return _prepare(source, out, data, chosen, chosen.model.base_model, progress)


def _planned(dataset: Dataset, options: PlanOptions, *, overwrite: bool = False) -> Plan:
    """Return the plan in the folder if the same was asked for, hand edits included."""
    asked = json.loads(json.dumps({"dataset": dataset.fingerprint, **_request(options)}, default=str))
    path = dataset.folder / REQUEST
    if (dataset.folder / storage.PLAN).exists() and not overwrite:
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != asked:
            refuse_other(dataset.folder, storage.PLAN, "was made with other options")
        return planning.load_plan(dataset.folder / storage.PLAN)
    # Before the plan, so that a stop between the two leaves no plan that nobody asked for.
    storage.write_text(path, json.dumps(asked, indent=1))
    return plan(
        dataset,
        base_model=options.base_model,
        recipe=options.recipe,
        assignments=options.assignments,
        plan_file=options.plan_file,
    )


def _request(options: PlanOptions) -> dict[str, Any]:
    from_file = planning.read_plan_settings(options.plan_file) if options.plan_file else {}
    return {**asdict(options), "plan_file": from_file}


def refuse_other(folder: Path, name: str, why: str) -> None:
    """Refuse to write over a file of a run folder, if it is there.

    Raises:
        UsageError: it is.
    """
    if (folder / name).exists():
        raise UsageError(
            f"{folder / name} {why}.",
            hint="Choose another folder with --out, or replace the run in it with --overwrite.",
        )
