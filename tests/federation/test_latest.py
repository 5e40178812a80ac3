"""The model that many clients evaluate is built once for each global model."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn

from fl_audit.federation import run_federation
from fl_audit.federation._latest import LatestModel
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import TinySpec, toy_spec


def test_a_model_is_built_anew_only_for_other_bytes() -> None:
    latest = LatestModel()
    one, two = (ArrayRecord({"w": torch.full((2, 2), value)}) for value in (1.0, 2.0))
    first = latest.get(one, nn.Dropout)
    assert not first.training
    assert latest.get(ArrayRecord(dict(one)), nn.Flatten) is first  # another record over the same bytes
    assert isinstance(latest.get(two, nn.Flatten), nn.Flatten)
    assert isinstance(latest.get(one, nn.Identity), nn.Identity)


def test_clients_evaluate_the_global_model_of_their_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    build = TinySpec.build

    def counted(self: TinySpec, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        built.append(1)
        return build(self, image_shape, num_classes)

    monkeypatch.setattr(TinySpec, "build", counted)
    spec = toy_spec(clients=6, rounds=2, fraction=0.5)
    result = run_federation(spec, defense=defenses.create("none"), defense_slug="none", out=tmp_path)
    assert len(built) == 1 + 2 * (3 + 1)  # the first one, and in a round one for each that trains
    model = build(TinySpec(), spec.data.image_shape, 3).eval()
    model.load_state_dict(dict(result.weights))
    for client, accuracy in result.rounds[-1].client_accuracy.items():
        rows = spec.splits.test[client]
        with torch.no_grad():
            right = model(spec.data.images[rows]).argmax(1) == spec.data.labels[rows]
        assert accuracy == pytest.approx(float(right.float().mean()))
    assert len(result.rounds[-1].client_accuracy) == 6
