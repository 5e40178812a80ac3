"""A whole run under defenses that act inside training: other architectures, empty draws, originals."""

from pathlib import Path

import torch

from fl_audit.core.captures import NoImages, list_captures, read_sent, read_truth
from fl_audit.reports.schema import read_findings, read_summary
from fl_audit.run.folder import CONTROL
from fl_audit.run.grants import read_knowledge
from tests.e2e.conftest import audit, small

SPECS = ["precode:size=8", "dp-sgd"]


def test_everybody_uses_the_architecture_and_an_update_of_no_image_has_no_finding(tmp_path: Path) -> None:
    config = small(
        defenses=SPECS,
        baseline=False,
        federation__clients=3,
        attack__names=["inverting-gradients:iterations=2,restarts=1"],
    )
    folder = audit(tmp_path / "run", config)
    for slug in ("precode-size=8", "dp-sgd", CONTROL):
        for key in list_captures(folder.captures, slug):
            model = read_knowledge(folder.knowledge_file(key), key).model
            assert model is not None
            model.load_state_dict(read_sent(folder.captures, key))
    found = {(f.defense, f.round, f.client): f.status for f in read_findings(folder.findings)}
    assert set(found.values()) == {"graded"}
    empty = 0
    for key in list_captures(folder.captures, "dp-sgd"):
        try:
            images = read_truth(folder.truth, key).images
        except NoImages:
            empty += 1
            assert ("dp-sgd", key.round, key.client) not in found
        else:
            assert images.dtype == torch.float32
            assert ("dp-sgd", key.round, key.client) in found
    assert 0 < empty < 6
    summary = read_summary(folder.summary)
    dp = next(defense for defense in summary.defenses if defense.name == "dp-sgd")
    assert dp.failed == {}
    assert dp.images == dp.graded
    assert dp.epsilon is not None
    assert "Opacus PRV accountant, 2 steps" in dp.privacy
