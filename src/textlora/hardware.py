"""What this machine is and how fast it multiplies matrices. Nothing happens at import.

GB are 10**9 bytes. Limits that a container or ``ulimit`` sets count like the hardware's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from textlora.types import Machine

GB = 1e9
CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
OWN_STATUS = Path("/proc/self/status")
# What decides how fast a precision runs: x86 names, then ARM names as Linux and we spell them.
FEATURES = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
MACOS_FEATURES = {"neon": "hw.optional.neon", "bf16": "hw.optional.arm.FEAT_BF16", "i8mm": "hw.optional.arm.FEAT_I8MM"}
# Rows x inputs x outputs of the probe: a micro-batch of 1,024 tokens through DistilBERT's widest layer.
PROBE_SHAPE = (1024, 768, 3072)
GPU_PROBE_SHAPE = (8192, 768, 3072)
PROBE_SECONDS = 0.05
# At least so many, since another process may disturb some of them.
PROBE_CALLS = 5
# Texts, tokens, heads and hidden width of the probe of attention.
PROBE_ATTENTION = (4, 256, 12, 768)
PROBE_VERSION = 4
FIRST_BF16_CAPABILITY = (8, 0)


def describe_machine(cache: Path | None = None, *, probe: bool = True) -> Machine:
    """Return the machine's processor, memory, GPU and measured speed.

    Args:
        cache: folder in which measured rates are kept for the next process; a damaged file is
            written anew, a folder that cannot be written is ignored.
        probe: measure how fast matrix products run, a few tenths of a second; without it,
            ``rates`` is empty.

    Returns:
        ``rates`` has GFLOP/s of ``torch.nn.functional.linear`` by ``"fp32"``, ``"fp32_onednn"``
        and ``"bf16"`` on the CPU, and ``"gpu_fp32"``, ``"gpu_fp16"`` and ``"gpu_bf16"`` where the
        GPU computes them. ``fp32_onednn`` is fp32 under "medium" precision, which rounds to bf16
        on processors with AMX. ``attention_eager_bf16`` and the like are attention, forward and
        backward, on the CPU, by kernel and precision.
    """
    gpu = _gpu()
    total, available = memory()
    processor, cores = processor_name(), usable_cores()
    key = _probe_key(processor, cores, gpu["gpu"]) if probe else ""
    return Machine(
        processor=processor,
        cores=cores,
        memory_gb=total / GB,
        available_memory_gb=available / GB,
        features=processor_features(),
        rates=dict(_rates(key, cache)) if probe else {},
        platform=f"{platform.system()} {platform.machine()}",
        **gpu,
    )


# -- processor -----------------------------------------------------------------------------------


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name as the system tells it."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    facts = _cpu_facts(cpuinfo)
    for key in ("model name", "Model", "Hardware", "cpu model", "uarch"):
        if facts.get(key):
            return " ".join(facts[key].split())
    return platform.processor() or platform.machine() or "unknown processor"


def processor_features(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Return the instruction sets of interest that the processor has."""
    if sys.platform == "darwin":
        return tuple(name for name, key in MACOS_FEATURES.items() if _sysctl(key) == "1")
    facts = _cpu_facts(cpuinfo)
    flags = {*facts.get("flags", "").split(), *facts.get("Features", "").split()}
    return tuple(name for name in FEATURES if name in flags)


def _cpu_facts(cpuinfo: Path) -> dict[str, str]:
    """Return the entries of the first processor in a ``/proc/cpuinfo``; a later one fills gaps."""
    facts: dict[str, str] = {}
    for line in _text(cpuinfo).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    return facts


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def usable_cores() -> int:
    """Return how many cores this process may keep busy, at least 1.

    The least of the physical cores, the process's affinity and the container's quota.
    """
    import psutil

    limits = [psutil.cpu_count(logical=False), os.cpu_count(), cpu_quota()]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    return max(1, math.floor(min(limit for limit in limits if limit)))


# -- containers ----------------------------------------------------------------------------------


def cpu_quota(root: Path = CGROUP, own: Path = OWN_CGROUPS) -> float | None:
    """Return the CPUs' worth of time that the control groups grant, or None without a limit."""
    quotas = []
    for folder in _cgroup_folders("cpu", root, own):
        quota, period = (*_text(folder / "cpu.max").split(), "", "")[:2]
        quota = quota or _text(folder / "cpu.cfs_quota_us")
        period = period or _text(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = CGROUP, own: Path = OWN_CGROUPS) -> tuple[float, float] | None:
    """Return the bytes that the control groups allow and what is free of them, or None.

    The page cache counts as free, since the system gives it back.
    """
    limits = []
    for folder in _cgroup_folders("memory", root, own):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.strip().isdigit():
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            held = int(used or 0) - (int(cached[1]) if cached else 0)
            limits.append((float(limit), max(0.0, float(limit) - max(0, held))))
    if not limits:
        return None
    return min(limit for limit, _ in limits), min(free for _, free in limits)


def _cgroup_folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and all groups above it, version 1 and 2."""
    for line in _text(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        folder = base / path.lstrip("/")
        # Inside a container the path may be the host's and not exist here; the root still counts.
        while folder != base and base in folder.parents:
            yield folder
            folder = folder.parent
        yield base


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# -- memory and disk -----------------------------------------------------------------------------


def memory() -> tuple[float, float]:
    """Return total and available bytes under every limit."""
    import psutil

    system = psutil.virtual_memory()
    pairs = [(float(system.total), float(system.available)), memory_limit(), *process_limits()]
    known = [pair for pair in pairs if pair is not None]
    return min(total for total, _ in known), min(free for _, free in known)


def process_limits() -> list[tuple[float, float]]:
    """Return what ``ulimit -v`` and ``ulimit -d`` allow and what is left of each, where they are set."""
    if sys.platform == "win32":
        return []
    import resource

    import psutil

    used = psutil.Process().memory_info()
    held = [(resource.RLIMIT_AS, used.vms)]
    if sys.platform == "linux":  # elsewhere it bounds the old heap alone, which nobody allocates from
        held.append((resource.RLIMIT_DATA, used.data))
    limits = [(resource.getrlimit(kind)[0], taken) for kind, taken in held]
    return [
        (float(limit), max(0.0, float(limit) - taken)) for limit, taken in limits if limit != resource.RLIM_INFINITY
    ]


def peak_memory_gb() -> float:
    """Return the most memory that this process has held so far, in GB."""
    # Linux counts into ru_maxrss what the process that started this one held; VmHWM is our own.
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", _text(OWN_STATUS), re.MULTILINE):
        return int(found[1]) * 1024 / GB
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / GB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024) / GB


def free_disk_gb(path: Path) -> float:
    """Return the free space in GB where ``path`` is or will be."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free / GB


# -- GPU -----------------------------------------------------------------------------------------


def _gpu() -> dict[str, Any]:
    """Return name, memory and capability of the first GPU; Apple's has no capability."""
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return {
            "gpu": found.name,
            "gpu_memory_gb": found.total_memory / GB,
            "gpu_capability": (found.major, found.minor),
            "gpu_available_memory_gb": _free_gpu_gb(),
        }
    if torch.backends.mps.is_available():
        return {"gpu": "Apple GPU", "gpu_memory_gb": torch.mps.recommended_max_memory() / GB, "gpu_capability": None}
    return {"gpu": None, "gpu_memory_gb": None, "gpu_capability": None}


def _free_gpu_gb() -> float | None:
    """Return what is free on the first GPU and what this process has of it already, in GB."""
    import torch

    try:
        return float(torch.cuda.mem_get_info(0)[0] + torch.cuda.memory_reserved(0)) / GB
    except RuntimeError:  # no room for a context, or a GPU that another process has to itself
        return None


def watch_gpu_memory() -> None:
    """Begin to measure ``peak_gpu_memory_gb`` anew, where there is a CUDA GPU in use."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gpu_memory_gb() -> float:
    """Return the most that PyTorch has reserved of a CUDA GPU, in GB; 0 where none is in use.

    CUDA's own context, some 0.5 GB, is not in it.
    """
    import torch

    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return 0.0
    return float(torch.cuda.max_memory_reserved()) / GB


# -- measured rates ------------------------------------------------------------------------------


def _probe_key(processor: str, cores: int, gpu: str | None) -> str:
    import torch

    parts = (PROBE_VERSION, processor, torch.__version__, cores, torch.get_num_threads(), gpu)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _rates(key: str, cache: Path | None) -> Mapping[str, float]:
    path = cache / f"machine-{key}.json" if cache else None
    rates = _read_rates(path, key) if path else None
    if rates is None:
        rates = measure_rates()
        if path:
            _write_rates(path, key, rates)
    return rates


def _read_rates(path: Path, key: str) -> dict[str, float] | None:
    """Return what ``_write_rates`` wrote, or None if the file is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rates = {str(name): float(rate) for name, rate in document["rates"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = rates and all(math.isfinite(rate) and rate > 0 for rate in rates.values())
    return rates if sound and document.get("key") == key else None


def _write_rates(path: Path, key: str, rates: Mapping[str, float]) -> None:
    # The file only saves time: a folder that cannot be written is no reason to stop.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({"key": key, "rates": rates}, indent=1), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def measure_rates() -> dict[str, float]:
    """Measure ``torch.nn.functional.linear`` in each precision, about 50 ms each; GFLOP/s."""
    import torch

    rates = {"fp32": _rate("cpu", torch.float32)}
    with _medium_precision():
        rates["fp32_onednn"] = _rate("cpu", torch.float32)
    rates["bf16"] = _rate("cpu", torch.bfloat16)
    return rates | _attention_rates() | _gpu_rates()


def _attention_rates() -> dict[str, float]:
    import torch

    return {
        f"{use}_{kernel}_{name}": _attention_rate(kernel, dtype, train=use == "attention")
        for use in ("attention", "predict_attention")
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        for kernel in ("eager", "sdpa")
    }


def _attention_rate(kernel: str, dtype: Any, *, train: bool) -> float:
    """Return GFLOP/s of packed attention over a few texts of usual length: forward, and backward to train."""
    import torch

    from textlora.packed import Layout, attend

    texts, length, heads, hidden = PROBE_ATTENTION
    qkv = torch.rand((texts * length, 3 * hidden)).to(dtype).requires_grad_(train)
    layout, grad = Layout([length] * texts), torch.ones((texts * length, hidden), dtype=dtype)

    def once() -> None:
        mixed = attend(qkv, layout, heads, kernel=kernel)
        if train:
            torch.autograd.grad(mixed, qkv, grad)

    once()
    # Two products forward, four backward.
    products = 6 if train else 2
    return products * 2 * texts * length * length * hidden / _fastest(once, _nothing) / 1e9


def _gpu_rates() -> dict[str, float]:
    import torch

    if torch.cuda.is_available():
        dtypes = {"gpu_fp32": torch.float32, "gpu_fp16": torch.float16}
        # Older ones accept bf16 and emulate it.
        if torch.cuda.get_device_capability(0) >= FIRST_BF16_CAPABILITY:
            dtypes["gpu_bf16"] = torch.bfloat16
        return {name: _rate("cuda", dtype) for name, dtype in dtypes.items()}
    if torch.backends.mps.is_available():
        return {"gpu_fp32": _rate("mps", torch.float32)}
    return {}


def _rate(device: str, dtype: Any) -> float:
    """Return GFLOP/s of the fastest product in 50 ms: the one least disturbed by other processes."""
    import torch

    rows, inputs, outputs = PROBE_SHAPE if device == "cpu" else GPU_PROBE_SHAPE
    x = torch.rand((rows, inputs), device=device).to(dtype)
    weight = torch.rand((outputs, inputs), device=device).to(dtype)
    wait: Callable[[], None] = {"cpu": _nothing, "cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}[device]
    with torch.inference_mode():
        torch.nn.functional.linear(x, weight)  # the first call builds the kernel
        wait()
        seconds = _fastest(lambda: torch.nn.functional.linear(x, weight), wait)
    return 2 * rows * inputs * outputs / seconds / 1e9


def _fastest(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    best, calls, start = math.inf, 0, time.perf_counter()
    while calls < PROBE_CALLS or time.perf_counter() - start < PROBE_SECONDS:
        before = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - before)
        calls += 1
    return best


def _nothing() -> None:
    """Wait for nothing: CPU calls return when they are done."""


@contextlib.contextmanager
def _medium_precision() -> Iterator[None]:
    """Send fp32 products through oneDNN, and put the process's settings back afterwards."""
    import torch

    precision, onednn = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    cuda = torch.backends.cuda.matmul.fp32_precision
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.mkldnn.matmul.fp32_precision = onednn
        torch.backends.cuda.matmul.fp32_precision = cuda
