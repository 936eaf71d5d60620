"""``tune`` over folders: where the data come from, and where a search goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from textlora import api, preparation, storage
from textlora.api import DataOptions, PlanOptions, Progress
from textlora.errors import UsageError
from textlora.repeated import Ahead
from textlora.trials import Trials
from textlora.types import Dataset


def tune(  # noqa: PLR0913 - the options of all stages
    source: Any,
    *,
    trials: int = 20,
    minutes: float | None = None,
    text: str | None = None,
    label: str | None = None,
    base_model: str | None = None,
    recipe: str = "default",
    assignments: Mapping[str, Any] | None = None,
    plan_file: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Trials:
    """Search for settings that do better than the default, on training and validation rows alone.

    Args:
        source: path of a data file, a pandas data frame, or a run folder with prepared data, which stays as it is.
        trials: in all, the default among them; a repeated call goes on where the last one stopped.
        minutes: that all trials may take; None is no limit.
        text: text column; found when not given.
        label: label column; found when not given.
        base_model: hub id, local folder or ``embedded``.
        recipe: whose settings are the default.
        assignments: settings by dotted name; they are not searched.
        plan_file: a ``plan.toml``, whole or in part; its settings are not searched.
        out: folder for the results, ``runs/<name of the file>-tune`` by default.
        overwrite: replace another search in the folder.
        progress: called with stage, trials done, trials in all and a note.

    Returns:
        All trials with the verdict; the folder has ``plan.toml`` with the recommended settings.
    """
    options = PlanOptions(base_model, recipe, assignments or {}, Path(plan_file) if plan_file else None)
    *_, found, _ = tune_stages(
        source, Path(out) if out else None, DataOptions(text=text, label=label), options,
        trials=trials, minutes=minutes, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    return found  # type: ignore[return-value]


def tune_stages(  # noqa: PLR0913 - where, what, how, how far, and three switches
    source: Any,
    out: Path | None,
    data: DataOptions,
    options: PlanOptions,
    *,
    trials: int,
    minutes: float | None,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str = "",
    expect: Callable[[Ahead], None] | None = None,
) -> Iterator[Dataset | Trials | Path]:
    """Prepare, search and report; yield what each made; ``expect`` is told before the search what is ahead.

    Raises:
        UsageError: the folder holds a run, or another search and ``overwrite`` is off.
    """
    from textlora import tuning
    from textlora.reporting.searching import report_trials

    tuning.check_trials(trials)
    prepared = isinstance(source, str | Path) and Path(source).is_dir()
    folder = out or _beside(Path(source) if prepared else api.default_folder(source))
    if overwrite:
        api.clear(folder)
    if not (folder / storage.TRIALS).exists():
        api.refuse_other(folder, storage.PLAN, "was not made by a search")
    dataset = _copied(Path(source), folder) if prepared else api.prepared(source, folder, data, options, progress)
    yield dataset
    found = tuning.tune(
        dataset,
        trials=trials,
        minutes=minutes,
        base_model=options.base_model,
        recipe=options.recipe,
        assignments=options.assignments,
        plan_file=options.plan_file,
        progress=progress,
        command=command,
        expect=expect,
    )
    yield found
    yield report_trials(folder, dataset=dataset, trials=found)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-tune")


def _copied(source: Path, folder: Path) -> Dataset:
    """Return a run folder's prepared data, copied into another folder."""
    dataset = preparation.load_dataset(source)
    if folder.resolve() == source.resolve():
        raise UsageError(f"{folder} is the run folder itself.", hint="Choose another folder with --out.")
    if (folder / storage.DATASET).exists():
        found = preparation.load_dataset(folder)
        if found.fingerprint != dataset.fingerprint:
            api.refuse_other(folder, storage.DATASET, "was made from other data or options")
        return found
    storage.make_folder(folder)
    # The description comes last, so that its presence says that the rest is whole.
    for name in (*(f"{split}.parquet" for split in dataset.splits()), storage.QUARANTINE, storage.DATASET):
        with storage.atomic_path(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return preparation.load_dataset(folder)
