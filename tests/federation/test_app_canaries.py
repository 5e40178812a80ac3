"""What reading app folders takes for granted about Flower, and watching apps about PyTorch."""

from pathlib import Path

import pytest
import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch import nn
from torchvision.transforms import Normalize, v2

from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps.origin import norm_of
from fl_audit.federation.overlay.servers import POLLING
from tests.e2e.apps import PYPROJECT, write_app


def test_overrides_are_parsed_and_fused_as_flwr_run_does_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(package="tiny"))
    fused = flower.run_config(tmp_path, ["lr=0.5 batch=4", "num-server-rounds=2"])
    assert fused == {"num-server-rounds": 2, "lr": 0.5, "batch": 4}
    override = tmp_path / "more.toml"
    override.write_text("lr = 7.0\n")
    assert flower.run_config(tmp_path, [str(override)])["lr"] == 7.0
    with pytest.raises(ValueError, match="not present in the main dictionary"):
        flower.run_config(tmp_path, ["other=1"])
    with pytest.raises(flower.NotKeyValue):
        flower.run_config(tmp_path, ["lr=[["])


def test_the_default_number_of_supernodes_is_flowers() -> None:
    assert flower.DEFAULT_SUPERNODES == 2


def test_components_are_loaded_by_reference_and_their_kind_is_checked(tmp_path: Path) -> None:
    import sys

    app = write_app(tmp_path, package="canary_app")
    before = list(sys.path)
    try:
        assert isinstance(flower.load_component("canary_app.server:app", ServerApp, app), ServerApp)
        with pytest.raises(ValueError, match="expected a ServerApp"):
            flower.load_component("canary_app.client:app", ServerApp, app)
        with pytest.raises(ValueError, match="Unable to load attribute"):
            flower.load_component("canary_app.client:nothing", ClientApp, app)
    finally:
        sys.path[:] = before


@pytest.mark.parametrize("kind", [Normalize, v2.Normalize])
def test_normalisations_of_torchvision_are_modules_with_mean_and_std(kind: type[nn.Module]) -> None:
    module = kind([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert norm_of(module) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    seen = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: seen.append(module))
    try:
        module(torch.rand(3, 2, 2))
    finally:
        hook.remove()
    assert seen == [module]


def test_what_engine_flwr_takes_for_granted_about_flowers_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.cli.utils import SUPERLINK_UNAVAILABLE_MESSAGE
    from flwr.supercore.superexec import run_superexec
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    bound = ["--insecure", "--host", "127.0.0.1", "--port", "9"]
    assert _parse_args_run_superlink().parse_args([*bound, "--simulation"]).simulation is True
    given = _parse_args_run_supernode().parse_args([*bound, "--superlink", "a:1", "--node-config", "k=1"])
    assert (given.superlink, given.node_config) == ("a:1", "k=1")
    assert "SuperLink is unavailable" in SUPERLINK_UNAVAILABLE_MESSAGE
    (name,) = POLLING
    monkeypatch.setenv(name, POLLING[name])
    assert vars(run_superexec)["_get_task_poll_interval"]() == float(POLLING[name])
