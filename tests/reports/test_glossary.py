"""A report explains the words and measures that it uses, and no others."""

from pathlib import Path

from fl_audit.metrics import metrics
from fl_audit.reports.describe import metric_facts
from fl_audit.reports.glossary import glossary
from fl_audit.reports.html import build_reports
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import control, defense, facts, finding


def test_every_measure_is_explained_by_what_its_unit_says() -> None:
    measured = [metric_facts(metrics.create(name)) for name in ("psnr", "ssim")]
    lost = metric_facts(metrics.create("mse")).model_copy(update={"unavailable": "no weights"})
    whole = builders.summary().model_copy(update={"metrics": [*measured, lost]})
    terms = dict(glossary(whole))
    assert list(terms)[-2:] == ["SSIM", "PSNR (dB)"]  # the one that decides first
    assert terms["PSNR (dB)"].startswith("Peak signal-to-noise ratio")
    assert "Higher means closer" in terms["PSNR (dB)"]
    assert "decides what counts as recognisable" in terms["SSIM"]
    assert "decides" not in terms["PSNR (dB)"]
    assert "MSE" not in terms


def test_epsilon_is_explained_where_there_is_one() -> None:
    assert "Epsilon and delta" in dict(glossary(builders.summary()))
    bare = summarise([*control(0.9), finding("none")], facts(), [defense("none")])
    assert "Epsilon and delta" not in dict(glossary(bare))
    assert "Tried here: none." in dict(glossary(bare))["Defense"]


def test_the_page_has_the_words_and_says_what_the_percentage_is(tmp_path: Path) -> None:
    hostile = '<img src="x">'
    whole = builders.summary()
    named = [metric.model_copy(update={"description": hostile}) for metric in whole.metrics]
    whole = whole.model_copy(update={"metrics": named})
    lines = builders.findings()
    builders.write_run(tmp_path, lines, whole)
    page = build_reports(tmp_path)[0].read_text(encoding="utf-8")
    assert '<a href="#words">Words and measures</a>' in page
    assert hostile not in page
    assert "&lt;img src=" in page.partition('id="words"')[2]
    assert "The percentage under" not in page, "this rule knows no probability"
    likely = [line.model_copy(update={"p_recognisable": 0.97}) for line in lines]
    builders.write_run(tmp_path, likely, whole)
    page = build_reports(tmp_path)[0].read_text(encoding="utf-8")
    assert "The percentage under a picture is how probable it is that a person would recognise" in page
