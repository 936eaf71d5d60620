"""The texts that wait: bounded, fair between requests, handed out in batches of one model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from textlora.serving.refusals import ServerFault, overloaded

# Weight of the newest batch in the measured speed.
NEWEST = 0.2


@dataclass(eq=False, slots=True)
class Task:
    """The texts of one request.

    Attributes:
        model: name of the model.
        texts: to be classified.
        tokens: of each text, about.
        raw: whether logits are asked for instead of predictions.
        deadline: on the clock of ``time.monotonic``, or None; work inside the house has none and is never refused.
        answers: one for each text, in the end.
        future: gets the answers.
    """

    model: str
    texts: Sequence[str]
    tokens: Sequence[int]
    raw: bool = False
    deadline: float | None = None
    answers: list[Any] = field(default_factory=list)
    future: Future[list[Any]] = field(default_factory=Future)
    taken: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.texts)
        self.missing = len(self.texts)

    @property
    def kind(self) -> tuple[str, bool]:
        """What texts must share to be computed together."""
        return self.model, self.raw

    @property
    def waiting_texts(self) -> int:
        """Texts that are not under way yet."""
        return len(self.texts) - self.taken

    @property
    def waiting_tokens(self) -> int:
        """Their tokens."""
        return sum(self.tokens[self.taken :])

    def answer(self, place: int, value: Any) -> None:
        """Take the answer on one text; the last one makes the request complete."""
        self.answers[place] = value
        self.missing -= 1
        if not self.missing:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more, or too late
                self.future.set_result(self.answers)

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one model that are computed together."""

    model: str
    raw: bool
    places: tuple[tuple[Task, int], ...]
    tokens: int

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [task.texts[place] for task, place in self.places]

    @property
    def tasks(self) -> list[Task]:
        """The requests that they belong to, each once."""
        return list(dict.fromkeys(task for task, _ in self.places))


class Queue:
    """Requests in the order of their arrival, of which each batch takes a text in turn.

    So a single text waits for the next batch alone, whatever is behind or before it.

    Args:
        texts: that may wait at once; one request alone may have more.
        deadline: seconds from a request to its answer; a request that would take longer is refused at once.
    """

    def __init__(self, *, texts: int, deadline: float) -> None:
        self._most_texts = texts
        self._deadline = deadline
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._speed: float | None = None

    @property
    def texts(self) -> int:
        """Texts that wait."""
        with self._changed:
            return sum(task.waiting_texts for task in self._tasks)

    @property
    def tokens(self) -> int:
        """Their tokens, about."""
        with self._changed:
            return sum(task.waiting_tokens for task in self._tasks)

    def put(self, task: Task) -> None:
        """Let a request wait for its turn.

        Raises:
            ServerFault: 429 where there is no room, 503 once the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise ServerFault(503, "unhealthy", "The server is stopping.", headers={"Retry-After": "5"})
            if task.deadline is not None:
                self._check_room(task)
            self._tasks.append(task)
            self._changed.notify()

    def _check_room(self, task: Task) -> None:
        before = [other for other in self._tasks if other.deadline is not None]
        texts = sum(other.waiting_texts for other in before)
        if not texts:
            return
        tokens = sum(other.waiting_tokens for other in before)
        seconds = self._seconds(tokens)
        if texts + len(task.texts) > self._most_texts:
            raise overloaded(f"{texts} texts are waiting, {self._most_texts} at most; try again later.", seconds)
        if self._seconds(tokens + sum(task.tokens)) > self._deadline:
            raise overloaded(f"{texts} texts are waiting for about {seconds:.0f} s; try again later.", seconds)

    def _seconds(self, tokens: int) -> float:
        return tokens / self._speed if self._speed else 0.0

    def take(self, budget: int) -> Batch | None:
        """Wait for texts and return those to be computed next; None when the queue is closed and empty.

        Args:
            budget: tokens of a batch; a longer text gets one of its own.
        """
        with self._changed:
            while True:
                self._drop()
                if self._tasks:
                    return self._fill(budget)
                if self._closed:
                    return None
                self._changed.wait()

    def _drop(self) -> None:
        """Forget requests that nobody waits for any more, and end those that are too late."""
        now = time.monotonic()
        for task in [task for task in self._tasks if task.future.done() or (task.deadline or now) < now]:
            self._tasks.remove(task)
            seconds = self._seconds(sum(other.waiting_tokens for other in self._tasks))
            task.fail(overloaded(f"No answer within {self._deadline:g} s; try again later.", seconds))

    def _fill(self, budget: int) -> Batch:
        kind = self._tasks[0].kind
        turn = [task for task in self._tasks if task.kind == kind]
        places: list[tuple[Task, int]] = []
        tokens = 0
        while turn:
            for task in list(turn):
                size = task.tokens[task.taken]
                if places and tokens + size > budget:
                    turn.clear()
                    break
                places.append((task, task.taken))
                task.taken += 1
                tokens += size
                if not task.waiting_texts:
                    turn.remove(task)
        self._rotate({task for task, _ in places})
        return Batch(*kind, tuple(places), tokens)

    def _rotate(self, served: set[Task]) -> None:
        """Put requests that had their turn behind the others, and forget those with no text left."""
        rest = [task for task in self._tasks if task in served and task.waiting_texts]
        self._tasks = deque([*(task for task in self._tasks if task not in served), *rest])

    def measured(self, tokens: int, seconds: float) -> None:
        """Take note of how fast a batch was."""
        speed = tokens / max(seconds, 1e-6)
        with self._changed:
            self._speed = speed if self._speed is None else (1 - NEWEST) * self._speed + NEWEST * speed

    def close(self) -> None:
        """Take no further request; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
