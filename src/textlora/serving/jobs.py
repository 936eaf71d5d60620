"""File jobs: uploaded tables that are scored in the background and forgotten soon after.

One thread works them off, one after the other. Their texts wait in the same queue as everybody's, a few at a time,
so that a single text waits for the next batch and never for a file.
"""

from __future__ import annotations

import csv
import itertools
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from textlora.errors import TextloraError
from textlora.scoring import ScoredFile, score_file
from textlora.serving.refusals import ServerFault, overloaded
from textlora.types import Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

logger = logging.getLogger(__name__)

State = Literal["uploading", "waiting", "running", "done", "failed"]
Predict = Callable[[str, list[str]], list[Prediction]]

MOST_JOBS = 16
"""Jobs that are kept at once, finished ones among them."""
LIFETIME = 3_600.0
"""Seconds that a finished job is kept, when nobody fetches its result."""
AFTER_DOWNLOAD = 300.0
"""Seconds that it is kept after a download, enough to repeat one that broke off; and that a failure is told."""
BLOCK_TEXTS = 256
BLOCK_CHARACTERS = 100_000
"""Texts that are handed over together. The queue cuts them into batches and lets others in between."""
RETRY_SECONDS = 10
SHOWN_BROKEN = 5


class _Removed(Exception):
    """The job's owner has deleted it."""


@dataclass(eq=False)
class Job:
    """One uploaded file, from upload to download.

    Attributes:
        id: 128 random bits; whoever knows them may see the job.
        name: of the uploaded file, without any folder.
        answered: rows that the classifier has seen.
        counts: rows by the label that they were given; those the classifier is not sure of are not in it.
        not_sure: rows without an answer; None where the classifier always gives one.
        without_label: rows that were given no label at all, which multi-label classifiers may do.
        broken: the first broken rows, each with its line and what is wrong with it.
        message: what went wrong.
        expires: on the clock of ``time.monotonic``; None while it is under way.
    """

    id: str
    name: str
    model: str
    folder: Path
    text: str | None = None
    state: State = "uploading"
    done: int = 0
    answered: int = 0
    total: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    not_sure: int | None = None
    without_label: int = 0
    without_text: int = 0
    quarantined: int = 0
    broken: tuple[str, ...] = ()
    truncated: int = 0
    message: str = ""
    expires: float | None = None
    removed: threading.Event = field(default_factory=threading.Event)

    @property
    def source(self) -> Path:
        """Where the upload lies."""
        return self.folder / self.name

    @property
    def result_name(self) -> str:
        """Name of the scored file."""
        return f"{Path(self.name).stem}.scored.csv"

    @property
    def result(self) -> Path:
        """Where the scored file lies when it is done."""
        return self.folder / "out" / self.result_name

    def take(self, predictions: Sequence[Prediction], *, several: bool) -> None:
        """Count a block of answers; ``several`` says that a text may have any number of labels."""
        for prediction in predictions:
            if prediction.abstains:
                self.not_sure = (self.not_sure or 0) + 1
                continue
            given = prediction.labels if several else (prediction.label,)
            self.counts.update(given)
            self.without_label += not given
        self.truncated += sum(prediction.truncated for prediction in predictions)
        self.answered += len(predictions)
        self.done += len(predictions)

    def told(self) -> dict[str, Any]:
        """Return what a client sees of it."""
        names = ("id", "name", "model", "state", "done", "total", "not_sure", "without_label", "without_text")
        rest = ("quarantined", "broken", "truncated", "message", "answered")
        return {name: getattr(self, name) for name in (*names, *rest)} | {"counts": dict(self.counts)}


class Jobs:
    """All file jobs of a server.

    Args:
        classifiers: by the name of the model.
        predict: predicts texts with the model of a name, from any thread, and waits for the answer.
        most: jobs that are kept at once.
    """

    def __init__(self, classifiers: dict[str, Classifier], predict: Predict, *, most: int = MOST_JOBS) -> None:
        self._classifiers = classifiers
        self._predict = predict
        self._most = most
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="file-jobs")
        self._folder: Path | None = None

    def open(self, name: str, *, model: str, text: str | None = None) -> Job:
        """Make room for an upload.

        Raises:
            ServerFault: 429, there is none.
        """
        self.sweep()
        with self._lock:
            if len(self._jobs) >= self._most:
                raise overloaded(f"{len(self._jobs)} files are here already, which is the most.", RETRY_SECONDS)
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="textlora-files-"))
            identity = secrets.token_urlsafe(16)
            job = Job(identity, name, model, self._folder / identity, text)
            job.folder.mkdir()
            self._jobs[identity] = job
        if self._classifiers[model].bundle.abstention is not None:
            job.not_sure = 0
        return job

    def start(self, job: Job) -> None:
        """Score an upload that has arrived, as soon as those before it are done.

        Raises:
            ServerFault: 503, the server is stopping.
        """
        job.state = "waiting"
        try:
            self._worker.submit(self._work, job)
        except RuntimeError as error:  # closed
            self.remove(job)
            raise ServerFault(503, "unhealthy", "The server is stopping.") from error

    def get(self, identity: str) -> Job | None:
        """Return a job that is still here."""
        self.sweep()
        return self._jobs.get(identity)

    def remove(self, job: Job) -> None:
        """Stop a job and delete its files."""
        with self._lock:
            self._jobs.pop(job.id, None)
        job.removed.set()
        # A running one deletes them itself, when its block is through.
        if job.state != "running":
            shutil.rmtree(job.folder, ignore_errors=True)

    def downloaded(self, job: Job) -> None:
        """Take note that somebody has the result."""
        job.expires = min(job.expires or float("inf"), time.monotonic() + AFTER_DOWNLOAD)

    def sweep(self) -> None:
        """Remove what is past its time."""
        now = time.monotonic()
        with self._lock:
            old = [job for job in self._jobs.values() if job.expires is not None and job.expires < now]
        for job in old:
            self.remove(job)

    def close(self) -> None:
        """Stop all jobs and delete all files."""
        for job in list(self._jobs.values()):
            self.remove(job)
        self._worker.shutdown(wait=True, cancel_futures=True)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self, job: Job) -> None:
        if job.removed.is_set():
            return
        job.state = "running"
        try:
            self._score(job)
        except _Removed:
            pass
        except TextloraError as error:
            self._fail(job, _told(error))
        except ServerFault as fault:
            self._fail(job, fault.message)
        except Exception as error:  # noqa: BLE001 - the next file must not suffer
            # Not the message of it: it may hold a part of somebody's text.
            logger.error("a file job failed: %s", type(error).__name__)
            self._fail(job, "Something went wrong that textlora did not foresee.")
        self._ended(job)

    def _ended(self, job: Job) -> None:
        if job.removed.is_set():
            shutil.rmtree(job.folder, ignore_errors=True)
        job.expires = time.monotonic() + (LIFETIME if job.result.exists() else AFTER_DOWNLOAD)

    def _score(self, job: Job) -> None:
        classifier: Any = _Paced(self._classifiers[job.model], self._predict, job)
        scored = score_file(classifier, job.source, job.result, text=job.text, progress=_Progress(job))
        _settle(job, scored)
        job.source.unlink()
        job.state = "done"

    @staticmethod
    def _fail(job: Job, message: str) -> None:
        # Where the server keeps its files is nobody's business.
        job.message = message.replace(f"{job.folder}/", "")
        job.state = "failed"


def _told(error: TextloraError) -> str:
    """Return an error without the hint, where that speaks of the command line."""
    lines = [error.message, *(f"– {problem}" for problem in error.problems)]
    return "\n".join(lines if "--" in error.hint or "`" in error.hint else [*lines, error.hint]).strip()


def _settle(job: Job, scored: ScoredFile) -> None:
    job.done = scored.scored + scored.without_text + scored.quarantined
    job.total = job.done
    job.without_text, job.quarantined, job.truncated = scored.without_text, scored.quarantined, scored.truncated
    job.not_sure = scored.not_sure
    if scored.quarantine:
        with scored.quarantine.open(encoding="utf-8", newline="") as stream:
            rows = itertools.islice(csv.DictReader(stream), SHOWN_BROKEN)
            job.broken = tuple(f"line {row['line']}: {row['reason']}" for row in rows)


class _Progress:
    """Rows done in whole blocks, and about how many there are; rows without a text are seen here only."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, done: int, total: int) -> None:
        self._job.done, self._job.total = done, total


class _Paced:
    """A classifier whose predictions are made a few at a time, and counted for a job."""

    def __init__(self, classifier: Classifier, predict: Predict, job: Job) -> None:
        self._classifier = classifier
        self._predict = predict
        self._job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return what the classifier's own method would."""
        several = self._classifier.bundle.task == "multi_label"
        found: list[Prediction] = []
        for block in blocks(texts):
            if self._job.removed.is_set():
                raise _Removed
            predictions = self._predict(self._job.model, block)
            self._job.take(predictions, several=several)
            found += predictions
        return found


def blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut texts into blocks that are predicted quickly; a long text is a block of its own."""
    block: list[str] = []
    characters = 0
    for text in texts:
        if block and (len(block) == BLOCK_TEXTS or characters + len(text) > BLOCK_CHARACTERS):
            yield block
            block, characters = [], 0
        block.append(text)
        characters += len(text)
    if block:
        yield block
