"""The nouns of an examination. GB are 10**9 bytes; secrets are never in them, only whether they are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from textlora.types import Machine


@dataclass(frozen=True, slots=True)
class Limits:
    """What the hardware has and what this process may use of it.

    Attributes:
        logical_cores: of the hardware, hyper-threads counted.
        affinity: logical cores that this process may run on, or None where the system does not say.
        cpu_quota: cores' worth of time that the container grants, or None.
        memory_gb: of the hardware.
        memory_limit_gb: what the container or ``ulimit`` allows, or None.
        memory_limited_by: which of the two.
    """

    logical_cores: int | None = None
    affinity: int | None = None
    cpu_quota: float | None = None
    memory_gb: float | None = None
    memory_limit_gb: float | None = None
    memory_limited_by: str = ""


# The problem of a current folder that somebody deleted; Python itself stumbles over it.
GONE = "the folder does not exist any more"


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder and the room where it is or will be; ``problem`` says why it cannot be used."""

    name: str
    path: str
    free_gb: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that PyTorch sees.

    Attributes:
        capability: CUDA's compute capability.
        bf16: whether it computes in bf16 itself; older ones emulate it.
        kernels: whether this build of PyTorch has code for it.
    """

    name: str
    memory_gb: float
    capability: tuple[int, int]
    bf16: bool
    kernels: bool = True


@dataclass(frozen=True, slots=True)
class Torch:
    """What PyTorch says of itself.

    Attributes:
        cuda: version of CUDA that it was built for, or None.
        hip: version of ROCm that it was built for, or None.
        problem: why it cannot use CUDA, in its own words.
    """

    version: str
    cuda: str | None
    hip: str | None
    threads: int
    gpus: tuple[Gpu, ...]
    mps: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the NVIDIA driver says, without PyTorch.

    Attributes:
        version: for instance ``"535.104.05"``, or None without a driver.
        gpus: names of the GPUs that it serves.
        problem: its complaint, when it is there and does not work.
    """

    version: str | None = None
    gpus: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A library that textlora needs, or an extra of it.

    Attributes:
        needs: versions that will do, for instance ``">=2.11"``.
        found: version that is installed, or None.
        fits: whether that will do.
        extra: name of the extra that asks for it; empty where nothing works without it.
    """

    name: str
    needs: str
    found: str | None
    fits: bool
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """The model hub, as huggingface_hub is set up here.

    Attributes:
        endpoint: its address.
        offline: whether ``HF_HUB_OFFLINE`` forbids to ask it.
        reachable: whether it answered, or None when it was not asked.
        problem: why it did not.
        token: whether a login token is there.
        cache: the folder of downloaded models.
        models: ids of the models in it that are whole enough to be base models.
    """

    endpoint: str = ""
    offline: bool = False
    reachable: bool | None = None
    problem: str = ""
    token: bool = False
    cache: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cached:
    """What textlora's cache folder holds of a kind."""

    name: str
    count: int
    gb: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found.

    Attributes:
        machine: as the planner sees it; without rates if PyTorch could not be asked.
        torch: None if it could not be asked.
        torch_problem: why it could not, or what went wrong afterwards.
        packages: required ones and those of the extras.
        packages_problem: why they are not known.
        embedded: whether the package of the embedded base model is installed.
        environment: variables that change what textlora does, by name.
        unknown: what could not be found out, by name, with the error.
    """

    version: str
    python: str
    machine: Machine
    limits: Limits = Limits()
    disks: tuple[Disk, ...] = ()
    torch: Torch | None = None
    torch_problem: str = ""
    driver: Driver = Driver()
    packages: tuple[Package, ...] = ()
    packages_problem: str = ""
    embedded: bool = True
    hub: Hub = Hub()
    cached: tuple[Cached, ...] = ()
    environment: Mapping[str, str] | None = None
    unknown: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the examination.

    Attributes:
        topic: what it is about.
        found: what was found.
        advice: what to do; empty where there is nothing to do.
        broken: whether textlora cannot be used until it is done.
    """

    topic: str
    found: str
    advice: str = ""
    broken: bool = False

    @property
    def status(self) -> str:
        """``ok``, ``advice`` or ``broken``."""
        return "broken" if self.broken else "advice" if self.advice else "ok"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the planner would choose here, and why."""

    setting: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Examination:
    """Facts, one item a topic, and what is best on this machine."""

    facts: Facts
    items: tuple[Item, ...]
    best: tuple[Choice, ...]

    @property
    def usable(self) -> bool:
        """Whether textlora can be used here."""
        return not any(item.broken for item in self.items)
