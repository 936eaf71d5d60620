"""The application: routes, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from textlora import __version__
from textlora.serving import docs_page, inference_routes, page, predict_routes, status_routes
from textlora.serving.refusals import ServerFault
from textlora.serving.service import Service

KINDS = {404: "not_found", 405: "not_found", 413: "validation"}
SHOWN_PROBLEMS = 5


def create_app(service: Service) -> FastAPI:
    """Return the application over a service, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="textlora", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        exception_handlers={
            ServerFault: _fault, RequestValidationError: _invalid, HTTPException: _http_error, Exception: _bug,
        },
    )  # fmt: skip
    app.include_router(predict_routes.router(service))
    app.include_router(inference_routes.router(service))
    app.include_router(status_routes.router(service))
    app.include_router(page.router(service))
    app.include_router(docs_page.router(app))
    return app


async def _fault(_: Request, error: Exception) -> Response:
    return cast("ServerFault", error).response()


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer a body of the wrong form: where it is wrong and what was expected, nothing of what it holds."""
    found = cast("RequestValidationError", error).errors()
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:SHOWN_PROBLEMS]]
    more = f"; and {len(found) - SHOWN_PROBLEMS} more" if len(found) > SHOWN_PROBLEMS else ""
    return ServerFault(422, "validation", "; ".join(problems) + more).response()


async def _http_error(_: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    kind = KINDS.get(found.status_code, "validation")
    return ServerFault(found.status_code, kind, str(found.detail), headers=found.headers).response()


async def _bug(_: Request, error: Exception) -> Response:
    return ServerFault(500, "backend", f"This is a bug of textlora: {type(error).__name__}.").response()
