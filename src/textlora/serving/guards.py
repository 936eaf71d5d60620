"""Who is answered: host names, web pages of others, the API key. Before any byte of a body is read."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from textlora.serving.bodies import refuse
from textlora.serving.options import Access
from textlora.serving.refusals import ServerFault

# What a load balancer and a browser ask for before anybody could give them a key.
OPEN = ("/", "/health", "/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json", "/favicon.ico")
# A ticket for a report is its own key.
OPEN_FOLDERS = ("/static/", "/opened/")
READING = ("GET", "HEAD", "OPTIONS")

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses what does not come from where it should.

    Args:
        app: what is guarded.
        access: whom to answer.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            try:
                self._check(scope["path"], scope["method"], Headers(scope=scope))
            except ServerFault as fault:
                await refuse(fault, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, method: str, headers: Headers) -> None:
        self._check_host(headers)
        self._check_origin(method, headers)
        if self._access.api_key and path not in OPEN and not path.startswith(OPEN_FOLDERS):
            self._check_key(headers)

    def _check_host(self, headers: Headers) -> None:
        name = _host_name(headers.get("host", ""))
        if self._access.hosts and name not in self._access.hosts:
            raise ServerFault(
                400, "validation",
                f"This server is not called by that name; it answers to {', '.join(self._access.hosts)}. "
                "--allowed-host adds a name.",
            )  # fmt: skip

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse what a web page of somebody else makes a browser send; browsers say where they come from."""
        if method in READING:
            return
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ServerFault(403, "forbidden", "Another web page sent this. Only this server's own page may.")

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._access.api_key or b"")
        if scheme.lower() != "bearer" or not right:
            raise ServerFault(
                401, "unauthorized", "This server wants an API key: Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _host_name(host: str) -> str:
    """Return a ``Host`` header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
