"""PyTorch asked in a process of its own: it may be missing, crash in a driver, or hang.

The process prints a line of JSON for each thing it has found out, so that what came before a crash counts.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from textlora import hardware, storage
from textlora.doctor.facts import Gpu, Torch
from textlora.types import Machine

# The first measurement on a machine with a GPU that has to wake up is the longest.
TIMEOUT = 120.0
MARK = "textlora-doctor "


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process said before it ended; ``problem`` says how it ended if not well."""

    torch: Torch | None
    machine: Machine | None
    problem: str


def start() -> subprocess.Popen[str]:
    """Start the process; ``finish`` waits for it."""
    command = [sys.executable, "-W", "ignore", "-c", f"from {__name__} import main; main()"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> Answer:
    """Return what the process has found out; one that hangs is ended."""
    hung = False
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        hung = True
        process.kill()
        out, err = process.communicate()
    parts: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                parts.update(json.loads(line.removeprefix(MARK)))
    problem = f"did not answer within {timeout:g} s" if hung else _ending(process.returncode, err)
    torch = TypeAdapter(Torch).validate_python(parts["torch"]) if "torch" in parts else None
    machine = TypeAdapter(Machine).validate_python(parts["machine"]) if "machine" in parts else None
    return Answer(torch, machine, problem)


def _ending(code: int, err: str) -> str:
    if code == 0:
        return ""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return next((line.strip() for line in reversed(err.splitlines()) if line.strip()), f"ended with exit code {code}")


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether a build for ``architectures`` (``sm_75``, ``compute_90``, …) runs on a GPU.

    Binary code runs on the same major capability from its own minor on; intermediate code
    (``compute_…``) on everything from its own capability on.
    """
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = "".join(character for character in digits if character.isdigit())
        if not number:
            continue
        built = int(number[:-1]), int(number[-1])
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return not architectures


def _torch() -> Torch:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    problem = "" if available else next((str(warning.message) for warning in caught), "")
    if torch.version.cuda and not available and not problem:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            problem = str(error)
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        threads=torch.get_num_threads(),
        gpus=tuple(_gpu(number) for number in range(torch.cuda.device_count())) if available else (),
        mps=torch.backends.mps.is_available(),
        problem=" ".join(problem.split()),
    )


def _gpu(number: int) -> Gpu:
    import torch

    found = torch.cuda.get_device_properties(number)
    capability = (found.major, found.minor)
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    kernels = bool(torch.version.hip) or has_kernels(capability, torch.cuda.get_arch_list())
    return Gpu(found.name, found.total_memory / hardware.GB, capability, bf16, kernels)


def _say(name: str, noun: Any) -> None:
    sys.stdout.write(f"{MARK}{json.dumps({name: asdict(noun)})}\n")
    sys.stdout.flush()


def main() -> None:
    """Find out and print; this is what runs in the process of its own."""
    _say("torch", _torch())
    _say("machine", hardware.describe_machine(storage.cache_folder()))
