"""A server in a thread of this process, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reply:
    """Status, headers in lower case, JSON or bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A running server with what it serves."""

    port: int
    service: Any

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Reply:
        """Send one request on a connection of its own; ``body`` as JSON, or ``raw`` bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if content is not None else {}
        try:
            connection.request(method, path, body=content, headers={**kind, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def predict(self, inputs: Any, **more: Any) -> Reply:
        return self.ask("POST", "/predict", {"inputs": inputs, **more})


@contextmanager
def serving(service: Any, *, key: bytes | None = None, hosts: tuple[str, ...] | None = None) -> Iterator[Served]:
    """Serve on a free port while inside."""
    from textlora.serving import running
    from textlora.serving.options import LOOPBACK_NAMES, Access

    access = Access(port=0, api_key=key, hosts=LOOPBACK_NAMES if hosts is None else hosts)
    with running.background(service, access) as server:
        yield Served(server.address[1], service)


def relabelled(run: Path, folder: Path, names: list[str]) -> Path:
    """Copy a run's classifier to ``folder``, with a head turned around and other label names: another model on the same base."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(run / "adapter", folder / "adapter")
    bundle = folder / "adapter" / "textlora.json"
    described = json.loads(bundle.read_text("utf-8"))
    described["label_names"] = names
    bundle.write_text(json.dumps(described), encoding="utf-8")
    weights = folder / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    turned = {
        name: torch.flip(value, [0]).contiguous() if "classifier" in name and "pre_" not in name else value
        for name, value in state.items()
    }
    save_file(turned, weights, metadata={"format": "pt"})
    return folder
