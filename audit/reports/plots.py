"""Charts as inline SVG: axes, ticks, tooltips, no script, no style attribute (the page's CSP forbids it).

Series differ in colour (Okabe and Ito's palette, told apart by colour-blind readers; the page's style
sheet holds the values for light and dark), in marker shape and in dash pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 12, 42
COLOURS = 8
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Point:
    """One value with its interval; ``y`` None: not measured, the line is broken there."""

    x: float
    y: float | None
    tooltip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture; the lines stand a little apart, so that equal ones are all seen."""

    first: float
    last: float
    columns: int
    lines: int

    @property
    def dense(self) -> bool:
        """Whether markers of the usual size would run into each other."""
        return self.columns > 15

    def x(self, value: float, line: float) -> float:
        span = self.last - self.first
        share = 0.04 + 0.92 * (value - self.first) / span if span else 0.5
        apart = (line - (self.lines - 1) / 2) * (0 if self.dense else min(7.0, 40 / self.lines))
        return LEFT + (WIDTH - LEFT - RIGHT) * share + apart

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value)


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """A line chart of shares: y runs from 0 to 1, written as percentages; x holds whole numbers."""
    columns = sorted({point.x for line in series for point in line.points})
    if not columns:
        return Markup()
    frame = _Frame(columns[0], columns[-1], len(columns), len(series))
    svg = element("svg", None, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", css="chart", aria_label=title)
    write(svg, "title", title)
    _axes(svg, frame, columns, x_label, y_label)
    for index, line in enumerate(series):
        _line(svg, frame, index, line)
    return markup(svg)


def _axes(
    svg: ElementTree.Element, frame: _Frame, columns: Sequence[float], x_label: str, y_label: str
) -> None:
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = frame.y(share)
        element("line", svg, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, css="grid")
        write(svg, "text", f"{share:.0%}", x=LEFT - 6, y=y + 4, css="tick end")
    for value in _thin(columns, 10):
        at = frame.x(value, (frame.lines - 1) / 2)
        write(svg, "text", f"{value:g}", x=at, y=HEIGHT - BOTTOM + 17, css="tick mid")
    write(svg, "text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, css="axis mid")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = f"rotate(-90 14 {middle:g})"
    write(svg, "text", y_label, x=14, y=middle, transform=turn, css="axis mid")


def _line(svg: ElementTree.Element, frame: _Frame, index: int, line: Series) -> None:
    group = element("g", svg, css=f"s{index % COLOURS}")
    path, pen = [], "M"
    for point in line.points:
        if point.y is None:
            pen = "M"
        else:
            path.append(f"{pen}{frame.x(point.x, index):.1f} {frame.y(point.y):.1f}")
            pen = "L"
    element("path", group, d="".join(path), css="line", stroke_dasharray=dash(index))
    for point in line.points:
        if point.y is not None:
            x, y = frame.x(point.x, index), frame.y(point.y)
            if point.low is not None and point.high is not None:
                ends = {"y1": frame.y(point.low), "y2": frame.y(point.high)}
                element("line", group, x1=x, x2=x, css="whisker", **ends)
            write(
                marker(group, index, x, y, 0.5 if frame.dense else 1),
                "title",
                f"{line.name}: {point.tooltip}",
            )


def swatch(index: int) -> Markup:
    """The key of series ``index`` for the legend."""
    svg = element("svg", None, viewBox="0 0 34 14", css="swatch", aria_hidden="true")
    group = element("g", svg, css=f"s{index % COLOURS}")
    element("path", group, d="M1 7L33 7", css="line", stroke_dasharray=dash(index))
    marker(group, index, 17, 7)
    return markup(svg)


def rate_bar(rate: float | None, bounds: tuple[float, float] | None) -> Markup:
    """A share as a bar with its interval; the number stands beside it, so readers skip the bar."""
    svg = element("svg", None, viewBox="0 0 104 14", css="bar", aria_hidden="true")
    element("rect", svg, x=2, y=4, width=100, height=6, rx=3, css="track")
    if rate is not None:
        if rate > 0:
            element("rect", svg, x=2, y=4, width=round(100 * rate, 1), height=6, rx=3, css="fill")
        if bounds is not None:
            low, high = (2 + 100 * bound for bound in bounds)
            element("line", svg, x1=low, x2=high, y1=7, y2=7, css="whisker")
            for end in (low, high):
                element("line", svg, x1=end, x2=end, y1=3.5, y2=10.5, css="whisker")
    return markup(svg)


def marker(
    parent: ElementTree.Element, index: int, x: float, y: float, size: float = 1
) -> ElementTree.Element:
    """The marker of series ``index`` at a point: circle, square, triangle, diamond in turn."""
    shape = index % 4
    if shape == 0:
        return element("circle", parent, cx=x, cy=y, r=4.5 * size, css="mark")
    if shape == 1:
        half = 4 * size
        return element("rect", parent, x=x - half, y=y - half, width=2 * half, height=2 * half, css="mark")
    corners = {
        2: ((0, -5.5), (5, 4), (-5, 4)),
        3: ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }[shape]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return element("polygon", parent, points=points, css="mark")


def dash(index: int) -> str:
    """The dash pattern of series ``index``; empty for a solid line."""
    return _DASHES[(index + index // COLOURS) % len(_DASHES)]


def _thin(values: Sequence[float], most: int) -> list[float]:
    step = -(-len(values) // most)
    return list(values[::step])


def element(
    tag: str, parent: ElementTree.Element | None, /, **attributes: float | str
) -> ElementTree.Element:
    """An element; ``css`` is its class, an underscore in a name stands for a hyphen, "" leaves it out."""
    texts = {
        "class" if name == "css" else name.replace("_", "-"): (
            value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
        )
        for name, value in attributes.items()
        if value != ""
    }
    return ElementTree.Element(tag, texts) if parent is None else ElementTree.SubElement(parent, tag, texts)


def write(parent: ElementTree.Element, tag: str, text: str, /, **attributes: float | str) -> None:
    """An element that holds ``text``, of which what cannot be printed is left out."""
    element(tag, parent, **attributes).text = "".join(c for c in text if c.isprintable())


def markup(svg: ElementTree.Element) -> Markup:
    """Serialise; ElementTree has escaped every text and attribute."""
    return Markup(ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False))
