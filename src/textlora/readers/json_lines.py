"""JSON lines: one object a line; the columns are all names that occur."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from textlora.errors import DataError
from textlora.readers.decoding import TextFile
from textlora.readers.tables import RECORD_LIMIT, BadRow, Row, Table, shorten


def is_json(source: TextFile) -> bool:
    """Return whether the name, or else the first character, says JSON lines.

    Raises:
        DataError: it is one JSON array.
    """
    suffixes = [suffix.lower() for suffix in source.path.suffixes if suffix.lower() not in (".gz", ".xz", ".zst")]
    start = source.start.lstrip()
    named = bool(suffixes) and suffixes[-1] in (".jsonl", ".ndjson", ".json")
    if named and start.startswith("["):
        raise DataError(
            f"{source.path} is a JSON array; one JSON object per line is expected.",
            hint="Convert it, for instance with `jq -c '.[]'`.",
        )
    other = bool(suffixes) and suffixes[-1] in (".csv", ".tsv", ".tab")
    return named or (start.startswith("{") and not other)


def json_table(source: TextFile) -> Table:
    """Return a file of JSON lines as a table.

    Raises:
        DataError: no line is a JSON object.
    """
    columns: dict[str, None] = {}
    for _, value in _json_values(source):
        if isinstance(value, dict):
            columns.update(dict.fromkeys(value))
    if not columns:
        raise DataError(
            f"{source.path} has no JSON object in any line.",
            hint='Every line must be an object such as {"text": "…", "label": "…"}.',
        )
    return Table(
        str(source.path),
        "jsonl",
        tuple(columns),
        lambda: _json_rows(source, tuple(columns)),
        encoding=source.codec,
        meter=source.meter,
    )


def _json_values(source: TextFile) -> Iterator[tuple[int, Any]]:
    """Yield line number and object of every line that is not blank, or a ``BadRow``."""
    for number, line in enumerate(source.lines(), start=1):
        if line.strip():
            yield number, _json_value(number, line)


def _json_value(number: int, line: str) -> Any:
    if "\0" in line or len(line) > RECORD_LIMIT:
        return BadRow(number, "nul byte" if "\0" in line else "oversized", shorten([line]))
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow(number, "not JSON", shorten([line]))
    return value if isinstance(value, dict) else BadRow(number, "not a JSON object", shorten([line]))


def _json_rows(source: TextFile, columns: tuple[str, ...]) -> Iterator[Row | BadRow]:
    number = 0
    for line, value in _json_values(source):
        if isinstance(value, BadRow):
            yield value
            continue
        yield Row(number, line, tuple(value.get(name) for name in columns))
        number += 1
