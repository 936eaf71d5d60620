"""``/docs``: the addresses and what they take, from the OpenAPI description; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, Response

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}: addresses</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }}
code {{ font-size: .95em; }} summary {{ cursor: pointer; }} pre {{ overflow-x: auto; }}
section {{ border-top: 1px solid #8888; }} h2 {{ font-size: 1.1rem; }}
</style></head><body><main><h1>{title} {version}</h1>
<p>The whole description for tools: <a href="openapi.json">openapi.json</a>.</p>
{sections}</main></body></html>
"""


def router(app: FastAPI) -> APIRouter:
    """Return the route to the page about the application's other routes."""
    found = APIRouter()

    @cache
    def page() -> str:
        description = app.openapi()
        sections = "".join(_sections(description))
        return PAGE.format(sections=sections, **{key: escape(description["info"][key]) for key in ("title", "version")})

    @found.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(), headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    return found


def _sections(description: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield (
                f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
                f"<p>{escape(operation.get('description', ''))}</p>{_body(operation, description)}</section>\n"
            )


def _body(operation: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if not content:
        return ""
    schema = content["schema"]
    if name := schema.get("$ref", "").rpartition("/")[2]:
        schema = description["components"]["schemas"][name]
    return f"<details><summary>Body</summary><pre>{escape(json.dumps(schema, indent=2))}</pre></details>"
