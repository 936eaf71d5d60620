"""What a label cell holds where a row may have several labels: a list, or names with a separator between them.

["joy", "love"]      a list, in JSON lines, Parquet and data frames
'["joy", "love"]'    the same as text, in CSV; also as Python writes it
joy|love             names between separators, when the user named one
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from typing import Any, Literal

Form = Literal["one", "list", "separated"]
"""What the cells of a label column hold: one label each, or several in one of two ways."""

JOINT = "\x1f"
"""Stands between the labels of a row inside of ``prepare``; it is white space, so no cleaned label holds it."""
_LIST_SHARE = 0.5
"""Share of the filled cells that must be lists for the column to be one of lists."""


def as_list(cell: Any) -> list[Any] | None:
    """Return the items of a list, or of a text that is a JSON or Python list of plain values; else None."""
    if hasattr(cell, "tolist") and not isinstance(cell, str | bytes):  # numpy arrays, as pandas reads Parquet lists
        cell = cell.tolist()
    if isinstance(cell, list | tuple | set | frozenset):
        return list(cell)
    if not isinstance(cell, str) or not (text := cell.strip()).startswith("[") or not text.endswith("]"):
        return None
    return _parsed(text)


def _parsed(text: str) -> list[Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        try:  # what str() makes of a Python list; literals only, nothing is run
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    except RecursionError:
        return None
    plain = isinstance(found, list) and all(isinstance(item, str | int | float) for item in found)
    return found if plain else None


def form_of(cells: Iterable[Any], separator: str | None = None) -> Form:
    """Return what a column holds, from a sample of its cells.

    Args:
        cells: missing and empty ones say nothing.
        separator: what the user says stands between labels; lists do not need it.
    """
    filled = [cell for cell in cells if not is_empty(cell)]
    lists = sum(as_list(cell) is not None for cell in filled)
    if filled and lists > _LIST_SHARE * len(filled):
        return "list"
    return "separated" if separator is not None else "one"


def is_empty(cell: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN, or white space. An empty list is an answer."""
    if cell is None or (isinstance(cell, float) and cell != cell):  # noqa: PLR0124 - only NaN differs from itself
        return True
    return isinstance(cell, str) and not cell.strip()


def items(cell: Any, form: Form, separator: str | None) -> list[Any] | None:
    """Return what a cell names, uncleaned; None where it is not in the column's form. Empty cells name nothing."""
    if is_empty(cell):
        return []
    if form == "list":
        return as_list(cell)
    if form == "separated" and separator:
        return cell.split(separator) if isinstance(cell, str) else [cell]
    return [cell]
