"""Two folders to figures, JSON and page; and the command."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.metrics
from PIL import Image

from fl_audit.cli.main import _run
from fl_audit.core.errors import ConfigError
from fl_audit.faithfulness import MetricsFile, render_study, study
from fl_audit.faithfulness.study import Study
from fl_audit.metrics import metrics
from tests.faithfulness.pictures import noisy, pixels, save

# Untyped in scikit-image.
structural_similarity: Callable[..., float] = skimage.metrics.structural_similarity

UNITS = {name: metrics.create(name) for name in ("mse", "psnr", "ssim", "semsim", "fid")}
LEVELS = [0, 10, 20, 40, 80, 120]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs with more and more noise: two sizes, the first pair identical."""
    for number, level in enumerate(LEVELS):
        original = pixels(number, side=16 if number < 4 else 32)
        save(tmp_path / f"p{number}_ori.png", original)
        save(tmp_path / f"p{number}_rec.png", noisy(original, level, number))
    return tmp_path


def labels(folder: Path, *values: float, **fields: list[str]) -> Path:
    path = folder / "labels.jsonl"
    extra = [dict(zip(fields, entry, strict=True)) for entry in zip(*fields.values(), strict=True)]
    rows = [
        {"id": f"p{number}", "label": value, **(extra[number] if extra else {})}
        for number, value in enumerate(values)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_scores_are_scikit_images(folder: Path) -> None:
    result = study(folder, folder, UNITS).result
    assert list(result.pairs) == [f"p{number}" for number in range(len(LEVELS))]
    for name, scores in result.pairs.items():
        x, y = (np.asarray(Image.open(folder / f"{name}_{part}.png")) / 255 for part in ("ori", "rec"))
        assert scores["mse"] == pytest.approx(skimage.metrics.mean_squared_error(x, y), rel=1e-5)
        expected = structural_similarity(
            x,
            y,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        assert scores["ssim"] == pytest.approx(expected, abs=2e-6)
        assert scores["semsim"] is None or metrics.create("semsim").unavailable() is None
        assert "p_recognisable" in scores
        for metric, value in scores.items():
            assert (value is None) == (metric in result.unmeasured.get(name, {}))
    assert result.pairs["p0"]["psnr"] == 100
    assert result.sets["fid"].value is None
    assert result.sets["fid"].reason
    assert result.agreement["mse"]["psnr"] == 1
    assert result.labels is None
    assert result.faithfulness == []


def test_a_folder_with_itself_scores_best(folder: Path) -> None:
    for path in folder.glob("*_rec.png"):
        path.unlink()
    result = study(folder, folder, UNITS).result
    assert result.with_itself
    assert "compared with itself" in render_study(study(folder, folder, UNITS))
    assert {tuple(scores[name] for name in ("mse", "psnr", "ssim")) for scores in result.pairs.values()} == {
        (0, 100, 1)
    }


def test_labels_are_compared_with(folder: Path) -> None:
    path = labels(folder, 1, 1, 0.5, 0.5, 0, arch=["a", "a", "b", "b", "c"])
    result = study(folder, folder, UNITS, labels=path, by=["arch"]).result
    found = {entry.metric: entry for entry in result.faithfulness}
    assert found["mse"].pairs == 5
    assert found["mse"].auc.value == 1
    assert found["mse"].spearman.value == pytest.approx(0.9487, abs=1e-4)
    assert result.labels is not None
    assert result.labels.unlabelled == 1
    assert result.labels.values == {"0": 1, "0.5": 2, "1": 2}
    assert result.labels.spearman_ceiling == pytest.approx(0.9487, abs=1e-4)
    assert result.ranking is not None
    assert [group.group for group in result.ranking.groups] == ["a", "b", "c"]
    assert result.ranking.kendall["psnr"].value == 1
    assert MetricsFile.model_validate_json(result.model_dump_json()) == result


def test_a_reconstruction_of_nan_is_unscored_and_the_rest_is_graded(folder: Path) -> None:
    (folder / "p1_rec.png").unlink()
    values = np.full((16, 16), 0.5, dtype=np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(folder / "p1_rec.tif")
    result = study(folder, folder, UNITS, labels=labels(folder, 1, 1, 0.5, 0.5, 0, 0)).result
    assert result.pairs["p1"]["mse"] is None
    assert result.unmeasured["p1"]["mse"] == "the reconstruction contains NaN or inf"
    assert result.pairs["p2"]["mse"] is not None
    assert {entry.metric: entry.pairs for entry in result.faithfulness}["mse"] == 5
    assert render_study(study(folder, folder, UNITS))


def test_metrics_among_all_originals_and_of_whole_sets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.glob("p[45]_*.png"):
        path.unlink()  # what is left has one size
    units = {spec: metrics.create(spec) for spec in ("identification", "frechet-semsim:min_images=2")}
    result = study(folder, folder, units).result
    assert result.pairs["p0"]["identification"] == 1
    assert result.sets["frechet-semsim:min_images=2"].value is not None
    monkeypatch.setattr("fl_audit.faithfulness.grade.HELD_BYTES", 5000)
    result = study(folder, folder, units).result
    assert result.pairs["p0"]["identification"] is None
    assert "over the limit" in result.unmeasured["p0"]["identification"]
    assert "over the limit" in str(result.sets["frechet-semsim:min_images=2"].reason)


def test_mistakes_in_the_labels_come_before_any_image_is_read(folder: Path) -> None:
    (folder / "p3_rec.png").write_text("damaged")
    with pytest.raises(ConfigError, match="one value only"):
        study(folder, folder, UNITS, labels=labels(folder, 1, 1, 1))


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def labelled(folder: Path) -> Study:
    path = labels(folder, 1, 1, 0.5, 0.5, 0, 0, arch=list("aabbcc"))
    return study(folder, folder, UNITS, labels=path, by=["arch"])


def test_the_page_stands_alone(labelled: Study) -> None:
    text = render_study(labelled)
    page = _Page(text)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert 'style="' not in text
    measured = ("mse", "psnr", "ssim", "semsim", "p_recognisable")
    assert page.tags.count("circle") == 6 * len(measured), "one dot for each pair and metric"
    for words in ("Spearman", "Which metric follows the labels", "Ranking by arch", "disagree most", "p0"):
        assert words in page.words
    assert "fid" in page.words.lower()
    assert text == render_study(labelled)


def test_the_page_escapes_what_files_say(folder: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    original = pixels(50)
    save(folder / f"{nasty}_ori.png", original)
    save(folder / f"{nasty}_rec.png", noisy(original, 200))
    rows = [{"id": f"p{n}", "label": n % 2, "arch": nasty} for n in range(4)] + [
        {"id": nasty, "label": 1, "arch": "b"}
    ]
    path = folder / "labels.json"
    path.write_text(json.dumps({"judge": nasty, "pairs": rows}))
    text = render_study(study(folder, folder, UNITS, labels=path, by=["arch"]))
    assert nasty not in text
    assert "&lt;img" in text


def command(*arguments: object) -> int:
    return _run(["metrics", *map(str, arguments)])


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labels(folder, 1, 1, 0.5, 0.5, 0, 0, arch=list("aabbcc"))
    out, page = tmp_path / "new" / "out.json", tmp_path / "new" / "out.html"
    assert command(folder, folder, "--labels", path, "--group", "arch", "--json", out, "--html", page) == 0
    said = capsys.readouterr().out
    headings = ("Scores of 6 pairs", "Agreement with the labels", "Ranking by arch", "of the rankings")
    for words in (*headings, "psnr", str(out)):
        assert words in said
    written: dict[str, Any] = json.loads(out.read_text())
    assert set(written["pairs"]) == {f"p{number}" for number in range(6)}
    assert {"mse", "psnr", "ssim", "semsim", "p_recognisable"} <= set(written["pairs"]["p0"])
    assert written["pairs"]["p0"]["mse"] == 0
    assert re.search(r"<title>.*6 pairs", page.read_text())
    again = tmp_path / "again.json"
    assert command(folder, folder, "--labels", path, "--group", "arch", "--json", again) == 0
    assert again.read_bytes() == out.read_bytes()


def test_metrics_can_be_chosen(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    assert command(folder, folder, "--metric", "mse", "--metric", "lpips:vgg", "--json", out) == 0
    written = json.loads(out.read_text())
    assert [fact["name"] for fact in written["metrics"]] == ["mse", "lpips:vgg", "p_recognisable"]
    assert set(written["pairs"]["p0"]) == {"mse", "lpips:vgg", "p_recognisable"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{f}", "nowhere"], ["nowhere", "expected a folder of images"]),
        (["{f}", "{f}", "--metric", "ssmi"], ["ssmi", "Did you mean 'ssim'"]),
        (["{f}", "{f}", "--group", "arch"], ["--group", "--labels"]),
        (["{f}", "{f}", "--device", "cuda:99"], ["--device", "cuda:99"]),
        (["{f}", "{f}", "--labels", "none.json"], ["none.json", "cannot be read"]),
        (["{f}", "{f}", "--json", "{f}"], ["--json", "this is a folder"]),
        (["{f}", "{f}", "--html", "{f}/p0_ori.png/x.html"], ["--html", "is no folder"]),
        (["{f}"], ["RECONSTRUCTIONS"]),
    ],
)
def test_bad_usage_exits_2(
    arguments: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert command(*(argument.format(f=folder) for argument in arguments)) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("side", [1, 2, 7, 33])
def test_one_pair_of_any_size_is_graded(
    side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
    save(tmp_path / "sub" / "gr\u00f6\u00dfe \u56fe_ori.png", image)
    save(tmp_path / "sub" / "gr\u00f6\u00dfe \u56fe_rec.png", 255 - image)
    out = tmp_path / "x.json"
    assert command(tmp_path, tmp_path, "--json", out) == 0
    assert "compared with itself" not in capsys.readouterr().out

    def refused(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    written = json.loads(out.read_text(encoding="utf-8"), parse_constant=refused)
    (scores,) = written["pairs"].values()
    assert list(written["pairs"]) == ["sub/gr\u00f6\u00dfe \u56fe"]
    assert scores["mse"] == pytest.approx(((image / 255 * 2 - 1) ** 2).mean(), rel=1e-5)
    for name in ("psnr", "ssim", "semsim", "p_recognisable"):
        assert scores[name] is not None
    assert 0 <= scores["p_recognisable"] <= 1
    assert written["agreement"]["mse"]["psnr"] is None
