"""Charts as inline SVG: no script, no font, no colour of their own.

Colours come from the page's style sheet through class names (``s1``, ``axis``, …), so that one
figure serves light, dark and paper. Every text passes through ``escape``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from textlora.types import Interval

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 26, 40
COLOURS = 6
MOST_POINTS = 240


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return one element; ``class_`` stands for ``class``, other underscores for hyphens."""
    shown = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, Markup("").join(escape(child) for child in children))


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Axis:
    """A labelled range of numbers."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    write: Callable[[float], str] = "{:g}".format

    @classmethod
    def over(
        cls,
        label: str,
        values: Iterable[float],
        *,
        start: float | None = None,
        write: Callable[[float], str] = "{:g}".format,
    ) -> Axis:
        """Return an axis with round ends around the values, from ``start`` where given."""
        low, high = _ends(list(values), start)
        step = round_step((high - low) / 4)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(step * place for place in range(first, last + 1))
        return cls(label, ticks[0], ticks[-1], ticks, write)

    @classmethod
    def counting(cls, label: str, values: Iterable[float]) -> Axis:
        """Return an axis from 0 that ends at the highest value, with round ticks up to there."""
        _, high = _ends(list(values), 0)
        step = max(1.0, round_step(high / 4))
        return cls(label, 0, high, tuple(step * place for place in range(int(high / step + 1e-9) + 1)), thousands)


def _ends(values: Sequence[float], start: float | None) -> tuple[float, float]:
    """Return the lowest and the highest value, moved apart where they are one."""
    low, high = (min(values) if start is None else start), max(values)
    if high > low:
        return low, high
    margin = abs(low) / 10 or 1.0
    return (low, low + margin) if start is not None else (low - margin, low + margin)


def round_step(rough: float) -> float:
    """Return the step of 1, 2 or 5 times a power of ten that is next above ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points; ``style`` is its class in the style sheet."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Two axes and the way from their numbers to places in the picture."""

    x: Axis
    y: Axis
    marks: list[Markup] = field(default_factory=list)

    def across(self, value: float) -> float:
        """Return the horizontal place of an x value."""
        return LEFT + (value - self.x.low) / (self.x.high - self.x.low) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Return the vertical place of a y value."""
        return HEIGHT - BOTTOM - (value - self.y.low) / (self.y.high - self.y.low) * (HEIGHT - TOP - BOTTOM)

    def draw(self, *marks: Markup, description: str) -> Markup:
        """Return the picture: grid, axes, then the marks."""
        return element(
            "svg",
            *self._grid(),
            *self._labels(),
            *marks,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=description,
            class_="chart",
        )

    def _grid(self) -> list[Markup]:
        lines = []
        for tick in self.y.ticks:
            place = self.down(tick)
            lines.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"))
            lines.append(element("text", self.y.write(tick), x=LEFT - 6, y=place + 4, text_anchor="end"))
        below = {"y": HEIGHT - BOTTOM + 16, "text_anchor": "middle"}
        lines += [element("text", self.x.write(tick), x=self.across(tick), **below) for tick in self.x.ticks]
        return [
            *lines,
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis"),
        ]

    def _labels(self) -> list[Markup]:
        across = element("text", self.x.label, x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end", class_="label")
        return [across, element("text", self.y.label, x=0, y=13, class_="label")]

    def line(self, series: Series) -> Markup:
        """Return a polyline, with a dot at each point where the series has few."""
        places = [(self.across(x), self.down(y)) for x, y in zip(series.x, series.y, strict=True)]
        path = element(
            "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=f"line {series.style}"
        )
        dots = (
            [element("circle", cx=x, cy=y, r=3, class_=f"dot {series.style}") for x, y in places] if series.dots else []
        )
        return Markup("").join([path, *dots])

    def upright(self, value: float, text: str) -> Markup:
        """Return a dashed vertical line with a word beside it, on the side that has room."""
        place = self.across(value)
        left = place > WIDTH * 0.6
        # On the left the axis label stands above the plot, so the word goes inside.
        word = element(
            "text",
            text,
            x=place + (2 if left else 5),
            y=TOP - 5 if left else TOP + 10,
            text_anchor="end" if left else "start",
        )
        return element("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark") + word


def lines(
    series: Sequence[Series], *, x: Axis, y: Axis, description: str, mark: tuple[float, str] | None = None
) -> Markup:
    """Return a line chart; ``mark`` draws an upright line with a word at an x value."""
    frame = Frame(x, y)
    marks = [frame.upright(*mark)] if mark else []
    return frame.draw(*marks, *(frame.line(one) for one in series), description=description)


def thousands(value: float) -> str:
    """Write a tick of a counting axis: ``1,500``."""
    return f"{value:,.0f}"


def hundredths(value: float) -> str:
    """Write a share as a tick in percent."""
    return f"{100 * value:g}%"


def smooth(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most 240 points, each the mean of a stretch of the given ones."""
    stretch = -(-len(x) // MOST_POINTS)
    if stretch <= 1:
        return list(x), list(y)
    places = range(0, len(x), stretch)
    return [_mean(x[at : at + stretch]) for at in places], [_mean(y[at : at + stretch]) for at in places]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def histogram(counts: Sequence[int], *, width: int, cut: int | None, description: str) -> Markup:
    """Return bars of ``width`` units each, the last one open; what lies beyond ``cut`` is set off."""
    high = len(counts) * width
    ticks = tuple(tick for tick in range(0, high + 1, _tick_width(high)))
    x = Axis("tokens per text", 0, high, ticks, thousands)
    frame = Frame(x, Axis.over("texts", [*counts, 1], start=0, write=thousands))
    bars = [
        _bar(frame, place * width, width, count, beyond=cut is not None and place * width >= cut)
        for place, count in enumerate(counts)
    ]
    marks = [frame.upright(cut, f"cut at {cut}")] if cut is not None and cut <= high else []
    return frame.draw(*bars, *marks, description=description)


def unit_histogram(counts: Sequence[int], *, label: str, description: str) -> Markup:
    """Return bars over equal parts of 0 to 1; those in the lower half are set off."""
    frame = Frame(unit_axis(label), Axis.over("rows", [*counts, 1], start=0, write=thousands))
    width = 1 / len(counts)
    bars = [
        _bar(frame, place * width, width, count, beyond=2 * place < len(counts)) for place, count in enumerate(counts)
    ]
    return frame.draw(*bars, description=description)


def _tick_width(high: int) -> int:
    return next((step for step in (64, 128, 256, 512, 1024) if high / step <= 6), 2048)  # noqa: PLR2004 - at most six labels fit


def _bar(frame: Frame, start: float, width: float, count: int, *, beyond: bool) -> Markup:
    left, right, top = frame.across(start), frame.across(start + width), frame.down(count)
    height = HEIGHT - BOTTOM - top
    return element(
        "rect",
        x=left + 0.5,
        y=top,
        width=max(0.5, right - left - 1),
        height=height,
        class_="bar beyond" if beyond else "bar",
    )


UNIT = Axis("", 0, 1, (0, 0.25, 0.5, 0.75, 1))


def unit_axis(label: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(label, 0, 1, UNIT.ticks)


def styles(count: int) -> list[str]:
    """Return a colour class for each series; many series share one quiet colour."""
    return [f"s{place + 1}" for place in range(count)] if count <= COLOURS else ["many"] * count


# --- intervals as HTML: they keep their text size on a phone ---------------------------------


@dataclass(frozen=True, slots=True)
class Whisker:
    """An interval on a shared scale; places in percent of its width.

    ``below`` marks one that lies outside, to the left of the scale.
    """

    name: str
    note: str
    interval: Interval
    left: float
    span: float
    dot: float
    below: bool


@dataclass(frozen=True, slots=True)
class Whiskers:
    """Several intervals under one scale; ``ticks`` are texts with their places in percent."""

    rows: tuple[Whisker, ...]
    ticks: tuple[tuple[str, float], ...]


def whiskers(entries: Sequence[tuple[str, str, Interval]], *, held: int | None = None) -> Whiskers:
    """Lay shares (name, note, interval) on one scale that just holds the first ``held`` of them.

    Without ``held`` it holds all. A far-off entry would press the others into one dot.
    """
    ends = [end for _, _, interval in entries[:held] for end in (interval.low, interval.high)]
    axis = Axis.over("", ends)
    low, high = max(0.0, axis.low), min(1.0, axis.high)

    def place(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    rows = tuple(
        Whisker(
            name,
            note,
            one,
            place(one.low),
            round(place(one.high) - place(one.low), 2),
            place(one.value),
            one.high < low,
        )
        for name, note, one in entries
    )
    ticks = [tick for tick in axis.ticks if low - 1e-9 <= tick <= high + 1e-9]
    return Whiskers(rows, tuple((hundredths(round(tick, 6)), place(tick)) for tick in ticks))
