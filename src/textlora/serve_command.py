"""``textlora serve``: the options, and what a person sees of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textlora import printing, terminal
from textlora.errors import ResourceError
from textlora.extras import SERVE

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...", help="Run folders; NAME=FOLDER serves one under another name.", show_default=False
    ),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; any but this machine's own needs a key.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes any free one.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", help="File with the key that clients must send; or TEXTLORA_API_KEY.", show_default=False
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", metavar="NAME", help="A name by which clients call the server; may be repeated."),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or mps; the fastest there is by default.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A limit, for instance limits.texts=64; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command()
    def serve(  # noqa: PLR0913, PLR0917 - the options
        runs: Runs,
        host: Host = "127.0.0.1",
        port: Port = 8000,
        api_key_file: KeyFile = None,
        allowed_host: AllowedHosts = None,
        device: Device = None,
        set_: Set = None,
    ) -> None:
        """Answer over HTTP with one classifier or several: a page at /, POST /predict, Open Inference Protocol v2."""
        if missing := [package.obstacle for package in SERVE if package.obstacle]:
            raise ResourceError("serve needs more packages:", problems=missing, hint=SERVE[0].command)
        from textlora.serving import limits, loading, options, running

        allowed = options.access(host, port, key_file=api_key_file, allowed_hosts=tuple(allowed_host or ()))
        wanted = limits.parse(set_ or [])
        folders = loading.named_folders(runs)
        console = terminal.stderr()
        with printing.reporter() as told:
            service = running.service_over(folders, wanted, device=device, progress=told)

        def started(server: Any) -> None:
            key = ", API key asked for" if allowed.api_key else ""
            console.print(f"Serving {', '.join(folders)} on {server.url} (Ctrl-C to stop{key})")

        running.serve(service, allowed, on_start=started)
        console.print("Stopped; what was accepted has been answered.")
