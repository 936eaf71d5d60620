"""Routes of file jobs: upload, progress, result, removal."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from textlora.errors import did_you_mean
from textlora.serving.jobs import Job, Jobs, TooManyJobs
from textlora.serving.spreadsheet import spreadsheet_csv

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LIMIT = 200 * 10**6
"""Bytes of an upload."""
SWEEP = 30.0
"""Seconds between looks for what is past its time."""
_LONGEST_NAME = 100


def router(jobs: Jobs, models: tuple[str, ...], *, limit: int = LIMIT) -> APIRouter:
    """Return the routes of file jobs.

    Args:
        jobs: where they are kept; closed when the server stops.
        models: names, the first one for uploads that name none.
        limit: bytes of an upload.
    """

    @contextlib.asynccontextmanager
    async def sweeping(_app: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(jobs))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.to_thread(jobs.close)

    found = APIRouter(prefix="/files", tags=["files"], lifespan=sweeping)

    @found.post("", status_code=202, max_body_size=limit, response_model=None)
    async def upload(
        request: Request,
        name: Annotated[str, Query(max_length=1_000, description="name of the file, with its suffix")],
        model: Annotated[str | None, Query(max_length=1_000)] = None,
        text: Annotated[str | None, Query(max_length=1_000, description="text column; found if not given")] = None,
    ) -> Response:
        """Score a CSV, TSV, JSON lines or Parquet file. Its bytes are the body of the request."""
        chosen = models[0] if model is None else model
        problem = _refusal(request, name, chosen, models, limit)
        if problem is not None:
            return problem
        try:
            job = jobs.open(_safe_name(name), model=chosen, text=text or None)
        except TooManyJobs as error:
            return _error(429, "Overloaded", str(error), headers={"Retry-After": "10"})
        return await _receive(request, jobs, job, limit)

    @found.get("/{identity}", response_model=None)
    async def progress(identity: str) -> Response:
        """Tell how far a file is."""
        job = jobs.get(identity)
        return JSONResponse(job.told(), headers={"Cache-Control": "no-store"}) if job else _unknown()

    @found.get("/{identity}/result", response_model=None)
    async def result(
        identity: str,
        spreadsheet: Annotated[bool, Query(description="safe and readable in Excel: no cell runs as a formula")] = False,
    ) -> Response:
        """Download the scored file."""
        job = jobs.get(identity)
        if job is None:
            return _unknown()
        if job.state != "done":
            return _error(409, "NotReady", f"{job.name} is not scored: its state is {job.state}. {job.message}".strip())
        return _download(jobs, job, spreadsheet=spreadsheet)

    @found.delete("/{identity}", response_model=None)
    async def remove(identity: str) -> Response:
        """Stop a job and delete its files."""
        job = jobs.get(identity)
        if job is None:
            return _unknown()
        await asyncio.to_thread(jobs.remove, job)
        return Response(status_code=204)

    return found


async def _sweep(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        await asyncio.to_thread(jobs.sweep)


def _refusal(request: Request, name: str, model: str, models: tuple[str, ...], limit: int) -> Response | None:
    """Return the answer to an upload that is refused before its bytes are read."""
    if not _same_origin(request):
        return _error(403, "Forbidden", "Another web page sent this upload. Only this server's own page may.")
    if model not in models:
        return _error(
            404,
            "NotFound",
            f"There is no model {model!r}.{did_you_mean(model, models)} Models: {', '.join(models)}.",
        )
    if Path(_safe_name(name)).suffix.lower() not in SUFFIXES:
        return _error(415, "Validation", f"{name} is not a file of a known kind; expected one of {' '.join(SUFFIXES)}.")
    if "multipart/" in request.headers.get("content-type", ""):
        return _error(
            415,
            "Validation",
            "The upload is a form; expected the file's bytes as the body (curl: --data-binary @reviews.csv).",
        )
    length = request.headers.get("content-length", "")
    return _too_large(limit) if length.isdecimal() and int(length) > limit else None


def _same_origin(request: Request) -> bool:
    """Return False where a browser says that a page of another site sent this; uploads need no permission otherwise."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


async def _receive(request: Request, jobs: Jobs, job: Job, limit: int) -> Response:
    """Write the body to disk as it comes, and start the job."""
    received = 0
    try:
        with job.source.open("wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > limit:
                    jobs.remove(job)
                    return _too_large(limit)
                await asyncio.to_thread(file.write, chunk)
    except ClientDisconnect:
        jobs.remove(job)
        return Response(status_code=400)
    except OSError as error:
        jobs.remove(job)
        return _error(507, "Storage", f"The upload cannot be stored: {error.strerror}.")
    except BaseException:
        jobs.remove(job)
        raise
    jobs.start(job)
    return JSONResponse(job.told(), status_code=202, headers={"Location": f"/files/{job.id}"})


def _download(jobs: Jobs, job: Job, *, spreadsheet: bool) -> Response:
    told = BackgroundTask(jobs.downloaded, job)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if not spreadsheet:
        return FileResponse(
            job.result, media_type="text/csv", filename=job.result_name, headers=headers, background=told
        )
    name = f"{Path(job.name).stem}.scored.excel.csv"
    headers["Content-Disposition"] = f"attachment; filename*=utf-8''{quote(name)}"
    return StreamingResponse(
        spreadsheet_csv(job.result), media_type="text/csv; charset=utf-8", headers=headers, background=told
    )


def _safe_name(name: str) -> str:
    """Return a file's name without folders and without characters that mean something to a file system."""
    base = re.sub(r"[^\w.()\- ]", "_", PureWindowsPath(name).name).lstrip(".") or "file"
    stem, dot, suffix = base.rpartition(".")
    return f"{stem[:_LONGEST_NAME]}{dot}{suffix[:10]}" if dot else base[:_LONGEST_NAME]


def _unknown() -> Response:
    return _error(404, "NotFound", "There is no such file here. Files are removed soon after their download.")


def _too_large(limit: int) -> Response:
    return _error(
        413,
        "Validation",
        f"The file is larger than {limit / 1e6:,.0f} MB, which is the most here. "
        "For larger ones use `textlora predict RUN FILE --out SCORED`.",
    )


def _error(status: int, kind: str, message: str, *, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message, "error_type": kind}, status_code=status, headers=headers)
