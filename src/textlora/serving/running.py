"""serve(): from run folders to a listening server, and to its end."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from textlora.engines.onnx_engine import threads
from textlora.errors import ResourceError, UsageError
from textlora.serving import loading
from textlora.serving.app import create_app
from textlora.serving.bodies import Bodies
from textlora.serving.connections import Server, protocol
from textlora.serving.guards import Guard
from textlora.serving.limits import Limits
from textlora.serving.metrics import Counted
from textlora.serving.options import Access
from textlora.serving.service import Service

if TYPE_CHECKING:
    from textlora.classifier import Classifier

# Files that the process needs besides its connections.
OTHER_FILES = 64
STREAMED = ("/files",)


def application(service: Service, access: Access) -> ASGIApp:
    """Return the whole application: guards, limits, routes."""
    inner = Bodies(create_app(service), service.limits, streamed=STREAMED)
    return Counted(Guard(inner, access), service.metrics, lambda: service.stopping)


def service_over(
    folders: Mapping[str, Path], limits: Limits, *, device: str | None = None, progress: loading.Progress | None = None
) -> Service:
    """Load the classifiers and return what serves them."""
    classifiers = loading.load(folders, device=device, progress=progress)
    return Service(classifiers, folders, limits, budget=min(map(usual_budget, classifiers.values())))


def usual_budget(classifier: Classifier) -> int:
    """Return the tokens that a device computes together: a micro-batch for each core, or one on a GPU."""
    on_processor = classifier.device == "cpu"
    return classifier.budget.tokens * (threads() if on_processor else 1)


def serve(service: Service, access: Access, *, on_start: Callable[[Server], None] = lambda _: None) -> None:
    """Listen until Ctrl-C or SIGTERM; what was accepted by then is answered.

    Args:
        service: what is served.
        access: where to listen, whom to answer.
        on_start: called with the server when it listens; its ``stop`` ends it from another thread.

    Raises:
        ResourceError: the port is taken.
        UsageError: there is no such address here.
    """
    limits = service.limits
    listening = _listen(access)
    config = uvicorn.Config(
        application(service, access),
        http=protocol(connections=_connections(limits.connections), head_seconds=limits.head_seconds),
        ws="none", loop="asyncio", lifespan="on", log_config=None, log_level="error", access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=limits.idle_seconds, backlog=4_096,
        timeout_graceful_shutdown=int(limits.deadline_seconds + limits.body_seconds) + 5,
    )  # fmt: skip

    def stopping() -> None:
        service.stopping = True

    with listening:
        Server(config, on_start=on_start, on_stop=stopping).run([listening])


@contextmanager
def background(service: Service, access: Access | None = None) -> Iterator[Server]:
    """Serve in a thread of this process while inside, for notebooks and tests.

    Args:
        service: what is served.
        access: where to listen, whom to answer; by default any free port of this machine alone.

    Raises:
        ResourceError: the port is taken.
    """
    listening: Future[Server] = Future()

    def work() -> None:
        try:
            serve(service, access or Access(port=0), on_start=listening.set_result)
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    thread = threading.Thread(target=work, name="textlora-server")
    thread.start()
    server = listening.result()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def _listen(access: Access) -> socket.socket:
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((access.host, access.port))
    except OSError as error:
        found.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "is in use" if error.errno == errno.EADDRINUSE else "may not be used by you"
            raise ResourceError(
                f"Port {access.port} of {access.host} {why}.",
                hint="Choose another one with --port; 0 takes any free one.",
            ) from error
        raise UsageError(f"Cannot listen on {access.host}: {error.strerror or error}.") from error
    return found


def _connections(wanted: int) -> int:
    """Return how many connections the process may open; each one is a file."""
    try:
        import resource
    except ImportError:  # Windows, where connections are no files
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OTHER_FILES))
