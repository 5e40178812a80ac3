import itertools

import pytest

from fl_audit.reports.placing import MARKER, Box, crosses, place_labels

FRAME = Box(0, 0, 400, 300)


def test_labels_do_not_cover_one_another_or_a_marker() -> None:
    marks = [(200.0 + 9 * (i % 3), 150.0 + 9 * (i // 3)) for i in range(9)]
    places = place_labels(marks, [(60.0, 14.0)] * 9, FRAME)
    boxes = [place.box for place in places if place is not None]
    assert len(boxes) == 9
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.within(FRAME) for box in boxes)
    markers = [Box(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in marks]
    assert all(box.overlap(marker) == 0 for box in boxes for marker in markers)


def test_one_label_stands_right_of_its_marker_without_a_leader() -> None:
    (place,) = place_labels([(100, 100)], [(40, 14)], FRAME)
    assert place is not None
    assert place.leader is None
    assert (place.box.left, place.box.top) == pytest.approx((112, 93))
    (place,) = place_labels([(390, 100)], [(40, 14)], FRAME)
    assert place is not None
    assert place.box.right == pytest.approx(378)


def test_a_line_is_avoided() -> None:
    line = (0.0, 100.0, 400.0, 100.0)
    (place,) = place_labels([(100, 100)], [(40, 14)], FRAME, [line])
    assert place is not None
    assert not crosses(place.box, line)


def test_no_label_and_no_room_give_no_place() -> None:
    assert place_labels([(10, 10), (10, 10)], [None, (500, 14)], FRAME) == [None, None]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ((0, 0, 10, 10), True),
        ((0, 5, 20, 5), True),
        ((0, 0, 3, 3), False),
        ((0, 20, 20, 20), False),
        ((0, 9, 9, 0), True),
        ((0, 7, 7, 0), False),
        ((5, 0, 5, 20), True),
    ],
)
def test_crossing_by_hand(line: tuple[float, float, float, float], expected: bool) -> None:
    assert crosses(Box(4, 4, 8, 8), line) is expected
