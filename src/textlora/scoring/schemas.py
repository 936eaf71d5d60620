"""The Arrow schema of a Parquet output: input columns keep their types where they have any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textlora.readers import Row, Table, parquet_schema
from textlora.scoring.columns import SOURCE_FILE, SOURCE_ROW, Added
from textlora.scoring.sources import Target


def output_schema(target: Target, added: Added) -> Any:
    """Return the schema of all columns of the output.

    Columns of JSON lines have the type that all their values share, which takes a reading of each file;
    where files differ, numbers become the wider ones and all else text.
    """
    import pyarrow as pa

    found: dict[str, list[Any]] = {name: [] for name in target.columns}
    for source in target.sources:
        for field in _fields(source.path, source.table):
            found[field.name].append(field)
    inputs = [_common(name, fields) for name, fields in found.items()]
    located = [pa.field(SOURCE_FILE, pa.string()), pa.field(SOURCE_ROW, pa.int64())] if target.located else []
    return pa.schema([*inputs, *located, *added.schema])


def _fields(path: Any, table: Table) -> list[Any]:
    import pyarrow as pa

    if table.format == "parquet":
        return list(parquet_schema(path))
    kinds = _json_kinds(table) if table.format == "jsonl" else {}
    return [pa.field(name, _arrow_type(kinds.get(name, {str}))) for name in table.columns]


def _common(name: str, fields: Sequence[Any]) -> Any:
    """Return one field for those of all files; where there are only nulls, it is one of text."""
    import pyarrow as pa

    known = [field for field in fields if not pa.types.is_null(field.type)] or [pa.field(name, pa.string())]
    if all(field == known[0] for field in known):
        return known[0]
    try:
        schemas = [pa.schema([field.with_name(name)]) for field in known]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0)
    except pa.ArrowException:
        return pa.field(name, pa.string())


def _json_kinds(table: Table) -> dict[str, set[type]]:
    """Return the kinds of values in each column; the first rows alone would not do."""
    kinds: dict[str, set[type]] = {name: set() for name in table.columns}
    for row in table:
        if isinstance(row, Row):
            for name, value in zip(table.columns, row.values, strict=True):
                kinds[name].add(_kind(value))
    return {name: found - {type(None)} for name, found in kinds.items()}


def _kind(value: Any) -> type:
    too_large = isinstance(value, int) and abs(value) >= 2**63
    return dict if too_large else type(value)


def _arrow_type(kinds: set[type]) -> Any:
    """Return the Arrow type for JSON values; what has no simple one becomes JSON text."""
    import pyarrow as pa

    if not kinds:
        return pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
