import re
from xml.etree import ElementTree

from fl_audit.reports.plots import HEIGHT, WIDTH, Point, Series, line_chart, rate_bar, swatch


def chart(*series: Series) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(series, title="T", x_label="round", y_label="share"))


def test_a_chart_has_axes_ticks_and_a_tooltip_for_each_point() -> None:
    points = [Point(1, 0.5, "half", 0.2, 0.8), Point(2, 1.0, "all"), Point(3, None, "none")]
    svg = chart(Series("dp", points))
    texts = [text.text for text in svg.iter("text")]
    assert {"0%", "50%", "100%", "1", "2", "3", "round", "share"} <= set(texts)
    assert [title.text for title in svg.iter("title")] == ["T", "dp: half", "dp: all"]
    assert len([line for line in svg.iter("line") if line.get("class") == "whisker"]) == 1


def test_higher_shares_lie_higher_and_inside() -> None:
    svg = chart(Series("a", [Point(1, 0.0, "low"), Point(2, 1.0, "high")]))
    low, high = list(svg.iter("circle"))
    assert float(low.get("cy", "")) > float(high.get("cy", ""))
    assert float(low.get("cx", "")) < float(high.get("cx", ""))
    assert all(0 < float(mark.get("cx", "")) < WIDTH for mark in (low, high))
    assert all(0 < float(mark.get("cy", "")) < HEIGHT for mark in (low, high))


def test_the_line_breaks_where_nothing_was_measured() -> None:
    svg = chart(Series("a", [Point(1, 0.1, ""), Point(2, None, ""), Point(3, 0.3, "")]))
    path = next(svg.iter("path")).get("d", "")
    assert path.count("M") == 2
    assert "L" not in path


def test_equal_series_are_drawn_apart_and_differ_beyond_colour() -> None:
    svg = chart(*(Series(name, [Point(1, 0.5, "")]) for name in "abcd"))
    assert len({path.get("d") for path in svg.iter("path")}) == 4
    assert len({path.get("stroke-dasharray") for path in svg.iter("path")}) == 4
    assert [len(list(svg.iter(tag))) for tag in ("circle", "rect", "polygon")] == [1, 1, 2]


def test_text_is_escaped() -> None:
    text = str(
        line_chart([Series("<b>", [Point(1, 0.5, '"><script>')])], title="&", x_label="x", y_label="y")
    )
    assert "<script>" not in text
    assert "<b>" not in text


def test_many_rounds_keep_few_ticks() -> None:
    svg = chart(Series("a", [Point(x, 0.5, "") for x in range(200)]))
    ticks = [t for t in svg.iter("text") if t.get("class") == "tick mid"]
    assert len(ticks) <= 10


def test_no_points_give_no_chart() -> None:
    assert not line_chart([], title="", x_label="", y_label="")


def test_a_bar_is_as_long_as_the_share_and_absent_where_unmeasured() -> None:
    fill = re.compile(r'class="fill"')
    assert fill.search(rate_bar(0.25, None))
    assert 'width="25"' in rate_bar(0.25, None)
    assert not fill.search(rate_bar(None, None))
    assert not fill.search(rate_bar(0.0, (0.0, 0.3)))
    assert rate_bar(0.0, (0.0, 0.3)).count("whisker") == 3


def test_swatches_match_their_series() -> None:
    assert 'class="s1"' in swatch(1)
    assert "rect" in swatch(1)
