"""The one thread that computes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from textlora.serving.queue import Batch, Queue, Task
from textlora.serving.refusals import ServerFault

if TYPE_CHECKING:
    from textlora.classifier import Classifier

logger = logging.getLogger(__name__)
# model, texts, tokens, seconds
Done = Callable[[str, int, int, float], None]


class Worker:
    """Works off a queue, batch after batch.

    Args:
        classifiers: by the name of the model.
        queue: what to do.
        budget: tokens of a batch.
        on_batch: called with model, texts, tokens and seconds of each batch that was computed.
    """

    def __init__(
        self, classifiers: Mapping[str, Classifier], queue: Queue, *, budget: int, on_batch: Done | None = None
    ) -> None:
        self._classifiers = classifiers
        self._queue = queue
        self._budget = budget
        self._on_batch = on_batch
        self._thread = threading.Thread(target=self._run, name="textlora-worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the closed queue is worked off."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._queue.take(self._budget):
            self._work(batch)

    def _work(self, batch: Batch) -> None:
        started = time.monotonic()
        try:
            answers = self._compute(batch)
        except Exception as error:  # noqa: BLE001 - the next batch must not suffer
            self._apart(batch, error)
            return
        # Before anybody has an answer: who has one may look at the figures.
        self._measured(batch, time.monotonic() - started)
        for (task, place), answer in zip(batch.places, answers, strict=True):
            task.answer(place, answer)

    def _measured(self, batch: Batch, seconds: float) -> None:
        if batch.tokens:  # a part of a failed batch says nothing about the speed
            self._queue.measured(batch.tokens, seconds)
        if self._on_batch:
            self._on_batch(batch.model, len(batch.places), batch.tokens, seconds)

    def _compute(self, batch: Batch) -> list[Any]:
        classifier = self._classifiers[batch.model]
        return list(classifier.logits(batch.texts)) if batch.raw else classifier.predict(batch.texts)

    def _apart(self, batch: Batch, error: Exception) -> None:
        """Compute the requests of a failed batch one by one, so that each only answers for itself."""
        tasks = batch.tasks
        if len(tasks) == 1:
            _fail(tasks[0], error)
            return
        for task in tasks:
            own = tuple((other, place) for other, place in batch.places if other is task)
            self._work(Batch(batch.model, batch.raw, own, 0))


def _fail(task: Task, error: Exception) -> None:
    # Not the message of it: it may hold a part of somebody's text.
    logger.error("a batch failed: %s", type(error).__name__)
    task.fail(ServerFault(500, "backend", f"The model failed on this request ({type(error).__name__})."))
