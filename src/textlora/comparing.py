"""compare(): whether one run is really better than another, from what both said of the same rows.

evaluation.json, predictions.parquet of each run ──▶ the same rows? ──▶ every run against the first
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import paired, significance, storage
from textlora.errors import UsageError
from textlora.evaluation import UNIT
from textlora.paired import Difference
from textlora.resampling import RESAMPLES, Units
from textlora.types import Evaluation, Interval, Task

SEED = 0
FIGURES = ("accuracy", "f1_macro")


@dataclass(frozen=True, slots=True)
class Compared:
    """One run held against the first.

    Attributes:
        run: its folder.
        scores: its own ``accuracy`` and ``f1_macro``, with their intervals.
        accuracy: by how much its accuracy exceeds the first run's; None for the first run itself.
        f1_macro: the same of the macro F1.
        told: what that comes to, in a sentence.
    """

    run: str
    scores: dict[str, Interval]
    accuracy: Difference | None = None
    f1_macro: Difference | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs on the same rows; the p-values of several are corrected (Holm).

    Attributes:
        split: which split the rows are of.
        rows: how many they are.
        groups: groups of rows that counted as one draw; 0 where each row did.
        task: ``single_label`` or ``multi_label``.
        headline: the figure that decides: ``accuracy``, in multi-label data ``f1_macro``.
        runs: the first run, then the others in the order they were named.
        notes: what is to be kept in mind.
    """

    split: str
    rows: int
    groups: int
    task: Task
    headline: str
    runs: tuple[Compared, ...]
    notes: tuple[str, ...] = field(default=())


def compare(*runs: str | Path) -> Comparison:
    """Hold evaluated runs against the first of them, row by row.

    The difference of accuracy has Tango's interval and McNemar's exact test, that of macro F1 an
    interval from the paired bootstrap and a randomisation test. Rows that are one draw (groups, clusters of
    near-duplicates) stay together in all of them.

    Args:
        runs: run folders, two or more.

    Raises:
        UsageError: fewer than two runs, the same one twice, one that was not evaluated, or runs that were
            not measured on the same rows; all problems together.
    """
    evaluated = [_Evaluated.load(folder) for folder in _folders(runs)]
    _check_same(evaluated)
    first, others = evaluated[0], evaluated[1:]
    units = first.units
    by_figure = {
        "accuracy": _corrected([_accuracy(other, first, units) for other in others]),
        "f1_macro": _corrected([_f1(other, first, units) for other in others]),
    }
    headline = first.evaluation.headline
    compared = [
        Compared(str(other.folder), other.scores, by_figure["accuracy"][place], by_figure["f1_macro"][place], told)
        for place, other in enumerate(others)
        for told in (sentence(by_figure[headline][place], str(other.folder), str(first.folder)),)
    ]
    return Comparison(
        split=first.evaluation.split,
        rows=len(first),
        groups=len(units.sizes) if units.grouped else 0,
        task=first.evaluation.task,
        headline=headline,
        runs=(Compared(str(first.folder), first.scores), *compared),
        notes=tuple(_notes(evaluated)),
    )


def sentence(difference: Difference, name: str, other: str) -> str:
    """Return in words whether one is really better than another one."""
    figure = "macro F1" if difference.figure == "f1_macro" else "accuracy"
    found = f"{_points(difference.interval.value)} points of {figure}"
    between = f"95 % interval {_points(difference.interval.low)} to {_points(difference.interval.high)}, {paired.shown_p(difference.p_value)}"
    if difference.verdict in ("better", "worse"):
        return f"{name} is really {difference.verdict} than {other}: {found} ({between})."
    if difference.verdict == "equal":
        return f"{name} and {other} are as good as each other: they differ by less than a point of {figure}: {found} ({between})."
    needed = difference.rows_needed
    more = f" About {_rounded(needed):,} rows would show a difference of this size." if needed else ""
    return f"Too few rows to tell whether {name} is better or worse than {other}: {found} ({between}).{more}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _rounded(rows: int) -> int:
    """Return two digits of a number that is an estimate itself."""
    return int(float(f"{rows:.2g}"))


# --- what goes in -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evaluated:
    """An evaluated run. N rows, C classes."""

    folder: Path
    evaluation: Evaluation

    @classmethod
    def load(cls, folder: Path) -> _Evaluated:
        return cls(folder, storage.read_noun(folder / storage.EVALUATION, Evaluation, made_by="evaluate"))

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / storage.PREDICTIONS
        try:
            names = pq.read_schema(path).names
            return pq.read_table(path, columns=[name for name in ("id", "label", "prediction", UNIT) if name in names])
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{path} is damaged: {str(error).splitlines()[0]}.", hint="Run `textlora evaluate` again."
            ) from error

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def ids(self) -> list[str]:
        return list(self._table.column("id").to_pylist())

    @property
    def labels(self) -> list[Any]:
        return list(self._table.column("label").to_pylist())

    @cached_property
    def text_fingerprint(self) -> str:
        """Of all texts in their order, read block by block."""
        import pyarrow.parquet as pq

        batches = pq.ParquetFile(self.folder / storage.PREDICTIONS).iter_batches(columns=["text"])
        return storage.fingerprint(text for batch in batches for text in batch.column(0).to_pylist())

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Labels that the rows have (N, C)."""
        return self._matrix("label")

    @cached_property
    def given(self) -> NDArray[np.bool_]:
        """Labels that the rows are given (N, C)."""
        return self._matrix("prediction")

    def _matrix(self, column: str) -> NDArray[np.bool_]:
        places = {name: place for place, name in enumerate(self.evaluation.label_names)}
        found = np.zeros((len(self), len(places)), np.bool_)
        for row, names in enumerate(self._table.column(column).to_pylist()):
            found[row, [places[name] for name in ([names] if isinstance(names, str) else names)]] = True
        return found

    @property
    def right(self) -> NDArray[np.bool_]:
        """Rows with all labels right (N,)."""
        return np.asarray((self.truth == self.given).all(axis=1))

    @property
    def units(self) -> Units:
        known = UNIT in self._table.column_names
        return Units.of(self._table.column(UNIT).to_numpy() if known else None, len(self))

    @property
    def scores(self) -> dict[str, Interval]:
        return {name: self.evaluation.metrics[name] for name in FIGURES}


def _folders(runs: Sequence[str | Path]) -> list[Path]:
    """Return the folders, if they are two or more, different, and were evaluated."""
    folders = [Path(run) for run in runs]
    if len(folders) < 2:  # noqa: PLR2004 - it takes two
        raise UsageError(
            f"compare needs two runs at least, and {len(folders) or 'none'} was named.",
            hint="For instance: textlora compare runs/first runs/second",
        )
    problems = [*_repeated(folders), *(problem for folder in dict.fromkeys(folders) for problem in _missing(folder))]
    if problems:
        raise UsageError(
            "These runs cannot be compared:",
            problems=problems,
            hint="Name different runs, each of them evaluated: `textlora evaluate RUN`.",
        )
    return folders


def _repeated(folders: Sequence[Path]) -> Iterator[str]:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            yield f"{folder} was named twice"
        seen.add(folder.resolve())


def _missing(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder} is no folder"
        return
    missing = [name for name in (storage.EVALUATION, storage.PREDICTIONS) if not (folder / name).exists()]
    if missing:
        yield f"{folder} was not evaluated: it has no {' and no '.join(missing)}"


def _check_same(runs: Sequence[_Evaluated]) -> None:
    """Refuse runs that were measured on other rows than the first.

    Raises:
        UsageError: what differs, for every run.
    """
    first = runs[0]
    problems = [problem for run in runs for problem in _stale(run)]
    if not problems:
        problems = [f"{run.folder}: {what}" for run in runs[1:] for what in _differences(run, first)]
    if problems:
        raise UsageError(
            f"Only what was measured on the same rows can be compared, here with {first.folder}:",
            problems=problems,
            hint="Evaluate all of them on the same split of the same data.",
        )


def _stale(run: _Evaluated) -> Iterator[str]:
    if len(run) != run.evaluation.rows:
        yield (
            f"{run.folder}: {storage.EVALUATION} is of {run.evaluation.rows:,} rows, {storage.PREDICTIONS} of {len(run):,}; "
            "`textlora evaluate` writes both anew"
        )


def _differences(run: _Evaluated, first: _Evaluated) -> Iterator[str]:
    """Yield what tells the rows of two runs apart; nothing if they are the same."""
    ours, theirs = run.evaluation, first.evaluation
    if ours.run_fingerprint == theirs.run_fingerprint:
        yield "it holds the same classifier, so there is nothing to compare"
        return
    found = []
    if ours.task != theirs.task:
        found.append(f"its rows have {_labels_of(ours.task)}, those of the first {_labels_of(theirs.task)}")
    elif ours.label_names != theirs.label_names:
        found.append(f"its labels are {_listed(ours.label_names)}, those of the first {_listed(theirs.label_names)}")
    if ours.split != theirs.split:
        found.append(f"it was scored on the {ours.split} split, the first on the {theirs.split} split")
    if len(run) != len(first):
        found.append(f"it has {len(run):,} rows, the first has {len(first):,}")
    elif run.ids != first.ids:
        other = sum(one != two for one, two in zip(run.ids, first.ids, strict=True))
        found.append(f"{other:,} of its {len(run):,} rows have another id at their place")
    elif ours.task == theirs.task and run.labels != first.labels:
        found.append("the same ids have other labels")
    elif run.text_fingerprint != first.text_fingerprint:
        found.append("the same ids have other texts")
    if found and ours.dataset_fingerprint != theirs.dataset_fingerprint:
        shown, other_shown = ours.dataset_fingerprint[:12], theirs.dataset_fingerprint[:12]
        found.insert(0, f"its data have the fingerprint {shown}…, those of the first {other_shown}…")
    yield from found


def _labels_of(task: Task) -> str:
    return "several labels" if task == "multi_label" else "one label each"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


# --- what comes out -----------------------------------------------------------------------


def _accuracy(run: _Evaluated, first: _Evaluated, units: Units) -> Difference:
    return paired.accuracy_difference(run.right, first.right, units)


def _f1(run: _Evaluated, first: _Evaluated, units: Units) -> Difference:
    return paired.f1_difference(first.truth, run.given, first.given, units=units, resamples=RESAMPLES, seed=SEED)


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    p_values = significance.holm([difference.p_value for difference in differences])
    return [replace(one, p_value=p_value) for one, p_value in zip(differences, p_values, strict=True)]


def _notes(runs: Sequence[_Evaluated]) -> Iterator[str]:
    first = runs[0].evaluation
    if any(run.evaluation.dataset_fingerprint != first.dataset_fingerprint for run in runs):
        yield "The runs learnt from different data; the rows they were scored on are the same."
    if first.split != "test":
        yield f"The scores are on the {first.split} split, which had its part in training: they flatter."
    if first.groups == 1:
        yield "All rows are of one group: what is said holds for further rows of this group, not for others."
    if len(runs) > 2:  # noqa: PLR2004 - two runs are one comparison
        yield "The p-values are corrected for the number of comparisons (Holm)."
    yield "Chance in training is not in the intervals: other seeds give other runs of the same kind."
