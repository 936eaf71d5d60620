"""Predicted against measured, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLOURS = ("#3b6fb6", "#d1603d", "#4f9d69", "#8a5fa8")
SIDE, MARGIN, GAP = 360, 60, 50
FIGURES = (("seconds", 0.2, "Time in seconds, ± 20 %"), ("memory_gb", 0.1, "Peak memory in GB, ± 10 %"))


def draw(results: Sequence[dict[str, Any]]) -> str:
    """Return an SVG: time and memory of every job, with the promised bands."""
    methods = list(dict.fromkeys(result["method"] for result in results))
    width, height = 2 * (SIDE + MARGIN) + GAP, SIDE + 2 * MARGIN + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, figure in enumerate(FIGURES):
        parts += _panel(results, methods, figure, left=MARGIN + number * (SIDE + MARGIN + GAP // 2))
    for number, method in enumerate(methods):
        x, y = MARGIN + 150 * number, SIDE + MARGIN + 62
        parts.append(f'<rect x="{x}" y="{y - 10}" width="10" height="10" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 16}" y="{y}">{method}</text>')
    parts.append(
        f'<text x="{MARGIN + 150 * len(methods)}" y="{SIDE + MARGIN + 62}">circles MiniLM-L6, squares distilbert-base</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    results: Sequence[dict[str, Any]], methods: list[str], figure: tuple[str, float, str], *, left: int
) -> list[str]:
    name, band, title = figure
    high = 1.1 * max(result[kind][name] for result in results for kind in ("predicted", "measured"))
    top, bottom = MARGIN, MARGIN + SIDE

    def place(measured: float, predicted: float) -> tuple[float, float]:
        return left + SIDE * measured / high, bottom - SIDE * predicted / high

    edge = 1 / (1 + band)
    corners = [place(0, 0), place(high, high * (1 - band)), place(high, high), place(high * edge, high)]
    parts = [
        f'<text x="{left}" y="{top - 14}" font-size="14">{title}</text>',
        f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}" fill="#ececec"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{left + SIDE}" y2="{top}" stroke="#999"/>',
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#555"/>',
        f'<text x="{left + SIDE / 2}" y="{bottom + 36}" text-anchor="middle">measured</text>',
        f'<text transform="translate({left - 40} {bottom - SIDE / 2}) rotate(-90)" text-anchor="middle">predicted</text>',
    ]
    for step in range(1, 5):
        value = high * step / 4 / 1.1
        x, y = place(value, value)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.3g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    return [*parts, *(_mark(result, name, methods, place) for result in results)]


def _mark(result: dict[str, Any], name: str, methods: list[str], place: Any) -> str:
    x, y = place(result["measured"][name], result["predicted"][name])
    colour = COLOURS[methods.index(result["method"])]
    if result["model"] == "embedded":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.8"/>'
    return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="{colour}" fill-opacity="0.8"/>'
