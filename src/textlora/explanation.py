"""explain(): which words carried a decision, found by leaving them out.

A span's weight is log(p / (1 - p)) of the label with the whole text minus the same without the span:
leave-one-out occlusion (Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through
Representation Erasure", arXiv 1612.08220). Nothing but probabilities is asked of the classifier.

A text with more words than there are forward passes is searched from passages to words: about sixteen
passages of whole sentences first, then the parts of the strongest one, and again, down to its words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textlora.errors import UsageError, did_you_mean
from textlora.types import Explanation, Span, without

Probabilities = NDArray[np.float64]
# Forward passes for a text, the one with the whole text among them.
FORWARDS = 128
LEAST_FORWARDS = 4
# An evaluation explains the surest mistakes, so many at most, with fewer passes for each.
MISTAKES, MISTAKE_FORWARDS = 20, 48
FIRST_PARTS, PARTS = 16, 8
# Change of the log odds that shows at full strength, if no other span of the text is stronger; and the share of it
# that shows at all. Below, the rounding of bf16 has a say.
STRONG, LEAST = 0.5, 1 / 5
# Beyond it a probability says no more than "certain".
CERTAIN = 1e-12
LEVELS = 3

# A letter's code, see ``_code``, to what counts as a word.
UNIT = re.compile(r"[ld](?:[ldmf]|j(?=[ld])|(?<=d)q(?=d))*|c[mf]*|s[smf]*")
EMOTICON = re.compile(r"(?<!\S)[:;=][-'^o]?[()\[\]DPp/\\|*3]+(?!\w)")
SENTENCE_END = re.compile(r"[.!?…。！？]+(?=\s|$)|[。！？]|\n")
# Written without spaces: a character is the smallest part with a meaning.
CHARACTER_SCRIPTS = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA")

Place = tuple[int, int]


def explain(
    probabilities: Callable[[Sequence[str]], Probabilities],
    texts: Sequence[str],
    label_names: Sequence[str],
    *,
    label: str | Sequence[int] | None = None,
    top_k: int | None = None,
    forwards: int = FORWARDS,
) -> list[Explanation]:
    """Measure what the words of each text did to the probability of a label.

    Args:
        probabilities: returns (N, C) for N texts, as ``Classifier.predict_proba`` does.
        texts: any strings.
        label_names: one for each column.
        label: whose probability is explained, by name, or as a column for each text; each text's most
            probable one by default.
        top_k: keep only so many spans with the largest weights; all by default.
        forwards: texts at most that are classified to explain one.

    Raises:
        UsageError: no such label, ``top_k`` below 1 or ``forwards`` below 4.
    """
    _check(label_names, label, top_k, forwards)
    if not texts:
        return []
    whole = probabilities(list(texts))
    columns = _columns(whole, label_names, label)
    searches = [
        _Search(text, float(row[column]), forwards - 1) for text, row, column in zip(texts, whole, columns, strict=True)
    ]
    while asked := [
        (search, column, part) for search, column in zip(searches, columns, strict=True) for part in search.next()
    ]:
        found = probabilities([search.without(part) for search, _, part in asked])
        for (search, column, part), row in zip(asked, found, strict=True):
            search.take(part, float(row[column]))
    return [search.explanation(label_names[column], top_k) for search, column in zip(searches, columns, strict=True)]


def _columns(whole: Probabilities, label_names: Sequence[str], label: str | Sequence[int] | None) -> list[int]:
    """Return which column is explained for each text."""
    if label is None:
        return [int(column) for column in whole.argmax(1)]
    return [list(label_names).index(label)] * len(whole) if isinstance(label, str) else list(label)


def _check(label_names: Sequence[str], label: str | Sequence[int] | None, top_k: int | None, forwards: int) -> None:
    if isinstance(label, str) and label not in label_names:
        raise UsageError(
            f"There is no label {label!r}.{did_you_mean(label, label_names)}", hint=f"Labels: {', '.join(label_names)}."
        )
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}, expected 1 or more.")
    if forwards < LEAST_FORWARDS:
        raise UsageError(f"forwards is {forwards}, expected {LEAST_FORWARDS} or more.")


class _Search:
    """One text's way from passages to words. A part is a range of its words, (first, behind the last)."""

    def __init__(self, text: str, probability: float, left: int) -> None:
        self.text = text
        self.probability = probability
        self.words = words(text)
        self._sentences = _sentence_starts(text, self.words)
        self._left = left
        self._measured: dict[Place, Span] = {}

    def next(self) -> list[Place]:
        """Return the parts to measure now; none when words or forward passes are used up."""
        part, most = (0, len(self.words)), max(self._left, 0) if len(self.words) <= self._left else FIRST_PARTS
        if self._measured:
            # Opening what changes nothing would find nothing either.
            closed = [place for place, span in self._measured.items() if place[1] - place[0] > 1 and span.weight]
            if not closed:
                return []
            part, most = max(closed, key=lambda place: abs(self._measured[place].weight)), PARTS
        parts = self._divide(part, min(most, self._left))
        if len(parts) < 2 and self._measured:  # noqa: PLR2004 - a part in one part is what there was
            return []
        self._measured.pop(part, None)
        self._left -= len(parts)
        return parts

    def take(self, part: Place, probability: float) -> None:
        """Take note of the label's probability without the part."""
        start, end = self._span(part)
        weight = log_odds(self.probability) - log_odds(probability)
        self._measured[part] = Span(start, end, weight, probability)

    def without(self, part: Place) -> str:
        """Return the text without a part."""
        return without(self.text, [self._span(part)])

    def explanation(self, label: str, top_k: int | None) -> Explanation:
        """Return what was found, in the order of the text."""
        spans = sorted(self._measured.values(), key=lambda span: -abs(span.weight))[:top_k]
        complete = all(stop - start == 1 for start, stop in self._measured)
        ordered = tuple(sorted(spans, key=lambda span: span.start))
        return Explanation(self.text, label, self.probability, ordered, complete)

    def _span(self, part: Place) -> Place:
        return self.words[part[0]][0], self.words[part[1] - 1][1]

    def _divide(self, part: Place, most: int) -> list[Place]:
        """Cut a part into at most ``most`` of like size, at the ends of sentences where these are near."""
        first, stop = part
        size = stop - first
        if size <= most:
            return [(place, place + 1) for place in range(first, stop)]
        if most < 2:  # noqa: PLR2004 - no forward passes left to cut it
            return []
        cuts = {first, stop}
        for number in range(1, most):
            wanted = first + number * size / most
            nearest = min(self._sentences, key=lambda start: abs(start - wanted))
            near = abs(nearest - wanted) <= size / most / 2 and first < nearest < stop
            cuts.add(nearest if near else round(wanted))
        ordered = sorted(cuts)
        return list(pairwise(ordered))


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), within what a probability can tell from certainty."""
    p = min(max(probability, CERTAIN), 1 - CERTAIN)
    return float(np.log(p) - np.log1p(-p))


def words(text: str) -> list[Place]:
    """Return start and end of what is left out as one: words, numbers, emoji, "!" and "?".

    Words keep inner hyphens and apostrophes, and numbers their signs ("8.5/10"); Chinese and
    Japanese go by the character. Other punctuation goes with nothing and is never left out alone.
    """
    codes = "".join(map(_code, text))
    for found in EMOTICON.finditer(text):
        codes = f"{codes[: found.start()]}{'s' * len(found[0])}{codes[found.end() :]}"
    return [found.span() for found in UNIT.finditer(codes)]


@lru_cache(maxsize=4_096)
def _code(character: str) -> str:
    """Return l(etter), d(igit), m(ark), f(ormat), c(haracter script), s(ymbol), j(oins letters), q (joins digits), or a space."""
    if character in "'’-":
        return "j"
    if character in ".,/:":
        return "q"
    if character in "!?¡¿！？":
        return "s"
    category = unicodedata.category(character)
    if category[0] == "L" and unicodedata.name(character, "").startswith(CHARACTER_SCRIPTS):
        return "c"
    kinds = {"L": "l", "N": "d", "M": "m", "Cf": "f", "So": "s", "Sk": "m", "Pc": "l"}
    return kinds.get(category) or kinds.get(category[0]) or " "


def _sentence_starts(text: str, found: Sequence[Place]) -> list[int]:
    """Return the number of the first word of each sentence, and of the word behind the last."""
    ends = np.array([match.end() for match in SENTENCE_END.finditer(text)] or [len(text)])
    starts = np.searchsorted([start for start, _ in found], ends)
    return sorted({0, *starts.tolist(), len(found)})


def levels(spans: Sequence[Span]) -> list[int]:
    """Return how strong each span is: 1 to 3 carried the label, -1 to -3 spoke against it, 0 did little.

    The strongest span of a text has 3, unless even that one changes the log odds by less than ``STRONG``.
    """
    scale = max((abs(span.weight) for span in spans), default=0.0)
    shares = [span.weight / max(scale, STRONG) for span in spans]
    return [int(np.sign(share)) * min(LEVELS, 1 + int(abs(share) * LEVELS)) * (abs(share) >= LEAST) for share in shares]


def marked(text: str, spans: Sequence[Span]) -> list[tuple[str, int]]:
    """Cut a text into pieces with the level of each; what lies between spans has 0."""
    pieces, place = [], 0
    for span, level in zip(spans, levels(spans), strict=True):
        if level and span.end <= len(text):
            pieces += [(text[place : span.start], 0), (text[span.start : span.end], level)]
            place = span.end
    return [piece for piece in (*pieces, (text[place:], 0)) if piece[0]]
