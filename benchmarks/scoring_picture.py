"""Time and memory of scoring against the number of rows, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.picture import STYLE

WIDTH, HEIGHT, SIDE, LEFT, TOP, GAP = 820, 330, 300, 60, 44, 120
DEEP = 220
MORE = """
  .line { stroke: #afb8c1; stroke-width: 1.5; fill: none; }
  .axis { stroke: #d1d9e0; }
  @media (prefers-color-scheme: dark) { .line { stroke: #6e7681; } .axis { stroke: #3d444d; } }
"""


def draw(points: Mapping[int, Sequence[Mapping[str, float]]], fit: Mapping[str, float], words: int) -> str:
    """Return an SVG: processor time with the line fitted to it, and peak memory, each against rows."""
    sizes = list(points)
    times, peaks = (
        [median(point[name] for point in found) for found in points.values()] for name in ("cpu", "peak_gb")
    )
    line = (fit["start_seconds"], fit["start_seconds"] + fit["ms_per_row"] / 1000 * sizes[-1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        f"<title>Scoring files: time and memory against rows</title><style>{STYLE}{MORE}</style>",
        *_panel("Processor seconds", sizes, times, LEFT, line),
        *_panel("Peak memory, GB", sizes, peaks, LEFT + SIDE + GAP, None),
        f'<text class="note" x="0" y="{HEIGHT - 8}">Whole commands, start-up included; rows of {words} words, MiniLM-L6. '
        f"R² of the line {fit['time_r2']:.4f}; memory from the second point to the last {100 * fit['rss_growth']:+.0f} %.</text>",
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _panel(
    title: str, sizes: Sequence[int], values: Sequence[float], left: int, line: tuple[float, float] | None
) -> list[str]:
    high = 1.15 * max(values)
    bottom = TOP + DEEP

    def across(size: float) -> float:
        return left + SIDE * size / sizes[-1]

    def up(value: float) -> float:
        return bottom - DEEP * value / high

    parts = [f'<text class="title" x="{left}" y="{TOP - 18}">{title}</text>']
    parts += [f'<path class="axis" fill="none" d="M{left} {TOP}V{bottom}H{left + SIDE}"/>']
    if line:
        ends = f"M{left} {up(line[0]):.1f}L{left + SIDE} {up(line[1]):.1f}"
        parts.append(f'<path class="line" d="{ends}"/>')
    for share in (0.0, 0.5, 1.0):
        value = share * max(values)
        parts.append(f'<text class="note" x="{left - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for size, value in zip(sizes, values, strict=True):
        parts.append(f'<circle class="ours" cx="{across(size):.1f}" cy="{up(value):.1f}" r="5"/>')
    for size in sizes[-2:]:
        parts.append(
            f'<text class="note" x="{across(size):.1f}" y="{bottom + 18}" text-anchor="middle">{size:,} rows</text>'
        )
    return parts
