"""``prepare``: rows become a ``Dataset`` of three splits, and every row is accounted for.

    gathering: reading: rows, sample -> cleaning: texts, labels
        -> repeats -> separating: likeness, units, splitting -> describing -> measuring -> writing

The texts are read once and go through the disk (``spilling``); what must be known of all of them at
once is a few bytes a row (``rows``). ``stored`` reads the splits back when they are needed.
``request`` holds what was asked for. A row that cannot be used goes to the ``ledger`` with its line
and a reason (``quarantine.csv``); nothing disappears unseen: rows read = left out by the sample +
set aside + kept. ``whole`` prepares all rows for an audit instead, in folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.errors import UsageError
from textlora.preparation.describing import describe
from textlora.preparation.gathering import gathered
from textlora.preparation.ledger import CELL_LIMIT, Progress
from textlora.preparation.measuring import HISTOGRAM_BIN, TokenCounter, measure
from textlora.preparation.repeats import without_repeats
from textlora.preparation.request import Option, Origin, is_frame, make_request, options_of
from textlora.preparation.separating import separate
from textlora.preparation.splitting import check_classes
from textlora.preparation.writing import load_dataset, write_dataset
from textlora.settings import Settings
from textlora.types import Dataset

__all__ = [
    "CELL_LIMIT",
    "HISTOGRAM_BIN",
    "Option",
    "Origin",
    "Progress",
    "TokenCounter",
    "is_current",
    "load_dataset",
    "prepare",
]


def prepare(  # noqa: PLR0913 - one source, the rest are switches with defaults
    source: Any,
    *,
    out: str | Path,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    test: Any = None,
    validation: Any = None,
    encoding: str | None = None,
    settings: Settings | None = None,
    token_counter: TokenCounter | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read, check, clean and split labelled texts, and write them to a run folder.

    Args:
        source: path of a CSV, TSV, JSON lines or Parquet file, or a pandas data frame.
        out: the run folder; made when missing, files of an earlier ``prepare`` are replaced.
        text: name of the text column; found when not given.
        label: name of the label column; found when not given.
        labels: the label names, in the order of the class indices; else all that occur, in
            natural order. Rows with another label are set aside.
        test: file or data frame that is the test split, as it is.
        validation: file or data frame that is the validation split.
        encoding: text encoding of all files; else UTF-8, or UTF-16 with a byte order mark.
        settings: ``data.*`` and ``seed`` are used.
        token_counter: measures the texts in tokens; without it nothing is said about lengths.
        progress: called with stage, rows done and rows in all (or None).

    Raises:
        DataError: the file cannot become a data set; all problems that can be seen together.
        UsageError: a column, label list or encoding that makes no sense.
        ResourceError: the folder cannot be written, or its disk is too small.
    """
    request = make_request(source, text, label, labels, {"validation": validation, "test": test}, encoding, settings)
    with gathered(request, Path(out), progress or _silent) as found:
        rows, names, ledger = found.rows, found.names, found.ledger
        without_repeats(rows, ledger)
        check_classes(rows, names, request, ledger)
        separated = separate(rows, names, found.times, request, found.folder, ledger)
        info = describe(rows, separated.parts, names, found.columns, request, ledger)
        info = measure(info, rows, token_counter, ledger)
        return write_dataset(found.folder, info, rows, separated, found.broken, ledger)


def is_current(  # noqa: PLR0913 - the arguments of prepare()
    folder: str | Path,
    source: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    test: Any = None,
    validation: Any = None,
    encoding: str | None = None,
    settings: Settings | None = None,
) -> bool:
    """Return whether ``folder`` holds what ``prepare`` would make of the same arguments.

    Files are compared by content. Data frames are never taken as the same.
    """
    request = make_request(source, text, label, labels, {"validation": validation, "test": test}, encoding, settings)
    frames = any(is_frame(item) for item in (source, *request.given.values()))
    if frames or not (Path(folder) / storage.DATASET).exists():
        return False
    try:
        return dict(load_dataset(folder).info.options) == options_of(request)
    except (UsageError, OSError):
        return False


def _silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing."""
