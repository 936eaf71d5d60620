"""What is served, for all routes: the models, the queue, the limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textlora import explanation
from textlora.errors import did_you_mean
from textlora.serving.limits import Limits
from textlora.serving.metrics import Metrics
from textlora.serving.queue import Queue, Task
from textlora.serving.refusals import ServerFault, overloaded
from textlora.serving.worker import Worker
from textlora.types import Explanation, Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

# Fewer than there are in nearly all texts: a batch then rather has too few tokens than too many.
CHARACTERS_PER_TOKEN = 4
# Explanations under way at once.
EXPLAINING = 2


class Service:
    """The models of a server and the way to them.

    Args:
        classifiers: by the name of the model.
        folders: where each was loaded from.
        limits: what is taken on.
        budget: tokens that are computed together.
    """

    def __init__(
        self, classifiers: Mapping[str, Classifier], folders: Mapping[str, Path], limits: Limits, *, budget: int
    ) -> None:
        self.classifiers = dict(classifiers)
        self.folders = dict(folders)
        self.limits = limits
        self.stopping = False
        self.queue = Queue(texts=limits.queue_texts, deadline=limits.deadline_seconds)
        self.metrics = Metrics(lambda: (self.queue.texts, self.queue.tokens))
        self.worker = Worker(
            self.classifiers, self.queue, budget=limits.batch_tokens or budget, on_batch=self.metrics.batch
        )
        self._explaining = ThreadPoolExecutor(EXPLAINING, thread_name_prefix="textlora-explain")
        self._explanations = 0

    def start(self) -> None:
        """Begin to answer."""
        self.worker.start()

    def close(self) -> None:
        """Answer what was accepted, and stop."""
        self.stopping = True
        self.queue.close()
        self.worker.join()
        self._explaining.shutdown(cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.worker.alive and not self.stopping

    def model(self, name: str | None) -> str:
        """Return the name of the model that is meant; there must be one only where none is named.

        Raises:
            ServerFault: 404 for an unknown one, 422 where several could be meant.
        """
        if name is None and len(self.classifiers) == 1:
            return next(iter(self.classifiers))
        known = f"Models: {', '.join(self.classifiers)}."
        if name is None:
            raise ServerFault(422, "validation", f"Several models are served; name one as `model`. {known}")
        if name not in self.classifiers:
            found = name if len(name) <= 100 else f"{name[:100]}…"  # noqa: PLR2004
            raise ServerFault(
                404, "not_found", f"There is no model {found!r}.{did_you_mean(found, self.classifiers)} {known}"
            )
        return name

    async def answers(
        self, model: str, texts: Sequence[str], *, raw: bool = False, seconds: float | None = None
    ) -> list[Any]:
        """Return the predictions of texts, or their logits (C,) each if ``raw``.

        Args:
            model: name of the model.
            texts: within the limits.
            raw: ask for logits.
            seconds: until the answer must be there, if fewer than the server's own limit.

        Raises:
            ServerFault: 429 where there is no room or the answer would come too late.
        """
        if not texts:
            return []
        allowed = min(seconds or self.limits.deadline_seconds, self.limits.deadline_seconds)
        task = self._task(model, texts, raw=raw, deadline=time.monotonic() + allowed)
        self.queue.put(task)
        return await asyncio.wrap_future(task.future)

    def predict(self, model: str, texts: list[str]) -> list[Prediction]:
        """Predict texts beside everybody's, from any thread but the server's own; wait for the answer."""
        if not texts:
            return []
        task = self._task(model, texts)
        self.queue.put(task)
        return task.future.result()

    def _task(self, model: str, texts: Sequence[str], **options: Any) -> Task:
        most = self.classifiers[model].whole_length
        return Task(model, texts, [min(len(text) // CHARACTERS_PER_TOKEN + 2, most) for text in texts], **options)

    async def explain(self, model: str, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[Explanation]:
        """Return which words carried each prediction; the many texts that takes wait among everybody's.

        Raises:
            ServerFault: 429 where enough explanations are under way.
        """
        if self._explanations >= EXPLAINING * 2:
            raise overloaded("Enough explanations are under way; try again later.", 2)
        columns = [_explained(prediction, self.classifiers[model].label_names) for prediction in predictions]
        over = threading.Event()
        self._explanations += 1
        try:
            return await asyncio.wrap_future(self._explaining.submit(self._explain, model, texts, columns, over))
        finally:
            over.set()
            self._explanations -= 1

    def _explain(
        self, model: str, texts: Sequence[str], columns: Sequence[int], over: threading.Event
    ) -> list[Explanation]:
        names = self.classifiers[model].label_names
        latest = time.monotonic() + self.limits.deadline_seconds

        def probabilities(changed: Sequence[str]) -> NDArray[np.float64]:
            if over.is_set() or time.monotonic() > latest:
                raise overloaded(f"No explanation within {self.limits.deadline_seconds:g} s; try again later.", 5)
            found = self.predict(model, list(changed))
            return np.array([[prediction.probabilities[name] for name in names] for prediction in found])

        return explanation.explain(probabilities, texts, names, label=columns)


def _explained(prediction: Prediction, names: Sequence[str]) -> int:
    """Return the column of the label that is explained: the one given, else the most probable."""
    given = prediction.label or max(names, key=lambda name: prediction.probabilities[name])
    return names.index(given)
