"""What the server counts, for Prometheus; a registry of its own for each server."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KIND = "text/plain; version=0.0.4; charset=utf-8"
CLOSE = (b"connection", b"close")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# The rest of an address may hold anything.
ROUTES = (
    "/predict",
    "/info",
    "/health",
    "/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2",
    "/files",
    "/report",
    "/static",
)


class Metrics:
    """The figures of a server.

    Args:
        waiting: returns the texts that wait, and their tokens.
    """

    def __init__(self, waiting: Callable[[], tuple[int, int]]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        to = self.registry
        self.requests = Counter("textlora_requests", "Requests answered.", ["route", "status"], registry=to)
        self.seconds = Histogram(
            "textlora_request_seconds", "From head to answer.", ["route"], buckets=SECONDS, registry=to
        )
        self.texts = Counter("textlora_texts", "Texts classified.", ["model"], registry=to)
        self.tokens = Counter("textlora_tokens", "Tokens computed, about.", ["model"], registry=to)
        self.batch_texts = Histogram("textlora_batch_texts", "Texts of a batch.", buckets=BATCHES, registry=to)
        self.batch_seconds = Histogram("textlora_batch_seconds", "Seconds of a batch.", buckets=SECONDS, registry=to)
        texts, tokens = (
            Gauge("textlora_waiting_texts", "Texts that wait.", registry=to),
            Gauge("textlora_waiting_tokens", "Tokens that wait, about.", registry=to),
        )
        texts.set_function(lambda: waiting()[0])
        tokens.set_function(lambda: waiting()[1])

    def batch(self, model: str, texts: int, tokens: int, seconds: float) -> None:
        """Count a batch."""
        self.texts.labels(model).inc(texts)
        self.tokens.labels(model).inc(tokens)
        self.batch_texts.observe(texts)
        self.batch_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Counted:
    """Counts the requests of an application, and tells clients of a server that stops to go elsewhere.

    Args:
        app: what is counted.
        metrics: where to.
        stopping: whether the server stops.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, stopping: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, route = time.perf_counter(), _route(scope["path"])

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, str(message["status"])).inc()
                if self._stopping():
                    message = {**message, "headers": [*message.get("headers", []), CLOSE]}
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)


def _route(path: str) -> str:
    first = "/" + path.lstrip("/").partition("/")[0]
    return first if first in ROUTES or path == "/" else "other"
