"""What a run measures besides the verdict: metrics that need the model, other originals or the prior."""

import shutil
from pathlib import Path

import pytest
import torch

from fl_audit.cli.main import _run
from fl_audit.core.captures import read_truth, read_update
from fl_audit.core.files import read_tensors
from fl_audit.core.types import CaptureKey
from fl_audit.metrics import ssim
from fl_audit.models import models
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.folder import RunFolder
from fl_audit.run.results import read_reconstruction

DEFAULT = {
    "classifier-agreement",
    "feature-distance",
    "identification",
    "identification-top5",
    "lpips",
    "ms-ssim",
    "mse",
    "psnr",
    "rdlv",
    "semsim",
    "ssim",
}


def test_a_finding_has_every_cheap_metric_or_the_reason(finished: RunFolder) -> None:
    for finding in read_findings(finished.findings):
        assert set(finding.metrics) == DEFAULT
        silent = {name for name, value in finding.metrics.items() if value is None}
        assert silent == set(finding.unmeasured)
        assert {"ms-ssim", "feature-distance"}.isdisjoint(silent)
        assert "any guess would be right" in finding.unmeasured["identification-top5"]


def test_scores_in_context_are_those_of_a_plain_computation(finished: RunFolder) -> None:
    config = finished.load_config()
    pool = read_tensors(finished.truth / "pool.safetensors")["images"]
    checked = 0
    for finding in read_findings(finished.findings):
        if finding.defense == "control":
            continue
        key = CaptureKey(finding.defense, finding.round, finding.client)
        x = read_truth(finished.truth, key).images
        assert finding.reconstruction is not None
        folder = (finished.root / finding.reconstruction).parent
        y = read_reconstruction(folder).images
        assert y is not None
        assert len(x) == len(y) == 1
        model = models.create(config.model).build((1, 25, 25), 2).eval()
        model.load_state_dict(dict(read_update(finished.captures, key).sent))
        features: list[torch.Tensor] = []
        last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _module, inputs, into=features: into.append(inputs[0]))
        with torch.no_grad():
            same = bool(model(x).argmax() == model(y).argmax())
        distance = float((features[0] - features[1]).norm() / features[0].norm())
        assert finding.metrics["feature-distance"] == pytest.approx(distance, rel=1e-4)
        agreed = finding.metrics["classifier-agreement"]
        assert agreed is None or agreed == same
        prior = float(ssim(x, pool.mean(0, keepdim=True)))
        if prior >= 0.01:
            relative = (float(ssim(x, y)) - prior) / prior
            assert finding.metrics["rdlv"] == pytest.approx(relative, rel=1e-3)
        others = [
            read_truth(finished.truth, CaptureKey(finding.defense, number, finding.client)).images
            for number in (1, 2)
        ]
        ordered = sorted(torch.cat(others), key=lambda image: float((image - y[0]).square().sum()))
        if finding.metrics["identification"] is not None:
            assert finding.metrics["identification"] == float(torch.equal(ordered[0], x[0]))
        checked += 1
    assert checked == 8


def test_other_metrics_on_request(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert _run(["grade", str(folder.root), "--metric", "mse", "--metric", "fid:min_images=2"]) == 0
    capsys.readouterr()
    assert {frozenset(finding.metrics) for finding in read_findings(folder.findings)} == {
        frozenset({"mse", "semsim"})
    }, "the metric that the verdict rests on is always there"
    summary = read_summary(folder.summary)
    assert {fact.name: fact.per_image for fact in summary.metrics} == {
        "fid:min_images=2": False,
        "mse": True,
        "semsim": True,
    }
    for defense in summary.defenses:
        (entry,) = defense.sets
        assert (entry.metric, entry.images) == ("fid:min_images=2", 4)
        assert (entry.value is None) == (entry.reason is not None)
    assert "Whole sets of images" in folder.report.read_text()
    assert _run(["grade", str(folder.root), "--metric", "default", "--metric", "iip"]) == 0
    assert {frozenset(finding.metrics) for finding in read_findings(folder.findings)} == {
        frozenset({*DEFAULT, "iip"})
    }
    assert _run(["grade", str(folder.root), "--metric", "ssmi"]) == 2
    assert "Did you mean 'ssim'" in capsys.readouterr().err


def test_a_model_that_is_not_here_leaves_the_rest_measured(finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    text = folder.config.read_text()
    assert "model: lenet" in text
    folder.config.write_text(text.replace("model: lenet", "model: gone_with_the_laptop:make"))
    assert _run(["grade", str(folder.root)]) == 0
    for finding in read_findings(folder.findings):
        assert finding.status == "graded"
        assert finding.unmeasured["feature-distance"] == "not known here: the attacked model"
        assert finding.metrics["semsim"] is not None
    unavailable = {fact.name: fact.unavailable for fact in read_summary(folder.summary).metrics}
    assert unavailable["feature-distance"] == "not known here: the attacked model"
    assert unavailable["ssim"] is None
