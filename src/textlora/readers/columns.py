"""Which column is the text and which the label, by name and by content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from textlora.errors import DataError, UsageError, did_you_mean
from textlora.label_cells import form_of, items
from textlora.readers.tables import Confidence, Row

# fmt: off
TEXT_NAMES = frozenset((
    "text", "texts", "review", "reviews", "sentence", "comment", "content", "body", "tweet", "message", "post", "document",
    "description", "utterance", "question", "headline", "title", "abstract", "statement", "article", "feedback", "phrase", "query",
))
LABEL_NAMES = frozenset((
    "label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity", "intent", "topic", "stance",
    "categories", "emotions", "topics", "tags", "genres",
))
WEAK_LABEL_NAMES = frozenset(("rating", "stars", "score", "tag", "y", "spam", "toxic"))
# fmt: on

_SHOWN_NAME = 40
_TEXT_WORDS = 3
_LABEL_WORDS = 4
_WHOLE_NAME = 2


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is the text and which the label, how sure that is, and why."""

    text: str
    label: str
    text_confidence: Confidence
    label_confidence: Confidence
    reason: str


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    confidence: Confidence
    why: str


@dataclass(frozen=True, slots=True)
class _Profile:
    """What a sample shows of a column: mean characters and words, filled and distinct cells."""

    name: str
    characters: float
    words: float
    filled: int
    distinct: int

    @property
    def text_level(self) -> int:
        return 0 if self.label_level else _level(self.name, TEXT_NAMES, frozenset())

    @property
    def label_level(self) -> int:
        return _level(self.name, LABEL_NAMES, WEAK_LABEL_NAMES)

    @property
    def like_text(self) -> bool:
        return self.words >= _TEXT_WORDS and 2 * self.distinct >= self.filled

    @property
    def like_label(self) -> bool:
        return 0 < self.distinct <= min(100, max(2, self.filled // 2)) and self.words <= _LABEL_WORDS


def _level(name: str, names: frozenset[str], weak: frozenset[str]) -> int:
    """Return 2 when the whole name is known, 1 when a part is, else 0."""
    parts = [
        part.rstrip("0123456789") for part in re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    ]
    if "id" in parts:
        return 0
    if len(parts) == 1 and parts[0] in names:
        return _WHOLE_NAME
    return int(any(part in names | weak for part in parts))


def _profiles(rows: Sequence[Row], columns: Sequence[str], separator: str | None = None) -> list[_Profile]:
    return [_profile(name, [row.values[place] for row in rows], separator) for place, name in enumerate(columns)]


def _profile(name: str, values: Sequence[Any], separator: str | None = None) -> _Profile:
    if form_of(values) == "list":
        # What a list names is what the column holds.
        values = [item for value in values for item in items(value, "list", None) or ()]
    elif separator and _level(name, LABEL_NAMES, WEAK_LABEL_NAMES):
        values = [item for value in values for item in items(value, "separated", separator) or ()]
    cells = [cell for cell in (str(value)[:10_000] for value in values if value is not None) if cell.strip()]
    count = max(1, len(cells))
    characters = sum(map(len, cells)) / count
    return _Profile(name, characters, sum(len(cell.split()) for cell in cells) / count, len(cells), len(set(cells)))


def find_columns(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    text: str | None = None,
    label: str | None = None,
    where: str = "the data",
    label_separator: str | None = None,
) -> Columns:
    """Find the text and the label column by name and by content.

    Args:
        rows: a sample of the rows, as ``Table.head`` gives it.
        columns: the names of all columns.
        text: the text column, when the user named it.
        label: the label column, when the user named it.
        where: what to call the source in an error.
        label_separator: what stands between the labels of a row, where rows have several.

    Raises:
        UsageError: a named column does not exist, or both are the same.
        DataError: no column or several could be meant.
    """
    _check_names(columns, where, (text, label))
    profiles = _profiles(rows, columns, label_separator)
    chosen_text = (
        _Found(text, "sure", "you named it") if text else _find_text([p for p in profiles if p.name != label], where)
    )
    if label is None:
        chosen_label = _find_label([profile for profile in profiles if profile.name != chosen_text.name], where)
    else:
        chosen_label = _Found(label, "sure", "you named it")
    reason = (
        f"The text is column {chosen_text.name!r} ({chosen_text.confidence}: {chosen_text.why}), "
        f"the label column {chosen_label.name!r} ({chosen_label.confidence}: {chosen_label.why})."
    )
    return Columns(chosen_text.name, chosen_label.name, chosen_text.confidence, chosen_label.confidence, reason)


def find_text_column(
    rows: Sequence[Row], columns: Sequence[str], *, text: str | None = None, where: str = "the data"
) -> str:
    """Find the text column alone, for files without labels; a single column is the text.

    Raises:
        UsageError: the named column does not exist.
        DataError: no column or several could be meant.
    """
    _check_names(columns, where, (text,))
    if text is not None or len(columns) == 1:
        return text or columns[0]
    return _find_text(_profiles(rows, columns), where).name


def _check_names(columns: Sequence[str], where: str, names: Sequence[str | None]) -> None:
    wanted = [name for name in names if name is not None]
    problems = [
        f"There is no column {name!r} in {where}.{did_you_mean(name, columns)}"
        for name in wanted
        if name not in columns
    ]
    if len(problems) == 1:
        raise UsageError(problems[0], hint=_listed(columns))
    if problems:
        raise UsageError(f"Some columns are not in {where}:", problems=problems, hint=_listed(columns))
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"Text and label are the same column {wanted[0]!r}.", hint=_listed(columns))


def _listed(columns: Iterable[str]) -> str:
    return f"Columns: {_names(columns)}."


def _names(columns: Iterable[str]) -> str:
    return ", ".join(name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 1]}…" for name in columns)


def _find_text(profiles: Sequence[_Profile], where: str) -> _Found:
    longest = max((profile.characters for profile in profiles), default=0.0)
    # A known word inside a name counts only where the cells are long, as those of 'review_text'.
    named = [p for p in profiles if p.text_level == _WHOLE_NAME or (p.text_level and 2 * p.characters >= longest)]
    best_level = max((profile.text_level for profile in named), default=0)
    pool = [p for p in named if p.text_level == best_level] or [p for p in profiles if p.like_text]
    if not pool:
        raise _column_error("text", [], profiles, where)
    pool.sort(key=lambda profile: -profile.characters)
    if len(pool) > 1 and 2 * pool[1].characters >= pool[0].characters:
        raise _column_error("text", pool, profiles, where)
    best = pool[0]
    if not named:
        return _Found(best.name, "likely", "it has the longest texts")
    if 2 * best.characters >= longest and best.like_text:
        return _Found(best.name, "sure", "its name and its content agree")
    return _Found(best.name, "likely", "its name says so")


def _find_label(profiles: Sequence[_Profile], where: str) -> _Found:
    best_level = max((profile.label_level for profile in profiles), default=0)
    named = [profile for profile in profiles if best_level and profile.label_level == best_level]
    if len(named) == 1:
        return _named_label(named[0], best_level)
    pool = [profile for profile in named or profiles if profile.like_label and profile.distinct > 1]
    if len(pool) != 1:
        raise _column_error("label", pool or named, profiles, where)
    return _Found(pool[0].name, "likely", "it has few distinct values")


def _named_label(profile: _Profile, level: int) -> _Found:
    if not profile.like_label:
        return _Found(profile.name, "guess", "its name says so, but it has many distinct values")
    if level < _WHOLE_NAME:
        return _Found(profile.name, "likely", "a part of its name and its content say so")
    return _Found(profile.name, "sure", "its name and its content agree")


def _column_error(kind: str, pool: Sequence[_Profile], profiles: Sequence[_Profile], where: str) -> DataError:
    if pool:
        message = f"Several columns of {where} could be the {kind}: {_names(profile.name for profile in pool)}."
        return DataError(message, hint=f"Name it: --{kind} {pool[0].name}.")
    message = f"No column of {where} looks like the {kind}. {_listed(profile.name for profile in profiles)}"
    return DataError(message, hint=f"The first line must name the columns; then name it with --{kind} COLUMN.")
