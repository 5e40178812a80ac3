"""Running one federation under one defense, from a spec to captures and truth on disk."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.clientapp import ClientApp
from torch import nn

from fl_audit.core.defended import DefendedModel
from fl_audit.core.errors import ConfigError
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.units import Defense
from fl_audit.federation._env import flower_home
from fl_audit.federation._ledger import Ledger
from fl_audit.federation._shared import Shared
from fl_audit.federation.client_app import make_client_app
from fl_audit.federation.flower_strategies import defended_strategy
from fl_audit.federation.local_engine import run_local
from fl_audit.federation.ray_engine import run_ray
from fl_audit.federation.server_app import make_server_app, quiet_flower
from fl_audit.federation.spec import FederationResult, FederationSpec
from fl_audit.federation.wrapped import WrappedClientApp
from fl_audit.strategies.central import weighted_by
from fl_audit.strategies.recorder import Recorder


def run_federation(
    spec: FederationSpec,
    *,
    defense: Defense,
    defense_slug: str,
    out: Path,
    progress: Progress | None = None,
    attack_filter: Callable[[int, int], bool] | None = None,
    attack_clients: int | None = None,
    client_app: ClientApp | None = None,
) -> FederationResult:
    """Train a federation; its captures go to ``out/captures/SLUG``, the sealed truth to ``out/truth/SLUG``.

    Args:
        spec: the federation, as it is configured: what the defense changes of it is changed here.
        defense: what every client does in its training and to its update before it leaves, or the server with
            what it gets.
        defense_slug: folder name for this defense.
        out: run folder.
        progress: display; it is told of each finished round, stage and label are the caller's.
        attack_filter: says for (round, client) whether capture and truth are kept; None keeps all. Where
            updates are aggregated, a round's capture is the mean of those kept: keep all of a round or none.
        attack_clients: most clients whose capture and truth are kept in a round: of those that take part in
            it, the ones with the lowest numbers; None, as where updates are aggregated: all of them.
        client_app: a client app to run in place of ours; it gets the model's state dict as Flower's
            ``arrays`` and answers as Flower's strategies expect.

    Returns:
        Utility, failures, participation and the final model.

    Raises:
        ConfigError: the strategy is unknown, does not take its parameters or does not go with the defense; or
            the defense acts on the training of our own client app and another one is given.
        FederationError: every client failed in a round, or the engine failed.
    """
    if client_app is not None and defense.acts_on_training:
        raise ConfigError(
            f"defense {defense.name!r} acts inside local training, which is the app's own here. Choose one "
            "that acts on the update, e.g. dp, or write it into the app"
        )
    progress = progress or Progress()
    spec = under(spec, defense)
    strategy = defended_strategy(
        spec.strategy,
        defense,
        clients=spec.clients,
        fraction=spec.fraction,
        evaluate=client_app is not None or any(len(rows) for rows in spec.splits.test),
        learning_rate=spec.training.learning_rate,
    )
    model = initial_model(spec)
    ledger = Ledger(spec, out / "truth")
    recorder = Recorder(
        out,
        defense=defense_slug,
        keep=attack_filter,
        clients=attack_clients,
        aggregate=defense.aggregates,
        weighted_by=weighted_by(strategy),
        equal_weights=defense.equal_weights,
    )
    stop = threading.Event() if spec.engine == "ray" else None
    inner = client_app or make_client_app(Shared(spec), defense)
    client = WrappedClientApp(inner, defense, seed=spec.seed, keep=attack_filter)
    server = make_server_app(
        spec, strategy, model, recorder=recorder, ledger=ledger, progress=progress, stop=stop
    )
    with quiet_flower(), flower_home(out / "flower"):
        if stop is None:
            run_local(server, client, clients=spec.clients, seed=spec.seed)
        else:
            run_ray(
                server,
                client,
                clients=spec.clients,
                cpus=spec.client_cpus,
                gpus=spec.client_gpus,
                address=spec.ray_address,
                stop=stop,
            )
    recorder.drain()
    return FederationResult(
        rounds=tuple(ledger.utility),
        failures=tuple(sorted(ledger.failures, key=lambda failure: (failure.round, failure.client))),
        participation={client: ledger.participation[client] for client in range(spec.clients)},
        truth_unavailable=tuple(ledger.truth_unavailable),
        weights={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
    )


def under(spec: FederationSpec, defense: Defense) -> FederationSpec:
    """The same federation with the architecture and the settings that it has under ``defense``."""
    return replace(
        spec,
        model=DefendedModel(base=spec.model, defense=defense),
        training=defense.training(spec.training),
    )


def initial_model(spec: FederationSpec) -> nn.Module:
    """The model that round 1 starts from: the same for every defense of a run with this architecture."""
    with seeded_globals(spec.seed, "model"):
        model = spec.model.build(spec.data.image_shape, len(spec.data.classes))
    return model.to(torch.device(spec.device))
