"""Optional packages: whether they are here, and how to install them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Extra:
    """A package that comes with one of textlora's extras.

    Attributes:
        package: its name, for pip and for import.
        floor: oldest version that serves, major and minor.
        extra: textlora's extra that brings it.
    """

    package: str
    floor: tuple[int, int]
    extra: str

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install 'textlora[{self.extra}]'"

    @property
    def obstacle(self) -> str:
        """Why it cannot be used, or ``""``."""
        if find_spec(self.package) is None:
            return f"{self.package} is not installed"
        found = metadata.version(self.package)
        if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < self.floor:
            return f"{self.package} {found} is installed, and {'.'.join(map(str, self.floor))} or newer is needed"
        return ""


QLORA = Extra("bitsandbytes", (0, 50), "qlora")
AUDIT = Extra("cleanlab", (2, 9), "audit")
OPTUNA = Extra("optuna", (5, 0), "tune")
# What the server needs; one extra brings all.
SERVE = (
    Extra("fastapi", (0, 130), "serve"),
    Extra("starlette", (1, 10), "serve"),
    Extra("uvicorn", (0, 40), "serve"),
    Extra("prometheus_client", (0, 22), "serve"),
)
RAY = Extra("ray", (2, 60), "ray")
ONNX_RUNTIME = Extra("onnxruntime", (1, 30), "onnx")
ONNX = Extra("onnx", (1, 23), "onnx")
ONNX_SCRIPT = Extra("onnxscript", (0, 7), "onnx")
