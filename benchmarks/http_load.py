"""Clients that load a server, in a process of their own: few instructions a request, so that the server has the cores.

python -m benchmarks.http_load PORT TEXTS.json ANSWERS.jsonl --clients 64 --seconds 60 [--each N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# No answer within it is an error of the server.
PATIENCE = 60.0
LOST = 0


@dataclass(frozen=True)
class Answer:
    """One request and what came back.

    Attributes:
        text: number of the text.
        status: of the answer; 0 where the connection ended without one.
        sent: when, in seconds since the first request.
        seconds: until the answer.
        content: the JSON, of statuses other than 200 as well.
        refused: whether not even a connection was made.
    """

    text: int
    status: int
    sent: float
    seconds: float
    content: Any = None
    refused: bool = False


class Client:
    """One connection, kept open from request to request.

    Args:
        port: of the server on this machine.
        fresh: make a new connection for each request.
    """

    def __init__(self, port: int, *, fresh: bool = False) -> None:
        self._port = port
        self._fresh = fresh
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int, request: bytes, start: float) -> Answer:
        """Send a request and wait for the answer."""
        sent = time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return Answer(number, LOST, sent - start, time.perf_counter() - sent, refused=True)
        try:
            status, content = await asyncio.wait_for(self._exchange(request), PATIENCE)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError, IndexError):
            self.close()
            status, content = LOST, None
        return Answer(number, status, sent - start, time.perf_counter() - sent, content)

    async def _exchange(self, request: bytes) -> tuple[int, Any]:
        assert self._streams
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        lines = head.split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        if self._fresh or b"connection: close" in lines:
            self.close()
        return int(lines[0].split()[1]), json.loads(body)

    def close(self) -> None:
        """End the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


def request(text: str, **more: Any) -> bytes:
    """Return the bytes of a ``POST /predict`` for one text."""
    body = json.dumps({"inputs": text, **more}).encode()
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + f"{len(body)}\r\n\r\n".encode() + body


async def load(
    port: int, texts: Sequence[str], *, clients: int, seconds: float, fresh: bool = False, most: int | None = None
) -> list[Answer]:
    """Let clients ask one text after the other, each as soon as it has its last answer.

    Args:
        port: of the server.
        texts: asked in turn, from the start again when all were.
        clients: at once.
        seconds: after which no further request is sent.
        fresh: a new connection for each request.
        most: requests in all.
    """
    requests = [request(text) for text in texts]
    start = time.perf_counter()
    answers: list[Answer] = []

    def numbers() -> Iterator[int]:
        count = 0
        while time.perf_counter() - start < seconds and (most is None or count < most):
            yield count % len(texts)
            count += 1

    shared = numbers()

    async def work() -> None:
        client = Client(port, fresh=fresh)
        for number in shared:
            answer = await client.ask(number, requests[number], start)
            answers.append(answer)
            if answer.refused:
                break
        client.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return answers


def main() -> None:
    """Load the server and write the answers, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("texts", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--most", type=int, help="requests in all")
    given = parser.parse_args()
    texts = json.loads(given.texts.read_text(encoding="utf-8"))
    found = asyncio.run(load(given.port, texts, clients=given.clients, seconds=given.seconds, most=given.most))
    given.answers.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in found), encoding="utf-8")


if __name__ == "__main__":
    main()
