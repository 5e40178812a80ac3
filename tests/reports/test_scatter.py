from xml.etree import ElementTree

import pytest

from fl_audit.reports.scatter import Axis, Dot, scatter


@pytest.mark.parametrize(
    ("low", "high", "named"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1.7, 39.7, [5, 10, 15, 20, 25, 30, 35]),
        (-0.627, 0.996, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8]),
        (3e-4, 5e-4, [3e-4, 3.5e-4, 4e-4, 4.5e-4, 5e-4]),
        (7, 7, [7]),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float, named: list[float]) -> None:
    assert list(Axis("x", low, high).named()) == pytest.approx(named)


def test_dots_lie_where_their_values_are() -> None:
    x, y = Axis("x", 0, 10), Axis("label", 0, 1, (0, 0.5, 1))
    svg = ElementTree.fromstring(
        scatter([Dot(0, 0, "low <b>"), Dot(10, 1, "high", 3), Dot(5, 0.5, "mid")], x, y, title="t & u")
    )
    low, high, mid = svg.iter("circle")
    assert float(low.attrib["cx"]) < float(mid.attrib["cx"]) < float(high.attrib["cx"])
    assert float(low.attrib["cy"]) > float(mid.attrib["cy"]) > float(high.attrib["cy"])
    assert float(low.attrib["cx"]) + float(high.attrib["cx"]) == pytest.approx(2 * float(mid.attrib["cx"]))
    assert low.findtext("title") == "low <b>"
    assert high.attrib["class"] == "dot s3"
    assert svg.attrib["aria-label"] == "t & u"
    assert [text.text for text in svg.iter("text")][:3] == ["0", "0.5", "1"]
    assert not any("style" in element.attrib for element in svg.iter())
    assert scatter([], x, y, title="t") == ""
