"""The web page at ``/``, and the reports of the models."""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from textlora import storage
from textlora.serving import files
from textlora.serving.jobs import Jobs
from textlora.serving.refusals import ServerFault, json_response
from textlora.serving.service import Service

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


TICKET_SECONDS = 60.0
"""How long a report can be opened with a ticket."""


def router(service: Service) -> APIRouter:
    """Return the routes of page, reports and file jobs."""
    found = APIRouter()
    static = {path.name: _Static(path) for path in STATIC.iterdir() if path.suffix in KINDS}
    tickets = Tickets()

    @found.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return static["index.html"].answer(request)

    @found.get("/static/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        if name not in static:
            raise ServerFault(404, "not_found", "The page has no such file.")
        return static[name].answer(request)

    @found.get("/report/{model}", response_class=Response, tags=["status"])
    def report(model: str) -> Response:
        """Return the report of a model, as ``textlora report`` wrote it."""
        return _report(service, service.model(model))

    @found.post("/report/{model}", status_code=201, response_class=Response, include_in_schema=False)
    async def ticket(model: str) -> Response:
        return json_response({"url": f"opened/{tickets.issue(service.model(model))}"}, 201)

    @found.get("/opened/{ticket}", include_in_schema=False)
    def opened(ticket: str) -> Response:
        return _report(service, tickets.redeem(ticket))

    found.include_router(files.router(service, Jobs(service.classifiers, service.predict)))
    return found


class Tickets:
    """What opens a report once, where the server asks for a key: a link, unlike a request, cannot carry one."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[str, float]] = {}

    def issue(self, model: str) -> str:
        """Return a ticket for the report of a model."""
        now = time.monotonic()
        self._models = {key: (name, until) for key, (name, until) in self._models.items() if until > now}
        key = secrets.token_urlsafe(16)
        self._models[key] = (model, now + TICKET_SECONDS)
        return key

    def redeem(self, ticket: str) -> str:
        """Return the model of a ticket, which is then used up.

        Raises:
            ServerFault: 404, there is no such ticket any more.
        """
        model, until = self._models.pop(ticket, ("", 0.0))
        if until <= time.monotonic():
            raise ServerFault(
                404,
                "not_found",
                "This address was good for one minute and one use. Open the report from the page again.",
            )
        return model


class _Static:
    """A file of the page, with what a browser needs to ask whether it has changed."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._kind = KINDS[path.suffix]
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        headers = {
            "ETag": self._tag,
            "Cache-Control": "no-cache",
            "Cross-Origin-Opener-Policy": "same-origin",
            **_guards(PAGE_POLICY),
        }
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._body, media_type=self._kind, headers=headers)


def _report(service: Service, model: str) -> Response:
    folder = service.folders[model]
    path = report_file(folder)
    if not path.is_file():
        raise ServerFault(
            404, "not_found", f"{model} has no report. `textlora report {folder.name}` writes one into the run folder."
        )
    headers = {"Cache-Control": "no-cache", **_guards(REPORT_POLICY)}
    return Response(path.read_bytes(), media_type=KINDS[".html"], headers=headers)


def report_file(folder: Path) -> Path:
    """Return where the report of a run folder would be; ``folder`` may also be its ``adapter``."""
    return (folder.parent if folder.name == storage.ADAPTER else folder) / storage.REPORT_HTML


def _guards(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
