"""What an app does to protect its updates by itself is found and named; nothing is claimed beyond that."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fl_audit.federation.apps.protections import mods_of, of_mods, of_strategies, of_training
from tests.e2e.apps import CLIENT, SERVER, write_app
from tests.federation.test_apps import run


def own_mod(message: Message, context: Context, call_next: Any) -> Message:
    answer: Message = call_next(message, context)
    return answer


def test_mods_are_found_wherever_flower_takes_them_and_in_their_order() -> None:
    """Flower's closures are its own affair: this test says when they change."""
    app = ClientApp(mods=[arrays_size_mod])
    private = LocalDpMod(1.0, 0.5, 10.0, 1e-5)

    @app.train(mods=[private, own_mod])
    def train(message: Message, context: Context) -> Message:
        return message

    @app.train("other", mods=[fixedclipping_mod])
    def other(message: Message, context: Context) -> Message:
        return message

    @app.evaluate(mods=[secaggplus_mod])
    def evaluate(message: Message, context: Context) -> Message:
        return message

    assert mods_of(app) == [arrays_size_mod, private, own_mod, fixedclipping_mod]
    found = of_mods(app)
    assert [one.name for one in found] == ["LocalDpMod", "own_mod", "fixedclipping_mod"]
    assert "clipping_norm = 1, sensitivity = 0.5, epsilon = 10, delta = 1e-05" in found[0].detail
    assert "not known" in found[1].detail
    assert of_mods(ClientApp()) == []


def test_mods_of_the_older_api_are_found() -> None:
    def client_fn(context: Context) -> Any:
        return NumPyClient().to_client()

    (found,) = of_mods(ClientApp(client_fn=client_fn, mods=[secaggplus_mod]))
    assert found.name == "SecAgg+"
    assert "the sum of a round's updates" in found.detail


def test_flowers_central_privacy_is_found_while_it_lives() -> None:
    before = of_strategies()
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.5, 2.0, 7)
    (found,) = [one for one in of_strategies() if one not in before]
    assert found.name == type(strategy).__name__
    assert "not against the server" in found.detail
    assert "noise_multiplier = 0.5, clipping_norm = 2, num_sampled_clients = 7" in found.detail


def test_opacus_is_found_in_an_app_and_only_where_it_is(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    assert of_training() == []
    private = CLIENT.replace(
        "    images, labels = next(iter(loader))",
        "    from opacus import PrivacyEngine\n"
        "    whole, model = model, model\n"
        "    model, optimizer, loader = PrivacyEngine().make_private(module=model, optimizer=optimizer, "
        "data_loader=loader, noise_multiplier=1.5, max_grad_norm=0.25, poisson_sampling=False)\n"
        "    images, labels = next(iter(loader))",
    ).replace("ArrayRecord(model.state_dict())", "ArrayRecord(whole.state_dict())")
    mods = (
        "from flwr.clientapp.mod import LocalDpMod\napp = ClientApp(mods=[LocalDpMod(1.0, 0.1, 9.0, 1e-5)])"
    )
    server = SERVER.replace(
        "    strategy.start(",
        "    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as Central\n"
        "    strategy = Central(strategy, 0.1, 1.0, 2)\n    strategy.start(",
    )
    app = write_app(
        tmp_path, package="careful", client=private.replace("app = ClientApp()", mods), server=server
    )
    outcome = run(app, tmp_path / "out")
    assert outcome.failure is None, outcome.failure
    assert [(one.name, one.kind) for one in outcome.own] == [
        ("LocalDpMod", "mod"),
        ("DifferentialPrivacyServerSideFixedClipping", "strategy"),
        ("Opacus DP-SGD", "training"),
    ]
    assert "noise_multiplier = 1.5, max_grad_norm = 0.25" in outcome.own[2].detail
    assert run(write_app(tmp_path / "plain", package="bare"), tmp_path / "bare").own == []
