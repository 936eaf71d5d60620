"""``python -m textlora`` and the ``textlora`` command."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line and leave with its exit code."""
    from textlora.cli import run as run_cli

    sys.exit(run_cli())


if __name__ == "__main__":
    run()
