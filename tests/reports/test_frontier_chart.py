from xml.etree import ElementTree

from fl_audit.reports.frontier import frontier_of
from fl_audit.reports.frontier_chart import HEIGHT, MOST_LABELS, WIDTH, frontier_chart, legend_of
from fl_audit.reports.frontier_facts import Frontier
from tests.reports import builders
from tests.reports.test_frontier import audited


def drawn(*found: Frontier) -> ElementTree.Element:
    return ElementTree.fromstring(frontier_chart(found, title="T"))


def classes(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in svg.iter() if element.get("class") == name]


def test_every_setting_has_a_mark_a_label_and_its_epsilon() -> None:
    svg = drawn(frontier_of(builders.summary()))
    assert len(classes(svg, "mark")) == 3
    labels = [element.text for element in classes(svg, "label mid")]
    assert labels == ["no defense", "dp \N{MIDDLE DOT} \N{GREEK SMALL LETTER EPSILON} 5.8", "prune"]
    titles = [title.text or "" for title in svg.iter("title")]
    assert any(title.startswith("no defense: 75% recognised") for title in titles)
    assert any("5.80 at \N{GREEK SMALL LETTER DELTA} = 1e-05" in title for title in titles)


def test_more_leakage_is_higher_and_more_accuracy_further_right() -> None:
    svg = drawn(frontier_of(audited(("a", 18, 0.9), ("b", 0, 0.5))))
    circle, square = classes(svg, "mark")
    assert float(circle.get("cy", "")) < float(square.get("y", ""))
    assert float(circle.get("cx", "")) > float(square.get("x", ""))
    for element in svg.iter():
        for name, limit in (("x", WIDTH), ("cx", WIDTH), ("y", HEIGHT), ("cy", HEIGHT)):
            assert 0 <= float(element.get(name, 0)) <= limit


def test_the_front_the_chosen_and_the_guesses_are_marked() -> None:
    found = frontier_of(audited(("none", 18, 0.9), ("dp", 0, 0.5), ("prune", 0, 0.7), ("clip", 18, 0.8)))
    svg = drawn(found)
    assert len(classes(svg, "chosen")) == 1
    assert len(classes(svg, "halo")) == 2
    assert len(classes(svg, "front")) == 1
    assert len(classes(svg, "guess")) == 1


def test_the_settings_of_a_sweep_are_joined_and_the_legend_says_along_what() -> None:
    params = {f"prune:{v}": {"fraction": v} for v in (0.5, 0.9, 0.99)}
    found = frontier_of(audited(*[(name, 9, 0.5 + i / 10) for i, name in enumerate(params)], params=params))
    svg = drawn(found)
    (line,) = classes(svg, "line")
    assert line.get("d", "").count("L") == 2
    assert [key.name for key in legend_of([found])] == ["prune by fraction"]


def test_nothing_measured_is_no_picture_and_names_are_escaped() -> None:
    assert frontier_chart([frontier_of(audited(("a", 1, None)))], title="T") == ""
    text = str(frontier_chart([frontier_of(audited(("<script>x", 3, 0.5)))], title="<b>"))
    assert "<script>" not in text
    assert "<b>" not in text


def test_a_crowd_keeps_the_labels_that_matter() -> None:
    settings = [("none", 18, 0.95), *[(f"p{i}", 18, 0.5 + i / 1000) for i in range(MOST_LABELS + 10)]]
    labels = [element.text for element in classes(drawn(frontier_of(audited(*settings))), "label mid")]
    assert labels == ["no defense"]
