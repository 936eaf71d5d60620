"""The web page at ``/``, and the reports of the models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from textlora import storage
from textlora.serving import files
from textlora.serving.jobs import Jobs
from textlora.types import Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

STATIC = Path(__file__).with_name("static")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
"""Nothing but the page's own files; and no text of a user can become markup, even by a mistake of ours."""
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""A report comes from a run folder, which somebody else may have written: it gets no script and no origin."""


class Service(Protocol):
    """What the page needs of a server.

    Attributes:
        classifiers: by the name of the model.
        folders: where each was loaded from.
    """

    classifiers: Mapping[str, Classifier]
    folders: Mapping[str, Path]

    def predict(self, model: str, texts: list[str]) -> list[Prediction]:
        """Predict texts beside everybody's, from any thread; wait for the answer."""
        ...


def router(service: Service) -> APIRouter:
    """Return the routes of page, reports and file jobs."""
    found = APIRouter()
    static = {path.name: _Static(path) for path in STATIC.iterdir() if path.suffix in KINDS}

    @found.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return static["index.html"].answer(request)

    @found.get("/static/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return static[name].answer(request) if name in static else _missing(f"There is no file {name!r} here.")

    @found.get("/report/{model:path}", response_model=None)
    def report(model: str) -> Response:
        """Return the report of a model, as ``textlora report`` wrote it."""
        return _report(service.folders, model)

    jobs = Jobs(dict(service.classifiers), service.predict)
    found.include_router(files.router(jobs, tuple(service.classifiers)))
    return found


def report_file(folder: Path) -> Path:
    """Return where the report of a run folder is, if it has one; ``folder`` may also be its ``adapter``."""
    inside = folder.name == storage.ADAPTER and not (folder / storage.REPORT_HTML).exists()
    return (folder.parent if inside else folder) / storage.REPORT_HTML


class _Static:
    """A file of the page, with what a browser needs to ask whether it has changed."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._kind = KINDS[path.suffix]
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        headers = {"ETag": self._tag, "Cache-Control": "no-cache", **_guards(PAGE_POLICY)}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._body, media_type=self._kind, headers=headers)


def _report(folders: Mapping[str, Path], model: str) -> Response:
    if model not in folders:
        return _missing(f"There is no model {model!r}. Models: {', '.join(folders)}.")
    path = report_file(folders[model])
    if not path.is_file():
        return _missing(f"{model} has no report. `textlora report {folders[model].name}` writes one into the run folder.")
    return Response(path.read_bytes(), media_type=KINDS[".html"], headers={"Cache-Control": "no-cache", **_guards(REPORT_POLICY)})


def _guards(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


def _missing(message: str) -> Response:
    return JSONResponse({"error": message, "error_type": "NotFound"}, status_code=404)
