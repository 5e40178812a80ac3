import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fl_audit.core.errors import CaptureError
from fl_audit.reports import build_reports, pictures
from fl_audit.reports.schema import Finding, MetricFacts, SetScore
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import HOSTILE, control, defense, facts, failure, finding

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    builders.write_run(tmp_path, builders.findings(), builders.summary())
    return tmp_path


def built(root: Path, findings: list[Finding], *names: str, **changes: object) -> Page:
    whole = summarise(findings, facts(**changes), [defense(name) for name in names])
    builders.write_run(root, findings, whole)
    build_reports(root)
    return Page(root / "report.html")


def test_there_is_a_report_and_a_page_for_each_client(run: Path) -> None:
    pages = build_reports(run)
    assert [path.relative_to(run).as_posix() for path in pages] == [
        "report.html",
        "clients/client-00.html",
        "clients/client-01.html",
    ]
    hrefs = [a["href"] for a in Page(pages[0]).all("a")]
    assert "clients/client-00.html" in hrefs
    assert all((run / str(href)).exists() for href in hrefs if href and not href.startswith("#"))
    for page in (Page(path) for path in pages):
        for href in (a["href"] or "" for a in page.all("a")):
            name, _, place = href.partition("#")
            target = page.path.parent / name if name else page.path
            assert target.exists(), href
            if place:  # also within the other page
                ids = {attributes.get("id") for _, attributes in Page(target).tags}
                assert place in ids, href


def test_pages_load_nothing_and_run_nothing(run: Path) -> None:
    for path in build_reports(run):
        page = Page(path)
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "link", "iframe", "object", "embed", "form", "base", "foreignObject"}
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") or name in {"style", "srcset"} for name in attributes)
            for name in ("src", "href", "xlink:href", "action", "data", "poster"):
                value = attributes.get(name)
                if value is not None:
                    assert "//" not in value or value.startswith("data:image/png;base64,"), (tag, value)
        style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]


def test_the_security_policy_names_the_hash_of_the_style(run: Path) -> None:
    for path in build_reports(run):
        page = Page(path)
        policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
        style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert policy is not None
        assert f"style-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy


def test_what_clients_say_is_escaped(run: Path) -> None:
    for path in build_reports(run):
        page = Page(path)
        assert "<script" not in page.source
        assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert "<script>alert(1)</script>" in Page(run / "report.html").text
    client = Page(run / "clients" / "client-00.html")
    assert HOSTILE in client.text
    assert "num-examples" in client.text


def test_names_from_configuration_and_data_are_escaped(tmp_path: Path) -> None:
    data = facts().dataset.model_copy(update={"title": HOSTILE, "classes": [HOSTILE, HOSTILE]})
    page = built(tmp_path, [*control(0.9), finding("none", ssim=0.9)], "none", dataset=data)
    assert "<script" not in page.source
    assert HOSTILE in page.text
    assert [i for i in page.all("img") if not str(i["src"]).startswith("data:")] == []


def test_every_picture_is_embedded_once_and_described(run: Path) -> None:
    build_reports(run)
    images = Page(run / "report.html").all("img")
    sources = [image["src"] for image in images]
    assert len(sources) == len(set(sources))
    # Four originals shared by the defenses, 4 + 4 + 1 reconstructions, two pairs of the control.
    assert len(sources) == 4 + 9 + 4
    assert all(image["alt"] for image in images)
    assert len({image["alt"] for image in images}) == len(images)
    assert all(image["class"] == "small" and image["width"] == "8" for image in images)
    embedded = {base64.b64decode(str(source).partition(",")[2]) for source in sources}
    path = builders.finding("none", 1, 0, 0).reconstruction
    assert path is not None
    assert (run / path).read_bytes() in embedded


def test_what_leaked_most_comes_first(run: Path) -> None:
    build_reports(run)
    alts = [str(i["alt"]) for i in Page(run / "report.html").all("img")]
    baseline = [alt for alt in alts if alt.startswith("Reconstruction") and alt.endswith("No defense")]
    places = [re.findall(r"\d+", alt)[:2] for alt in baseline]
    assert places == [["1", "0"], ["2", "0"], ["1", "1"], ["2", "1"]]


def test_the_number_of_pictures_is_bounded_and_the_page_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures.Album.__init__, "__defaults__", (9, 10**6))
    build_reports(run)
    page = Page(run / "report.html")
    assert len(page.all("img")) <= 9
    assert "1 of 4 images are shown" in page.words
    assert "reconstructions/" in [a["href"] for a in page.all("a")]


def test_truth_captures_and_some_pictures_may_be_gone(run: Path) -> None:
    path = builders.finding("none", 1, 0, 0).reconstruction
    assert path is not None
    (run / path).unlink()
    build_reports(run)
    assert "picture not on file" in Page(run / "report.html").words
    shutil.rmtree(run / "reconstructions")
    build_reports(run)
    assert Page(run / "report.html").all("img") == []


def test_a_picture_that_is_no_png_or_lies_outside_is_not_embedded(run: Path, tmp_path: Path) -> None:
    line = builders.finding("none", 1, 0, 0)
    assert line.reconstruction is not None
    assert line.original is not None
    (run / line.reconstruction).write_text("<svg onload=alert(1)>")
    outside = tmp_path.parent / "outside.png"
    Image.new("L", (3, 3)).save(outside)
    (run / line.original).unlink()
    (run / line.original).symlink_to(outside)
    build_reports(run)
    page = Page(run / "report.html")
    assert "onload" not in page.source
    assert "3" not in {image["width"] for image in page.all("img")}


def test_the_same_files_give_the_same_page(run: Path) -> None:
    first = [path.read_bytes() for path in build_reports(run)]
    assert [path.read_bytes() for path in build_reports(run)] == first


def test_the_verdict_comes_first(run: Path) -> None:
    build_reports(run)
    words = Page(run / "report.html").words
    order = [words.index(text) for text in ("could be recognised", "Defenses compared", "Limits of this")]
    assert order == sorted(order)
    assert "Without defense, 3 of 4 images could be recognised (75%, 95% CI" in words
    assert "Under dp, 0 of 4 images could be recognised" in words
    assert "The positive control reached 2 of 2, so the attack has power here" in words
    assert "fl-audit run --defense dp" in words
    assert "the mean image" in words
    assert "5.80 at \N{GREEK SMALL LETTER DELTA} = 1e-05" in words


def test_no_power_is_said(tmp_path: Path) -> None:
    words = built(tmp_path, [*control(0.1), finding("none"), finding("dp")], "none", "dp").words
    assert "the attack has no power here" in words
    assert "Not shown to be safe" in words
    assert "No leak found" not in words


def test_all_failed_is_said(tmp_path: Path) -> None:
    page = built(tmp_path, [failure("control"), failure("none"), failure("dp")], "none", "dp")
    assert "nothing could be graded" in page.words
    assert "There is no reconstruction to show" in page.words
    compared = page.words.partition("Defenses compared")[2].partition("Round by round")[0]
    assert not re.search(r"\b0%", compared)


def test_no_baseline_is_said(tmp_path: Path) -> None:
    assert "No undefended baseline" in built(tmp_path, [*control(0.9), finding("dp")], "dp").words


def test_of_many_clients_those_that_leaked_most_come_first(tmp_path: Path) -> None:
    lines = [finding("none", 1, c, 0, ssim=0.9 if c in (17, 39) else 0.1, pictures=False) for c in range(40)]
    page = built(tmp_path, lines, "none")
    links = [a["href"] for a in page.all("a") if str(a["href"]).startswith("clients/")]
    assert links[:4] == [f"clients/client-{client:02d}.html" for client in (17, 39, 0, 1)]
    assert len(links) == 40
    assert "Who leaked most comes first." in page.words
    few = built(tmp_path / "few", lines[10:40], "none")
    links = [a["href"] for a in few.all("a") if str(a["href"]).startswith("clients/")]
    assert links == [f"clients/client-{client}.html" for client in range(10, 40)]
    assert "Who leaked most" not in few.words


def test_nothing_attacked_still_gives_a_page(tmp_path: Path) -> None:
    assert "nothing was attacked" in built(tmp_path, [], "none").words


def test_unmeasured_metrics_have_their_reason_and_no_column(run: Path) -> None:
    build_reports(run)
    words = Page(run / "report.html").words
    assert "LPIPS: no weights" in words
    assert words.count("LPIPS") == 1


def test_tables_have_headers_with_scope(run: Path) -> None:
    for path in build_reports(run):
        page = Page(path)
        assert page.all("th")
        assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
        assert [attributes["lang"] for attributes in page.all("html")] == ["en"]
        assert len(page.all("h1")) == 1
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_a_run_without_json_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="fl-audit grade"):
        build_reports(tmp_path)


def test_short_tables_show_brief_metrics_and_the_long_one_shows_all(tmp_path: Path) -> None:
    declared = [
        MetricFacts(name="ssim", label="SSIM", better="higher", range=(-1, 1)),
        MetricFacts(name="mse", label="Long story", better="lower", range=(0, 1), brief=False),
    ]
    page = built(tmp_path, [finding(ssim=0.8)], "none", metrics=declared)
    assert page.source.count("Long story") == 1
    assert page.source.index("Long story") < page.source.index("Originals beside")
    assert page.source.count("SSIM</dt>") == 1


def test_metrics_of_whole_sets_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    declared = [
        MetricFacts(name="ssim", label="SSIM", better="higher", range=(-1, 1)),
        MetricFacts(name="fid", label="FID", better="lower", range=(0, None), per_image=False, brief=False),
    ]
    sets = [
        SetScore(metric="fid", attack="dlg", images=60, value=12.5),
        SetScore(metric="fid", attack="other", images=3, reason="3 images are too few"),
    ]
    whole = summarise([finding()], facts(metrics=declared), [defense("none", sets=sets)])
    builders.write_run(tmp_path, [finding()], whole)
    build_reports(tmp_path)
    page = Page(tmp_path / "report.html")
    assert "Whole sets of images" in page.words
    assert "No defensedlgFID (lower = closer)6012.5" in page.words
    assert "otherFID (lower = closer)33 images are too few" in page.words
    assert "Whole sets" not in built(tmp_path, [finding()], "none").words
