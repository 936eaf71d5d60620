"""``plan.toml``: every value with its reason beside it, to be read and edited."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from textlora import settings, storage
from textlora.errors import UsageError, did_you_mean
from textlora.types import Estimate, Machine, Plan

HEADER = """\
# What textlora train will do, and why. Values may be edited here: textlora train checks them.
# Another run takes them over, all or some of them, with: textlora plan RUN --plan THIS_FILE
"""
META = "textlora"
META_KEYS = ("schema", "recipe", "dataset", "classes", "written")
TABLES = {"machine": Machine, "estimate": Estimate}
# Characters of each value's checksum; enough to notice an edit.
CHECK_DIGITS = 4
EDITED = "edited in {}"


def save_plan(path: Path, plan: Plan) -> None:
    """Write ``plan.toml``: every value with its reason beside it, atomically.

    Raises:
        ResourceError: the file cannot be written.
    """
    values = settings.flatten(plan.settings)
    lines = [HEADER]
    section = ""
    for name, value in values.items():
        head, _, tail = name.rpartition(".")
        if head != section:
            section = head
            lines.append(f"\n[{head}]")
        lines.append(_setting_line(tail, value, one_line(plan.reasons.get(name, "default"))))
    meta = {
        "schema": storage.SCHEMA_VERSION,
        "recipe": plan.recipe,
        "dataset": plan.dataset_fingerprint,
        "classes": plan.classes,
        "written": "".join(_checks(values).values()),
    }
    tables = {META: meta, "machine": _fields(plan.machine), "estimate": _fields(plan.estimate)}
    for title, table in tables.items():
        lines.append(f"\n[{title}]")
        lines += [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    storage.write_text(path, "\n".join(lines) + "\n")


def _setting_line(name: str, value: Any, reason: str) -> str:
    if value is None:
        return f"# {name} is left out  # {reason}"
    return f"{f'{name} = {_toml(value)}':<40}  # {reason}"


def _fields(noun: Machine | Estimate) -> dict[str, Any]:
    return {field.name: getattr(noun, field.name) for field in fields(noun)}


def one_line(text: str) -> str:
    """Return text that fits into a TOML comment: one line, no control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _toml(value: Any) -> str:
    """Write a value as TOML, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_string(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _toml_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def _checks(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: storage.fingerprint([name, repr(value)])[:CHECK_DIGITS] for name, value in values.items()}


def load_plan(path: Path) -> Plan:
    """Read ``plan.toml`` whole. A value that was edited by hand gets that as its reason.

    Raises:
        UsageError: the file is missing, not TOML, of another version, incomplete, or has unknown
            or impossible values.
    """
    document = read_document(path)
    if META not in document:
        storage.check_schema(path, None, "Plan")
    built = settings.build(plan_settings(document, path), where=str(path))
    values = settings.flatten(built)
    _refuse_open(values, path)
    return Plan(
        settings=built,
        reasons=_reasons(path, values, _meta(document, path, "written", str)),
        recipe=_meta(document, path, "recipe", str),
        dataset_fingerprint=_meta(document, path, "dataset", str),
        classes=_meta(document, path, "classes", int),
        machine=_table(document, path, Machine),
        estimate=_table(document, path, Estimate),
    )


def _meta(document: Mapping[str, Any], path: Path, key: str, kind: type[Any]) -> Any:
    value = document[META].get(key)
    if not isinstance(value, kind):
        raise _damaged(path, f"{META}.{key} is missing or no {'number' if kind is int else 'text'}")
    return value


def _table(document: Mapping[str, Any], path: Path, noun: type[Any]) -> Any:
    """Read a noun from its table; what stands there as None was not written, a default perhaps by an older version."""
    name = noun.__name__.lower()
    empty = dict.fromkeys(field.name for field in fields(noun) if _required(field))
    try:
        return TypeAdapter(noun).validate_python(empty | document.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *map(str, first["loc"])])
        raise _damaged(path, f"{place}: {first['msg']}") from error


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} is damaged: {what}.", hint="Run `textlora plan` again.")


def read_plan_settings(path: Path) -> dict[str, Any]:
    """Return the settings that stand in a plan file, whole or in part, by dotted name.

    Raises:
        UsageError: the file is missing, not TOML, of another version, or has unknown or impossible
            values, all together.
    """
    return plan_settings(read_document(path), path)


def read_document(path: Path) -> dict[str, Any]:
    """Return a plan file's tables, settings unchecked.

    Raises:
        UsageError: the file is missing, not TOML, or of another version.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist.", hint="`textlora plan` writes it: run that first.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.", hint="Correct it, or run `textlora plan` again.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    for name in (META, *TABLES):
        if not isinstance(document.get(name, {}), dict):
            raise _damaged(path, f"{name} is not a table")
    if META in document:
        storage.check_schema(path, {"noun": "Plan", "version": document[META].get("schema")}, "Plan")
    return document


def plan_settings(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the document's settings, checked; refuse unknown names anywhere in it."""
    known = {META: META_KEYS, **{name: [field.name for field in fields(noun)] for name, noun in TABLES.items()}}
    problems = [
        f"There is no {title}.{key}.{did_you_mean(key, names)}"
        for title, names in known.items()
        for key in document.get(title, {})
        if key not in names
    ]
    if problems:
        raise UsageError(f"Wrong values in {path}:", problems=problems)
    flat = settings.flatten_toml({name: value for name, value in document.items() if name not in known})
    return settings.check_part(flat, where=str(path))


def _refuse_open(values: Mapping[str, Any], path: Path) -> None:
    problems = [f"{name} is missing." for name in settings.automatic_names() if values[name] is None]
    if problems:
        raise UsageError(
            f"{path} is not complete:",
            problems=problems,
            hint=f"Have it completed: textlora plan {path.parent} --plan {path} --overwrite",
        )


def _reasons(path: Path, values: Mapping[str, Any], written: str) -> dict[str, str]:
    """Return the reasons from the comments, for the values that are as they were written."""
    comments = _comments(path.read_text(encoding="utf-8"))
    marks = [written[start : start + CHECK_DIGITS] for start in range(0, len(written), CHECK_DIGITS)]
    kept = dict(zip(values, marks, strict=False))
    unchanged = {name for name, check in _checks(values).items() if kept.get(name) == check}
    edited = EDITED.format(path.name)
    return {name: comments.get(name, "default") if name in unchanged else edited for name in values}


def _comments(text: str) -> dict[str, str]:
    """Return the comment behind each setting of a plan file, by dotted name."""
    comments: dict[str, str] = {}
    section = ""
    for line in text.split("\n"):  # splitlines knows line ends that TOML does not
        header = re.match(r"\s*\[(\w+)\]", line)
        if header:
            section = f"{header[1]}."
        named = re.match(r"(?:# )?(\w+)\s*(?:=|is left out  #)", line)
        if named:
            comments[section + named[1]] = _comment(line)
    return comments


def _comment(line: str) -> str:
    """Return what follows the first ``#`` that is not inside a string."""
    if line.startswith("# "):
        return line.partition("  # ")[2].strip()
    for place in (found.start() for found in re.finditer("#", line)):
        try:
            tomllib.loads(line[:place])
        except tomllib.TOMLDecodeError:
            continue
        return line[place + 1 :].strip()
    return ""
