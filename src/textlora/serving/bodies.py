"""The body of a request: how large, how slow; and whether anybody still waits for the answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textlora.serving.limits import Limits
from textlora.serving.refusals import ServerFault, overloaded

logger = logging.getLogger(__name__)
# A client that takes no byte of its answer for so long has gone.
SEND_SECONDS = 30.0


# What is left of the body of a refused request is read for so long, and while it keeps coming: a connection that is
# closed with bytes unread takes the answer with it.
DISCARD_SECONDS = 1.0
STILL_SECONDS = 0.2


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Bodies:
    """Reads a body whole before anything else is done for its request.

    So a slow sender costs a few bytes of memory and nothing else, and a request whose client has gone is
    given up wherever it is.

    Args:
        app: gets the whole body.
        limits: of size and time.
        streamed: paths whose bodies the application reads itself, as they come.
    """

    def __init__(self, app: ASGIApp, limits: Limits, *, streamed: Sequence[str] = ()) -> None:
        self._app = app
        self._limits = limits
        self._streamed = tuple(streamed)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in self._streamed:
            steady = _Steady(receive, self._limits.body_seconds)
            await self._app(scope, steady, _Early(_patient(send), steady))
        else:
            await self._whole(scope, receive, _patient(send))

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(self, self._limits)
        try:
            content = await body.read(receive, Headers(scope=scope))
            await _answered(self._app, scope, content, receive, send)
        except (Gone, TimeoutError):
            return
        except ServerFault as fault:
            await refuse(fault, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the answer, status 500, has been sent
            # Where it happened and not the message, which may hold a part of somebody's text.
            logger.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        finally:
            self._held -= body.size

    def hold(self, size: int) -> None:
        """Take note of bytes that have arrived.

        Raises:
            ServerFault: 429 where all requests together hold too many.
        """
        self._held += size
        if self._held > self._limits.buffered_bytes:
            raise overloaded("Too many large requests at once; try again later.", 1)


async def refuse(fault: ServerFault, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose body has not been read, and end the connection."""
    await _discard(receive)
    fault.headers["Connection"] = "close"
    await fault.response()(scope, receive, send)


async def _discard(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            more = True
            while more:
                async with asyncio.timeout(STILL_SECONDS):
                    more = (await receive()).get("more_body", False)


class _Body:
    def __init__(self, bodies: Bodies, limits: Limits) -> None:
        self._bodies = bodies
        self._limits = limits
        self.size = 0

    async def read(self, receive: Receive, headers: Headers) -> bytes:
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._gather(receive)
        except TimeoutError:
            raise ServerFault(
                408, "timeout", f"The body did not arrive within {self._limits.body_seconds:g} s."
            ) from None

    async def _gather(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunk = message.get("body", b"")
            self.size += len(chunk)
            self._bodies.hold(len(chunk))
            if self.size > self._limits.body_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> ServerFault:
        return ServerFault(
            413, "validation", f"A request may have {self._limits.body_bytes:,} bytes; this one has more."
        )


async def _answered(app: ASGIApp, scope: Scope, content: bytes, receive: Receive, send: Send) -> None:
    """Let the application answer, unless its client leaves before."""
    replay = _Replay(content)
    sent = _Watch(send)
    work = asyncio.ensure_future(app(scope, replay, sent))
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not sent.complete:
            work.cancel()
            raise Gone
        await work
    finally:
        replay.end.set()
        gone.cancel()
        work.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Replay:
    """The body once more, and then nothing until the request is over."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self.end = asyncio.Event()

    async def __call__(self) -> Message:
        if self._content is not None:
            content, self._content = self._content, None
            return {"type": "http.request", "body": content, "more_body": False}
        await self.end.wait()
        return {"type": "http.disconnect"}


class _Watch:
    """Passes an answer on and notes when it is complete."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


class _Steady:
    """Passes a body on as it comes, as long as it comes."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self.whole = False

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            raise ServerFault(408, "timeout", f"No byte of the body arrived for {self._seconds:g} s.") from None
        self.whole = not message.get("more_body", False)
        return message


class _Early:
    """Passes an answer on; one that comes before the whole body ends the connection."""

    def __init__(self, send: Send, steady: _Steady) -> None:
        self._send = send
        self._steady = steady

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._steady.whole:
            with contextlib.suppress(ServerFault):
                await _discard(self._steady)
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        await self._send(message)


def _patient(send: Send) -> Send:
    """Return ``send``, which ends when a client does not take its answer."""

    async def limited(message: Message) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await send(message)

    return limited
