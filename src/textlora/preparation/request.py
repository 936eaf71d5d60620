"""What the caller asked for, and in which form it is kept beside the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from textlora import storage
from textlora.errors import UsageError
from textlora.settings import Settings, build

Origin = Literal["", "validation", "test"]
Option = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller asked for."""

    source: Any
    text: str | None
    label: str | None
    labels: tuple[str, ...] | None
    given: Mapping[Origin, Any]
    encoding: str | None
    settings: Settings


def make_request(  # noqa: PLR0913, PLR0917 - the arguments of prepare()
    source: Any,
    text: str | None,
    label: str | None,
    labels: Sequence[str] | None,
    given: Mapping[Origin, Any],
    encoding: str | None,
    settings: Settings | None,
) -> Request:
    """Return the arguments of ``prepare`` in one piece, the labels checked.

    Raises:
        UsageError: fewer than two labels, or one of them twice.
    """
    used: dict[Origin, Any] = {origin: item for origin, item in given.items() if item is not None}
    return Request(source, text, label, _label_option(labels), used, encoding, settings or build({}))


def _label_option(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    names = tuple(" ".join(str(name).split()) for name in labels)
    shown = ",".join(names)
    if "" in names or len(names) < 2:  # noqa: PLR2004 - a choice needs two
        raise UsageError(
            f"The labels are {shown!r}; at least two names are expected.",
            hint="Write them as --labels negative,positive.",
        )
    if len({name.casefold() for name in names}) < len(names):
        raise UsageError(
            f"The labels {shown!r} name one of them twice.", hint="Write them as --labels negative,positive."
        )
    return names


def is_frame(source: Any) -> bool:
    """Return whether the source is a data frame of pandas, which need not be installed."""
    return hasattr(source, "iloc") and hasattr(source, "columns")


def source_name(source: Any) -> str:
    """Return what a message calls the source."""
    return "the data frame" if is_frame(source) else str(source)


def options_of(request: Request) -> dict[str, Option]:
    """Return all that decides the result, the content of the files among it."""
    options: dict[str, Option] = {
        "text": request.text,
        "label": request.label,
        "labels": request.labels,
        "encoding": request.encoding,
        "seed": request.settings.seed,
    }
    files = {"source": request.source, "validation": request.given.get("validation"), "test": request.given.get("test")}
    for name, item in files.items():
        options[name], options[f"{name}_sha256"] = _file_options(item)
    return options | {f"data.{name}": value for name, value in request.settings.data.model_dump().items()}


def _file_options(item: Any) -> tuple[str | None, str | None]:
    if item is None or is_frame(item):
        return None if item is None else "DataFrame", None
    return str(item), storage.file_fingerprint(Path(item))
