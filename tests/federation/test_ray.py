"""Engine ray: the same apps on Flower's simulation engine. One run, for its start takes seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_audit.core.captures import list_captures
from fl_audit.federation import Training, run_federation
from fl_audit.strategies.defenses import defenses
from tests.federation.toy import CLIENTS, toy_spec

pytest.importorskip("ray")


def tensors(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


@pytest.mark.filterwarnings("ignore")
def test_ray_trains_and_captures_what_the_local_engine_does(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"training": Training(local_steps=2, train_mode=True), "fraction": 0.75}
    results = {}
    for engine in ("local", "ray"):
        results[engine] = run_federation(
            toy_spec(engine=engine, **spec),
            defense=defenses.create("topk:0.5+dp"),  # what clients remember must survive between rounds
            defense_slug="dp",
            out=tmp_path / engine,
        )
    assert len(list_captures(tmp_path / "ray" / "captures", "dp")) == 2 * 3
    assert results["ray"].participation == results["local"].participation
    assert results["ray"].truth_unavailable == ()
    # Same seeds, same order of sums: the same federation, on this machine to the bit.
    truth = [tensors(tmp_path / engine / "truth" / "dp") for engine in ("local", "ray")]
    assert truth[0] == truth[1]
    for name, tensor in results["local"].weights.items():
        np.testing.assert_allclose(results["ray"].weights[name].numpy(), tensor.numpy(), rtol=1e-5, atol=1e-6)
    assert len(results["ray"].rounds[-1].client_accuracy) == CLIENTS
