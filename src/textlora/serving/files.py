"""Routes of file jobs: upload, progress, result, removal."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from textlora.serving.jobs import Job, Jobs
from textlora.serving.refusals import REFUSALS, ServerFault, json_response
from textlora.serving.service import Service
from textlora.serving.spreadsheet import spreadsheet_csv

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
UPLOAD_SECONDS = 900.0
"""Seconds in which an upload must arrive, however steadily it comes."""
SWEEP = 30.0
"""Seconds between looks for what is past its time."""
_LONGEST_NAME = 80
"""Bytes of a name and of its suffix; file systems take 255, and what is written beside the file adds to it."""
_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}


Name = Annotated[str, Query(max_length=1_000, description="Name of the file, with its suffix.")]
ModelName = Annotated[str | None, Query(max_length=1_000, description="Needed where several models are served.")]
Column = Annotated[str | None, Query(max_length=1_000, description="Text column; found if not given.")]
Spreadsheet = Annotated[bool, Query(description="As spreadsheets want it: no cell runs as a formula.")]


def router(service: Service, jobs: Jobs) -> APIRouter:
    """Return the routes of file jobs; when the server stops, the jobs are closed."""

    @contextlib.asynccontextmanager
    async def sweeping(_app: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(jobs))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.to_thread(jobs.close)

    found = APIRouter(prefix="/files", tags=["files"], lifespan=sweeping)

    @found.post("", status_code=202, response_class=Response, openapi_extra=_BODY, responses=REFUSALS)
    async def upload(request: Request, name: Name, model: ModelName = None, text: Column = None) -> Response:
        """Score a CSV, TSV, JSON lines or Parquet file. Its bytes are the body of the request."""
        chosen = service.model(model)
        safe = safe_name(name)
        _check(request, safe, service.limits.file_bytes)
        job = jobs.open(safe, model=chosen, text=text or None)
        await _receive(request, jobs, job, service.limits.file_bytes)
        jobs.start(job)
        return json_response(job.told(), 202, {"Location": f"/files/{job.id}"})

    @found.get("/{identity}", response_class=Response)
    async def progress(identity: str) -> Response:
        """Tell how far a file is."""
        return json_response(_known(jobs, identity).told(), headers={"Cache-Control": "no-store"})

    @found.get("/{identity}/result", response_class=Response)
    async def result(identity: str, spreadsheet: Spreadsheet = False) -> Response:
        """Download the scored file."""
        job = _known(jobs, identity)
        if job.state != "done":
            told = f"{job.name} is not scored: its state is {job.state!r}. {job.message}".strip()
            raise ServerFault(409, "validation", told)
        return _download(jobs, job, spreadsheet=spreadsheet)

    @found.delete("/{identity}", status_code=204, response_class=Response)
    async def remove(identity: str) -> Response:
        """Stop a job and delete its files."""
        await asyncio.to_thread(jobs.remove, _known(jobs, identity))
        return Response(status_code=204)

    return found


async def _sweep(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        await asyncio.to_thread(jobs.sweep)


def _known(jobs: Jobs, identity: str) -> Job:
    job = jobs.get(identity)
    if job is None:
        raise ServerFault(404, "not_found", "There is no such file here. Files are removed soon after their download.")
    return job


def _check(request: Request, name: str, limit: int) -> None:
    """Refuse an upload that can be seen to be none of ours before its bytes are read."""
    if Path(name).suffix.lower() not in SUFFIXES:
        raise ServerFault(
            415, "validation", f"{name} is of a kind that is not read here; expected one of {' '.join(SUFFIXES)}."
        )
    if "multipart/" in request.headers.get("content-type", ""):
        raise ServerFault(
            415, "validation", "The upload is a form; expected the file's bytes as the body: curl --data-binary @FILE."
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


async def _receive(request: Request, jobs: Jobs, job: Job, limit: int) -> None:
    """Write the body to disk as it comes; if it does not come whole, the job is gone."""
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            await _write(request, job, limit)
    except ClientDisconnect as error:
        jobs.remove(job)
        raise ServerFault(400, "validation", "The upload broke off.") from error
    except TimeoutError as error:
        jobs.remove(job)
        raise ServerFault(408, "timeout", f"The upload did not arrive within {UPLOAD_SECONDS:g} s.") from error
    except OSError as error:
        jobs.remove(job)
        raise ServerFault(507, "backend", f"The upload cannot be stored: {error.strerror}.") from error
    except BaseException:
        jobs.remove(job)
        raise


async def _write(request: Request, job: Job, limit: int) -> None:
    received = 0
    with job.source.open("wb") as file:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise _too_large(limit)
            await asyncio.to_thread(file.write, chunk)


def _too_large(limit: int) -> ServerFault:
    return ServerFault(
        413,
        "validation",
        f"A file may have {limit / 1e6:,.0f} MB here; this one has more. `textlora predict` scores files of any size.",
        headers={"Connection": "close"},
    )


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


def safe_name(name: str) -> str:
    """Return a file's name without folders and without characters that mean something to a file system."""
    base = re.sub(r"[^\w.()\- ]", "_", PureWindowsPath(name).name).lstrip(".") or "file"
    stem, dot, suffix = base.rpartition(".")
    return f"{_shortened(stem)}.{_shortened(suffix)}" if dot else _shortened(base)


def _shortened(name: str) -> str:
    return name.encode("utf-8", "replace")[:_LONGEST_NAME].decode("utf-8", "ignore")
