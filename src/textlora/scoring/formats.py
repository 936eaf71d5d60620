"""The formats of the output: a part of the rows as a file, and parts joined into the whole."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

GROUP_ROWS, GROUP_BYTES = 131_072, 1 << 26
"""A Parquet row group ends with the part that reaches one of these."""


class Format(Protocol):
    """Writes rows: those of a part, whose cells are in the order of the columns, and all parts as one file."""

    def write(self, path: Path, rows: Sequence[Sequence[Any]]) -> None:
        """Write a part."""

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write the parts, in order, as one file; the memory this takes does not grow with them."""


@dataclass(frozen=True, slots=True)
class Delimited:
    """CSV or TSV; a list becomes JSON text, which ``prepare`` reads back as one."""

    columns: tuple[str, ...]
    delimiter: str = ","

    def write(self, path: Path, rows: Iterable[Sequence[Any]]) -> None:
        """Write a part, without the line of names."""
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream, delimiter=self.delimiter, lineterminator="\n")
            writer.writerows(map(_csv_cell, row) for row in rows)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write the line of names and the parts."""
        self.write(path, [self.columns])
        _append(parts, path)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An object a line. A lone surrogate, which JSON lines may hold, is written as the escape that JSON has for it."""

    columns: tuple[str, ...]

    def write(self, path: Path, rows: Iterable[Sequence[Any]]) -> None:
        """Write a part."""
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            for row in rows:
                values = dict(zip(self.columns, map(_finite, row), strict=True))
                stream.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write the parts."""
        path.touch()
        _append(parts, path)


@dataclass(frozen=True, slots=True)
class Parquet:
    """Parquet with the columns of an Arrow schema."""

    schema: Any

    def write(self, path: Path, rows: Sequence[Sequence[Any]]) -> None:
        """Write a part, a Parquet file itself."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = zip(*rows, strict=True) if rows else ([] for _ in self.schema)
        arrays = [_array(field, column) for field, column in zip(self.schema, columns, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=self.schema), path, compression="zstd")

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write the parts, several in a row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        held: list[Any] = []
        with pq.ParquetWriter(path, self.schema, compression="zstd") as file:

            def put() -> None:
                if held:
                    file.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=GROUP_ROWS)
                held.clear()

            for part in parts:
                held.append(pq.ParquetFile(part).read())
                if sum(map(len, held)) >= GROUP_ROWS or sum(table.nbytes for table in held) >= GROUP_BYTES:
                    put()
            put()


def choose(suffix: str, columns: Sequence[str], schema: Callable[[], Any]) -> Format:
    """Return the format that a suffix of ``--out`` stands for; ``schema`` is asked only for Parquet."""
    if suffix == ".parquet":
        return Parquet(schema())
    if suffix == ".jsonl":
        return JsonLines(tuple(columns))
    return Delimited(tuple(columns), "\t" if suffix == ".tsv" else ",")


def _append(parts: Iterable[Path], path: Path) -> None:
    with path.open("ab") as stream:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, stream, 1 << 20)


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    """Return None for NaN and the infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _array(field: Any, column: Sequence[Any]) -> Any:
    import pyarrow as pa

    if pa.types.is_string(field.type):
        column = [value if value is None else _text(value) for value in column]
    return pa.array(column, type=field.type)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
