"""Connections: how many, how slow; and how they end when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


def _last_words(status: str, kind: str, message: str, *headers: str) -> bytes:
    """Return an answer that ends a connection before there is a request to answer."""
    body = json.dumps({"error": message, "error_type": kind})
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, "", body]).encode("ascii")


FULL = _last_words(
    "429 Too Many Requests", "overloaded", "Too many connections are open; try again later.", "Retry-After: 1"
)
LATE = _last_words("408 Request Timeout", "timeout", "The head of the request did not arrive in time.")
# A request that is on its way when the server is told to stop has so long to arrive.
LINGER = 0.5


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with two limits that it lacks; see ``protocol``."""

    most = 1_000
    head_seconds = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or tell one too many to come back."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what arrives; from the first byte of a request on its head is waited for."""
        if self.transport.is_closing():
            return
        if self._late is None and self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(self.head_seconds, self._cut)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cut(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(LATE)
            self.transport.close()


def protocol(*, connections: int, head_seconds: float) -> type[LimitedProtocol]:
    """Return the protocol with its limits.

    Args:
        connections: open at once; one more is told to come back.
        head_seconds: in which the head of a request must arrive, from the connection or its first byte on.
    """
    return type("Limited", (LimitedProtocol,), {"most": connections, "head_seconds": head_seconds})


class Server(uvicorn.Server):
    """Uvicorn, but that it answers what is on its way when it is told to stop, and then leaves in peace.

    Args:
        config: of uvicorn.
        on_start: called with the server when it listens.
        on_stop: called at once when it is told to stop.
    """

    def __init__(
        self, config: uvicorn.Config, *, on_start: Callable[[Server], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_stop = on_stop

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """The address as a browser takes it."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Tell it to stop, from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            self._on_start(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, answer what the open ones still send, close them."""
        self._on_stop()
        # The system makes connections by itself; those that nobody has taken over would be cut off.
        waiting = [connection for each in sockets or () for connection in _waiting(each)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await asyncio.sleep(LINGER)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        # As uvicorn makes one for each connection.
        made: Any = self.config.http_protocol_class
        found: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return found

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM, which for a server is the usual end and no error."""
        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # only the main thread gets signals
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _waiting(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that the system has made for a socket and nobody has taken over."""
    with contextlib.suppress(OSError):  # there is no other, or the process may not open more files
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            yield connection
