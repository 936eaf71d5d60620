"""Prediction of whole files: every input column kept, in order, with the predictions beside them.

    sources: files, folders, globs -> blocks: rows -> scorer: predictions -> outputs: rows as they are written
        -> shards: what is done, on the disk -> outputs: the whole

``running`` does this; ``Scorer`` alone is what Ray Data and Spark call (``ray``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textlora.scoring.columns import added_columns
from textlora.scoring.nouns import ScoredFile
from textlora.scoring.scorer import Scorer
from textlora.scoring.sources import FORMATS, Asked, find_targets

if TYPE_CHECKING:
    from textlora.classifier import Classifier
    from textlora.scoring.course import Progress
    from textlora.scoring.running import MakeEngine

__all__ = ["FORMATS", "ScoredFile", "Scorer", "added_columns", "score_file", "score_files"]

PARTS = "textlora-parts"


def score_file(
    classifier: Classifier,
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    encoding: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredFile:
    """Predict every row of a CSV, TSV, JSON lines or Parquet file.

    A call that was killed is taken up by the next one with the same arguments.

    Args:
        classifier: the model.
        source: the file, compressed or not.
        out: written atomically; its suffix chooses the format (``.csv .tsv .jsonl .parquet``).
        text: name of the text column; by default the one of the training file, else found.
        encoding: of the source, when it is neither UTF-8 nor UTF-16.
        progress: called with the rows done, those of an earlier call included, and about how many there are:
            first before any is predicted, at last with two equal numbers.

    Raises:
        UsageError: unknown output format, the file already has a column of a prediction, or another
            process is writing ``out``.
        DataError: the file cannot be read.
        ResourceError: the output cannot be written.
    """
    resumed = 0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal resumed
        if stage == "resume":
            resumed = done
        elif progress:
            progress(resumed + done, resumed + total)

    return score_files(classifier, [source], out, text=text, encoding=encoding, progress=tell)[0]


def score_files(  # noqa: PLR0913 - what a user may want to say
    classifier: Classifier,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    text: str | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
    engine: MakeEngine | None = None,
) -> tuple[ScoredFile, ...]:
    """Predict every row of several files.

    Args:
        classifier: the model.
        sources: files, folders of them, and globs such as ``"2024/*.csv.gz"``. Folders give their files in the order
            of the names; hidden ones and what an earlier call wrote are left out.
        out: one file for all rows, whose columns ``source_file`` and ``source_row`` say where each came from
            (row from 0, broken lines not counted); or a folder (there already, or with ``/`` at its end) for a
            file each, in its source's format.
        text: name of the text column; by default the one of the training file, else found.
        encoding: of all sources, when they are neither UTF-8 nor UTF-16.
        progress: called with the stage, the rows done in it and about how many there are; ``resume`` reads again what
            an earlier call has done, ``predict`` is the rest.
        engine: what predicts; this process by default, or a ``textlora.scoring.ray.RayPool``.

    Returns:
        what became of the rows of each written file.

    Raises:
        UsageError: unknown output format, a file already has a column of a prediction, files of different
            columns for one output, or another process is writing it.
        DataError: nothing to read, or files that cannot be read, all together.
        ResourceError: the output cannot be written.
    """
    from textlora.scoring.running import Job, local, run

    scorer = Scorer(classifier)
    asked = Asked(tuple(map(str, sources)), str(out), text, classifier.bundle.text_column, encoding)
    targets = find_targets(asked, scorer.columns.names)
    flat = [source for target in targets for source in target.sources]
    predict = (engine or local)(asked, flat, scorer)
    job = Job(targets, parts_folder(asked), classifier.fingerprint, scorer.columns, predict)
    return run(job, progress or (lambda *_: None))


def parts_folder(asked: Asked) -> Path:
    """Return where the shards of a job are: hidden, beside the output or in the output's folder."""
    out = Path(asked.out)
    return out / f".{PARTS}" if asked.into_folder else out.with_name(f".{out.name}.{PARTS}")
