"""Horizontal bars as SVG text, legible on light and on dark pages."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, VALUES = 820, 270, 130
ROW, BAR, TITLE, GAP = 30, 18, 34, 18
NOTE, NOTE_COLUMNS = 18, 120
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .note { font-size: 12px; fill: #636c76; }
  .theirs { fill: #afb8c1; }
  .ours { fill: #2f6feb; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note { fill: #9198a1; }
    .theirs { fill: #6e7681; }
    .ours { fill: #58a6ff; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length in the unit of its group, and whether it is ours."""

    label: str
    value: float
    ours: bool


@dataclass(frozen=True)
class Group:
    """Bars on one scale under a title; the first is what the others are compared with."""

    title: str
    bars: tuple[Bar, ...]


def draw(groups: Sequence[Group], note: str) -> str:
    """Return an SVG document with the groups under each other and a note below."""
    parts, top = [], 0
    for group in groups:
        parts += _group(group, top)
        top += TITLE + ROW * len(group.bars) + GAP
    for line in textwrap.wrap(note, NOTE_COLUMNS):
        top += NOTE
        parts.append(f'<text class="note" x="0" y="{top - 4}">{escape(line)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 6}" width="{WIDTH}" role="img">'
    title = "<title>Processor time per review</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _group(group: Group, top: int) -> list[str]:
    scale = (WIDTH - LABELS - VALUES) / max(bar.value for bar in group.bars)
    lines = [f'<text class="title" x="0" y="{top + 18}">{escape(group.title)}</text>']
    for number, bar in enumerate(group.bars):
        lines += _bar(bar, top + TITLE + ROW * number, scale=scale, first=group.bars[0])
    return lines


def _bar(bar: Bar, top: int, *, scale: float, first: Bar) -> list[str]:
    length, base = max(2.0, bar.value * scale), top + BAR - 4
    digits = 0 if bar.value >= 100 else 1
    times = "" if bar is first else f"  ·  {first.value / bar.value:.1f}×"
    kind = "ours" if bar.ours else "theirs"
    return [
        f'<text x="{LABELS - 12}" y="{base}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="3"/>',
        f'<text x="{LABELS + length + 8:.1f}" y="{base}">{bar.value:,.{digits}f}{times}</text>',
    ]
