"""Whether the server lives, and what it serves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from textlora import __version__, storage
from textlora.serving.metrics import KIND
from textlora.serving.refusals import ServerFault, json_response
from textlora.serving.service import Service


def router(service: Service) -> APIRouter:
    """Return the routes."""
    found = APIRouter(tags=["status"])

    @found.get("/health", response_class=Response)
    async def health() -> Response:
        """Tell whether the server lives."""
        if not service.worker.alive:
            raise ServerFault(503, "unhealthy", "The thread that computes has ended.")
        return json_response({"status": "ok"})

    @found.get("/ready", response_class=Response)
    async def ready() -> Response:
        """Tell whether requests are answered; not while the server stops."""
        if not service.ready:
            raise ServerFault(503, "unhealthy", "The server is stopping.")
        return json_response({"status": "ready"})

    @found.get("/info", response_class=Response)
    async def info() -> Response:
        """Tell which models are served, and within which limits."""
        return json_response(
            {
                "models": [_told(service, name) for name in service.classifiers],
                "version": __version__,
                "limits": service.limits.model_dump(),
            }
        )

    @found.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return the server's figures for Prometheus."""
        return Response(service.metrics.exposition(), media_type=KIND)

    return found


def _told(service: Service, name: str) -> dict[str, Any]:
    classifier, folder = service.classifiers[name], service.folders[name]
    bundle = classifier.bundle
    run = folder.parent if folder.name == storage.ADAPTER else folder
    return {
        "name": name,
        "labels": list(classifier.label_names),
        "task": bundle.task,
        "max_length": classifier.whole_length,
        "abstains": bundle.abstention is not None,
        "thresholds": list(bundle.thresholds),
        "decision": bundle.decision and {"label": bundle.decision.positive, "threshold": bundle.decision.threshold},
        "report": (run / storage.REPORT_HTML).is_file(),
        "text_column": bundle.text_column,
        "base_model": bundle.base_model if bundle.revision != "local" else "local",
    }
