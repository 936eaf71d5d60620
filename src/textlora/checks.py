"""What is looked for in the data: missing values, markup, misspelt labels, lopsided classes.

Pure functions on plain values; ``preparation`` decides what follows from them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html.entities import html5
from typing import Any

from textlora.types import Finding, TokenLengths

_SURROGATE = re.compile("[\ud800-\udfff]")
# Only with the semicolon: "&copy=1" in an address is no copyright sign.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_LINE_BREAK = re.compile(r"<\s*br\s*/?\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_NEGATING = ("un", "in", "im", "ir", "il", "dis", "non", "non-", "not ", "not_", "not-", "a", "no ", "no")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet would compute."""
_SLIP_LENGTHS = (4, 7)
"""Characters from which a label may have one slip, and two."""
_SHOWN = 10
_MEDIAN = 3
"""Place of the 50 percent quantile in ``TokenLengths.quantiles``."""

LOPSIDED = 4.0
"""Largest over smallest class from which the balance is a warning."""


# -- values --------------------------------------------------------------------------------------


def is_missing(value: object) -> bool:
    """Return whether a cell holds nothing: None, NaN, empty or white space.

    The words ``NA``, ``None`` and ``null`` are texts like any other.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def as_text(value: Any) -> str | None:
    """Return a cell as text (empty when missing), or None for a list, mapping or bytes."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    return None if isinstance(value, bytes | bytearray | Mapping | Iterable) else str(value)


def as_label(value: Any) -> str | None:
    """Return a cell as a label without outer or doubled white space, or None as ``as_text`` does.

    The number 1.0 is the label ``"1"``: a column of integers turns to floats when one is missing.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = as_text(value)
    return None if text is None else " ".join(replace_surrogates(text).split())


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer and no file takes, by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def spreadsheet_cell(text: str) -> str:
    """Return a text as a cell that every program can read and no spreadsheet takes for a formula."""
    cell = replace_surrogates(text).replace("\0", "\u2400")
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def from_spreadsheet(cell: str) -> str:
    """Return what ``spreadsheet_cell`` made a cell of, without outer white space."""
    text = cell.strip()
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def clean_text(text: str, *, markup: bool = True) -> str:
    """Return the text with single spaces and without lone surrogates.

    Args:
        text: any text.
        markup: turn HTML entities into characters and HTML line breaks into spaces.
    """
    # Most texts have neither sign, and looking for one costs a fraction of a pattern.
    if markup and "&" in text:
        text = _ENTITY.sub(lambda match: _character(match.group()), text)
    if markup and "<" in text:
        text = _LINE_BREAK.sub(" ", text)
    return " ".join(replace_surrogates(text).split())


def _character(entity: str) -> str:
    """Return what a whole entity stands for; ``html.unescape`` would read ``&nothing;`` as ``¬hing;``."""
    return html.unescape(entity) if entity[1] == "#" else html5.get(entity[1:], entity)


def has_markup(text: str) -> bool:
    """Return whether ``clean_text`` finds HTML line breaks or entities in the text."""
    if "<" in text and _LINE_BREAK.search(text):
        return True
    return "&" in text and any(_character(found) != found for found in _ENTITY.findall(text))


# -- labels --------------------------------------------------------------------------------------


def natural_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort labels as a person would: numbers by value and first, then ``a2`` before ``a10``."""
    return tuple(sorted(labels, key=_natural_key))


def _natural_key(label: str) -> tuple[int, float, list[tuple[int, int, str]], str]:
    if _NUMBER.fullmatch(label):
        return 0, float(label), [], label
    parts = re.findall(r"[0-9]+|[^0-9]+", label.casefold())
    return 1, 0.0, [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], label


def spelling_variants(counts: Mapping[str, int]) -> dict[str, str]:
    """Map labels that differ only in capitals from a more frequent one to that one."""
    main: dict[str, str] = {}
    # Ties go to the label that sorts first, so that the order of the rows does not matter.
    for label in sorted(counts, key=lambda name: (-counts[name], name)):
        main.setdefault(label.casefold(), label)
    return {label: main[label.casefold()] for label in counts if main[label.casefold()] != label}


def label_typos(counts: Mapping[str, int]) -> dict[str, str]:
    """Map very rare labels to the frequent label they look like a misspelling of.

    Very rare is at most 2 rows or 0.5 % of all, and five times rarer than the other. Numbers are
    never misspelt, nor are opposites such as ``unhappy``.
    """
    rare = max(2.0, 0.005 * sum(counts.values()))
    found: dict[str, str] = {}
    for label, count in counts.items():
        frequent = [
            other for other in counts if count <= rare and counts[other] >= 5 * count and looks_misspelt(label, other)
        ]
        if frequent:
            found[label] = min(frequent, key=lambda other: (edit_distance(label, other), -counts[other], other))
    return found


def looks_misspelt(label: str, other: str) -> bool:
    """Return whether ``label`` is one slip (two in long words) away from ``other``."""
    first, second = label.casefold(), other.casefold()
    length = min(len(first), len(second))
    if label == other or re.findall(r"\d+", first) != re.findall(r"\d+", second) or _opposites(first, second):
        return False
    allowed = sum(length >= enough for enough in _SLIP_LENGTHS)
    return abs(len(first) - len(second)) <= allowed and edit_distance(first, second) <= allowed


def _opposites(first: str, second: str) -> bool:
    short, long = sorted((first, second), key=len)
    return any(long == prefix + short for prefix in _NEGATING)


def edit_distance(first: str, second: str) -> int:
    """Return the number of inserted, dropped, changed or swapped neighbouring characters."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        two_before, before, row = before, row, [i]
        for j, b in enumerate(second, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, two_before[j - 2] + 1)
            row.append(cost)
    return row[-1]


# -- findings ------------------------------------------------------------------------------------


def balance_finding(names: Sequence[str], counts: Sequence[int], *, rows: int | None = None) -> Finding:
    """Describe how the rows spread over the classes; a warning when they are lopsided.

    Args:
        names: the labels.
        counts: rows of each label.
        rows: all rows, where that is not the sum of the counts.
    """
    total = rows or sum(counts)
    order = sorted(range(len(names)), key=lambda place: -counts[place])
    shares = ", ".join(f"{names[i]} {counts[i]:,} ({counts[i] / total:.1%})" for i in order[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    ratio = max(counts) / max(1, min(counts))
    if ratio >= LOPSIDED:
        message = (
            f"The classes are lopsided: {shares}{more}; the largest has {ratio:.1f} times the rows of the smallest."
        )
        return Finding("class_balance", "warning", message, total)
    return Finding("class_balance", "info", f"Rows by class: {shares}{more}.", total)


def length_finding(lengths: TokenLengths, rows: int) -> Finding:
    """Describe how many texts are longer than the encoder takes and how much text the cut removes."""
    spread = f"Half of the texts have at most {lengths.quantiles[_MEDIAN]} tokens, the longest {lengths.quantiles[-1]}"
    if not lengths.rows_cut:
        return Finding("length", "info", f"{spread}; all fit into {lengths.max_length}.", 0)
    message = (
        f"{spread}; {lengths.rows_cut:,} ({lengths.rows_cut / rows:.1%}) exceed {lengths.max_length}, "
        f"and the cut removes {lengths.tokens_cut_share:.1%} of all text."
    )
    return Finding("length", "info", message, lengths.rows_cut)
