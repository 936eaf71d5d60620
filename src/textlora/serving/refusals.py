"""Answers to requests that are not served, in the form of text-embeddings-inference.

{"error": "what was found and what was expected", "error_type": "validation"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response


class Refusal(BaseModel):
    """Why a request is not served."""

    error: str
    error_type: str


# For the description of addresses that classify.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": why}
    for status, why in {
        404: "no such model",
        408: "the request did not arrive in time",
        413: "too many bytes, texts, characters or tokens",
        422: "not of the expected form",
        429: "overload; come back after the seconds in Retry-After",
    }.items()
}


class ServerFault(Exception):
    """A request is refused, or could not be answered.

    Args:
        status: of the answer.
        kind: ``validation``, ``tokenizer``, ``overloaded``, ``not_found``, ``unauthorized``, ``forbidden``,
            ``timeout`` or ``backend``.
        message: what was found, what was expected; without any text of the user.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer."""
        return json_response({"error": self.message, "error_type": self.kind}, self.status, self.headers)


def overloaded(message: str, seconds: float) -> ServerFault:
    """Return what a request gets that there is no room for; it may come back after ``seconds``."""
    return ServerFault(429, "overloaded", message, headers={"Retry-After": str(max(1, round(seconds)))})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in plain ASCII: half a character, which a request may hold, cannot be written otherwise."""
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Response(body, status_code=status, headers=dict(headers or {}), media_type="application/json")
