"""``python -m textlora`` and the ``textlora`` command."""

from __future__ import annotations

import os
import sys

# How often a thread of GNU OpenMP looks for new work before it sleeps. By default it looks for
# milliseconds; with another process on one of the cores, training then takes ten times as long.
# Nothing is lost when the machine is free (docs/log.md).
SPINS = "1000"
# The exit code of errors.ResourceError, which cannot be loaded without its packages.
INCOMPLETE = 4
REPAIR = "Install it again with pip, without --no-deps."


def run() -> None:
    """Run the command line and leave with its exit code."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, when PyTorch is loaded
    try:
        from textlora.cli import run as run_cli
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "textlora":
            raise
        sys.stderr.write(
            f"error: textlora is not installed completely: the package {error.name} is missing.\n{REPAIR}\n"
        )
        sys.exit(INCOMPLETE)
    sys.exit(run_cli())


if __name__ == "__main__":
    run()
