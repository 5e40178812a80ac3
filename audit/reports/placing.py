"""Where the labels of a chart stand so that none covers another, a marker, or the edge. Pure geometry."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DISTANCES = (12.0, 20.0, 32.0, 46.0, 62.0, 80.0, 100.0)
"""From the marker to the near side of its label, nearest first."""

DIRECTIONS = tuple(math.radians(angle) for angle in (0, 180, 45, 315, 135, 225, 90, 270, 20, 340, 160, 200))
"""Right and left first: there a label is read most easily."""

MARKER = 7.0
"""Half the side of the square that a marker takes."""

LEADER_FROM = 18.0
"""Distance from which a label is tied to its marker by a line."""

_OVERLAP, _CROSSING, _TURN = 60.0, 22.0, 0.6


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards as in SVG."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Area in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def within(self, frame: "Box") -> bool:
        """Whether it lies in ``frame`` whole."""
        return (
            self.left >= frame.left
            and self.right <= frame.right
            and self.top >= frame.top
            and self.bottom <= frame.bottom
        )


@dataclass(frozen=True)
class Place:
    """Where a label stands, and where its leader line ends; None: it is near enough without one."""

    box: Box
    leader: tuple[float, float] | None


def place_labels(
    marks: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float] | None],
    frame: Box,
    lines: Sequence[tuple[float, float, float, float]] = (),
) -> list[Place | None]:
    """Place each label in turn where it disturbs least.

    Args:
        marks: centres of the markers, x and y.
        sizes: width and height of each marker's label; None: it has none.
        frame: labels stay inside.
        lines: segments ``x1, y1, x2, y2`` that labels rather do not cross.

    Returns:
        One place for each marker; None where it has no label or none fits in the frame.
    """
    markers = [Box(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in marks]
    taken: list[Box] = []
    found: list[Place | None] = []
    for mark, size in zip(marks, sizes, strict=True):
        best: tuple[float, Place] | None = None
        for cost, place in _candidates(mark, size) if size is not None else ():
            box = place.box
            if best is not None and cost >= best[0]:
                continue
            if not box.within(frame):
                continue
            cost += _OVERLAP * sum(box.overlap(other) > 0 for other in markers)
            cost += _OVERLAP * sum(1 + box.overlap(other) for other in taken if box.overlap(other) > 0)
            cost += _CROSSING * sum(crosses(box, line) for line in lines)
            if best is None or cost < best[0]:
                best = cost, place
        found.append(None if best is None else best[1])
        if best is not None:
            taken.append(best[1].box)
    return found


def crosses(box: Box, line: tuple[float, float, float, float]) -> bool:
    """Whether a segment touches a box (Liang and Barsky's clipping, 1984)."""
    x1, y1, x2, y2 = line
    low, high = 0.0, 1.0
    edges = (
        (x1 - x2, x1 - box.left),
        (x2 - x1, box.right - x1),
        (y1 - y2, y1 - box.top),
        (y2 - y1, box.bottom - y1),
    )
    for slope, room in edges:
        if slope == 0:
            if room < 0:
                return False
        elif slope < 0:
            low = max(low, room / slope)
        else:
            high = min(high, room / slope)
    return low <= high


def _candidates(mark: tuple[float, float], size: tuple[float, float]) -> Iterator[tuple[float, Place]]:
    """Places around a marker with their cost: near ones cost least, then those beside it."""
    (x, y), (width, height) = mark, size
    for distance in DISTANCES:
        for turn, direction in enumerate(DIRECTIONS):
            dx, dy = math.cos(direction), -math.sin(direction)
            end = x + distance * dx, y + distance * dy
            # The side of the label that faces the marker touches the end of the leader.
            left = end[0] - width * (1 - dx) / 2
            top = end[1] - height * (1 - dy) / 2
            box = Box(left, top, left + width, top + height)
            leader = end if distance >= LEADER_FROM else None
            yield distance + _TURN * turn, Place(box, leader)
