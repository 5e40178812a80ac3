"""The frontier as a picture: leak rate against accuracy, every setting in it, without a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from fl_audit.reports.frontier_facts import Frontier, FrontierPoint
from fl_audit.reports.frontier_words import bare, name_of
from fl_audit.reports.placing import Box, place_labels
from fl_audit.reports.plots import COLOURS, dash, element, marker, markup, write
from fl_audit.reports.scatter import Axis
from fl_audit.reports.words import NOT_THE_SERVER, epsilon, interval, percent

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 18, 46
LETTER, LINE = 6.9, 15.0
"""Width of a letter and height of a line of a label; no letter of the usual fonts is wider on average."""

MOST_LABELS = 40
MOST_LETTERS = 30
NARROWEST = 0.1
"""The accuracy axis spans at least this: smaller differences should look small."""


@dataclass(frozen=True)
class Key:
    """One entry of the legend: index of colour and shape, the family and what its sweep runs along."""

    index: int
    name: str


def legend_of(found: Sequence[Frontier]) -> list[Key]:
    """The families in order of appearance, each with one colour and shape."""
    along = {
        one.points[sweep.points[0]].family: sweep.parameter.rpartition(".")[2]
        for one in found
        for sweep in one.sweeps
    }
    return [
        Key(index, f"{name} by {along[name]}" if name in along else _family(name))
        for index, name in enumerate(_families(found))
    ]


def frontier_chart(found: Sequence[Frontier], *, title: str) -> Markup:
    """The picture; several frontiers (settings that were not measured alike) have a front each.

    Empty where no setting has both coordinates.
    """
    drawn = [
        (one, place, point.leak_rate, point.accuracy)
        for one in found
        for place, point in enumerate(one.points)
        if point.leak_rate is not None and point.accuracy is not None
    ]
    if not drawn:
        return Markup()
    frame = _Frame(_axis([accuracy for *_, accuracy in drawn]))
    at = {(id(one), place): (frame.x(worth), frame.y(leak)) for one, place, leak, worth in drawn}
    svg = element(
        "svg", None, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", css="chart wide", aria_label=title
    )
    write(svg, "title", title)
    guess = max((one.guess_rate for one in found if one.guess_rate is not None), default=None)
    _axes(svg, frame, guess)
    lines = [line for one in found for line in _front(svg, one, at)]
    if guess is not None:
        lines.append((LEFT, frame.y(guess), WIDTH - RIGHT, frame.y(guess)))
    families = _families(found)
    for one in found:
        lines += _sweeps(svg, one, at, families)
    spread = [one.points[place] for one, place, *_ in drawn]
    _whiskers(svg, frame, spread, families)
    # The baseline last: settings that change nothing lie on it.
    for (one, place, *_), point in sorted(zip(drawn, spread, strict=True), key=lambda both: both[1].baseline):
        _point(svg, one, place, point, at[id(one), place], families.index(point.family))
    _labels(svg, drawn, at, lines)
    return markup(svg)


def key_of(kind: str) -> Markup:
    """The key of a ring (``front``, ``chosen``) or of the guesses' line (``guess``) for the legend."""
    svg = element("svg", None, viewBox="0 0 34 14", css="swatch", aria_hidden="true")
    if kind == "guess":
        element("line", svg, x1=1, x2=33, y1=7, y2=7, css="guess")
    elif kind == "front":
        element("path", svg, d="M1 12L17 12L17 3L33 3", css="front")
    else:
        element("circle", svg, cx=17, cy=7, r=5.5, css="chosen")
    return markup(svg)


@dataclass(frozen=True)
class _Frame:
    axis: Axis

    def x(self, accuracy: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self.axis.share(accuracy)

    def y(self, leak: float) -> float:
        # Room above all and below none, for markers and their labels.
        return TOP + (HEIGHT - TOP - BOTTOM) * (0.94 - 0.88 * leak)


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    missing = max(NARROWEST - (high - low), 0.0)
    low = max(low - missing / 2, 0.0)
    return Axis("accuracy of the global model", low, min(max(high, low + NARROWEST), 1.0))


def _axes(svg: ElementTree.Element, frame: _Frame, guess: float | None) -> None:
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = frame.y(share)
        element("line", svg, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, css="grid")
        write(svg, "text", f"{share:.0%}", x=LEFT - 8, y=y + 4, css="tick end")
    for value in frame.axis.named():
        x = frame.x(value)
        element("line", svg, x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, css="grid faint")
        write(svg, "text", f"{100 * value:.4g}%", x=x, y=HEIGHT - BOTTOM + 17, css="tick mid")
    middle = (LEFT + WIDTH - RIGHT) / 2
    write(svg, "text", f"{frame.axis.label} (right is better)", x=middle, y=HEIGHT - 8, css="axis mid")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = f"rotate(-90 14 {middle:g})"
    write(svg, "text", "images recognised (down is better)", x=14, y=middle, transform=turn, css="axis mid")
    if guess is not None:
        y = frame.y(guess)
        line = element("line", svg, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, css="guess")
        write(line, "title", f"what guesses reach: {percent(guess)}")


def _front(svg: ElementTree.Element, one: Frontier, at: "_Places") -> list["_Line"]:
    """The Pareto front as steps: all that lies above and to the left of it is worse than some setting."""
    points = sorted(at[id(one), place] for place, p in enumerate(one.points) if p.front)
    if len(points) < 2:
        return []
    steps = [points[0]]
    for x, y in points[1:]:
        steps += [(x, steps[-1][1]), (x, y)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in steps)
    write(element("path", svg, d=path, css="front"), "title", "Pareto front")
    return [(*a, *b) for a, b in zip(steps, steps[1:], strict=False)]


def _sweeps(svg: ElementTree.Element, one: Frontier, at: "_Places", families: Sequence[str]) -> list["_Line"]:
    lines = []
    for sweep in one.sweeps:
        places = [at[id(one), place] for place in sweep.points if (id(one), place) in at]
        if len(places) > 1:
            index = families.index(one.points[sweep.points[0]].family)
            group = element("g", svg, css=f"s{index % COLOURS}")
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            element("path", group, d=path, css="line", stroke_dasharray=dash(index))
            lines += [(*a, *b) for a, b in zip(places, places[1:], strict=False)]
    return lines


def _whiskers(
    svg: ElementTree.Element, frame: _Frame, points: Sequence[FrontierPoint], families: Sequence[str]
) -> None:
    for point in points:
        if point.leak_rate_ci is not None and point.accuracy is not None:
            low, high = point.leak_rate_ci
            x = frame.x(point.accuracy)
            group = element("g", svg, css=f"s{families.index(point.family) % COLOURS}")
            element("line", group, x1=x, x2=x, y1=frame.y(low), y2=frame.y(high), css="whisker thin")


def _point(
    svg: ElementTree.Element,
    one: Frontier,
    place: int,
    point: FrontierPoint,
    at: tuple[float, float],
    index: int,
) -> None:
    group = element("g", svg, css=f"s{index % COLOURS}")
    if place == one.weakest:
        element("circle", group, cx=at[0], cy=at[1], r=12, css="chosen")
    if point.front:
        element("circle", group, cx=at[0], cy=at[1], r=8.5, css="halo")
    shape = marker(group, index, *at)
    known = [
        f"{name_of(point)}: {percent(point.leak_rate)} recognised",
        f"95% CI {interval(point.leak_rate_ci)}" if point.leak_rate_ci else "",
        f"accuracy {percent(point.accuracy)}",
        f"\N{GREEK SMALL LETTER EPSILON} {epsilon(point.epsilon, point.delta)}",
        "" if point.against_server else NOT_THE_SERVER,
        "on the Pareto front" if point.front else "",
        "the weakest at the level of guesses" if place == one.weakest else "",
    ]
    write(shape, "title", ", ".join(text for text in known if text))


def _labels(
    svg: ElementTree.Element,
    drawn: Sequence[tuple[Frontier, int, float, float]],
    at: "_Places",
    lines: Sequence["_Line"],
) -> None:
    crowded = len(drawn) > MOST_LABELS
    texts = [
        _label(one.points[place])
        if not crowded or one.points[place].front or one.points[place].baseline or place == one.weakest
        else None
        for one, place, *_ in drawn
    ]
    marks = [at[id(one), place] for one, place, *_ in drawn]
    shown = [place for place, text in enumerate(texts) if text is not None][:MOST_LABELS]
    texts = [text if place in shown else None for place, text in enumerate(texts)]
    sizes = [None if text is None else (LETTER * len(text), LINE) for text in texts]
    frame = Box(LEFT + 2, TOP - 8, WIDTH - 4, HEIGHT - BOTTOM - 2)
    for (x, y), text, found in zip(marks, texts, place_labels(marks, sizes, frame, lines), strict=True):
        if text is None or found is None:
            continue
        if found.leader is not None:
            element("line", svg, x1=x, y1=y, x2=found.leader[0], y2=found.leader[1], css="leader")
        middle = (found.box.left + found.box.right) / 2
        write(svg, "text", text, x=middle, y=found.box.bottom - 4, css="label mid")


def _label(point: FrontierPoint) -> str:
    """The setting, with its epsilon where it has one; the family's colour and shape say the rest."""
    name = bare(point) if point.baseline else point.setting
    name = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    name = f"{point.run}: {name}" if point.run else name
    if point.epsilon is None:
        return name
    whom = "" if point.against_server else f" {NOT_THE_SERVER}"
    return f"{name} \N{MIDDLE DOT} \N{GREEK SMALL LETTER EPSILON} {_compact(point.epsilon)}{whom}"


def _compact(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _families(found: Sequence[Frontier]) -> list[str]:
    return list(dict.fromkeys(point.family for one in found for point in one.points))


def _family(name: str) -> str:
    return "no defense" if name == "none" else name


_Places = dict[tuple[int, int], tuple[float, float]]
_Line = tuple[float, float, float, float]
