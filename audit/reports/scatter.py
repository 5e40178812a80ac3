"""Scatter plots as inline SVG, drawn like the line charts: no script, no style attribute."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fl_audit.reports.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, element, markup, write

FEWEST_TICKS = 4
MARGIN = 0.04
"""Share of each axis that stays free at its ends."""


@dataclass(frozen=True)
class Dot:
    """One point: where it lies, what a reader who points at it is told, and which series' colour it has."""

    x: float
    y: float
    tooltip: str
    series: int = 0


@dataclass(frozen=True)
class Axis:
    """One axis; ``ticks`` are the values that it names, a few round ones if empty."""

    label: str
    low: float
    high: float
    ticks: Sequence[float] = ()

    def share(self, value: float) -> float:
        """Where on the axis ``value`` lies, from 0 to 1."""
        span = self.high - self.low
        return MARGIN + (1 - 2 * MARGIN) * (value - self.low) / span if span else 0.5

    def named(self) -> Sequence[float]:
        """The values to name."""
        if self.ticks or self.high <= self.low:
            return self.ticks or [self.low]
        rough = (self.high - self.low) / FEWEST_TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = power * max(factor for factor in (1, 2, 5) if factor * power <= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def scatter(dots: Sequence[Dot], x: Axis, y: Axis, *, title: str) -> Markup:
    """A scatter plot; empty if there is nothing to draw."""
    if not dots:
        return Markup()
    svg = element("svg", None, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", css="chart", aria_label=title)
    write(svg, "title", title)
    for value in y.named():
        at = _y(y, value)
        element("line", svg, x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, css="grid")
        write(svg, "text", f"{value:g}", x=LEFT - 6, y=at + 4, css="tick end")
    for value in x.named():
        write(svg, "text", f"{value:g}", x=_x(x, value), y=HEIGHT - BOTTOM + 17, css="tick mid")
    write(svg, "text", x.label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, css="axis mid")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = f"rotate(-90 14 {middle:g})"
    write(svg, "text", y.label, x=14, y=middle, transform=turn, css="axis mid")
    for dot in dots:
        point = element("circle", svg, cx=_x(x, dot.x), cy=_y(y, dot.y), r=3, css=f"dot s{dot.series % 8}")
        write(point, "title", dot.tooltip)
    return markup(svg)


def _x(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.share(value)


def _y(axis: Axis, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - axis.share(value))
