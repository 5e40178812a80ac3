"""Our Flower ClientApp: trains a model of the zoo on this client's part of the data."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fl_audit.core.seeding import seeded_globals, torch_generator
from fl_audit.core.training import TrainingHooks
from fl_audit.federation._shared import Shared
from fl_audit.federation.spec import FederationSpec
from fl_audit.federation.training import evaluate, train


def make_client_app(shared: Shared[FederationSpec], defense: TrainingHooks | None = None) -> ClientApp:
    """The app that every client runs; ``partition-id`` of its node says which client it is.

    Args:
        shared: the federation; architecture and settings are those under the defense.
        defense: acts on local training; None: nothing does.
    """
    hooks = defense or TrainingHooks()
    app = ClientApp()

    @app.train()
    def train_round(message: Message, context: Context) -> Message:
        spec, client = shared.value, int(context.node_config["partition-id"])
        config = config_of(message)
        number, mu = config.get("server-round", 0), config.get("proximal-mu", 0.0)
        if not isinstance(number, int) or not isinstance(mu, int | float):
            raise TypeError(f"expected numbers for server-round and proximal-mu, got {number!r} and {mu!r}")
        rows = spec.train_indices(client)
        with seeded_globals(spec.seed, "client", number, client):  # dropout draws from the global generator
            model = _model(spec, message)
            trained = train(
                model,
                spec.data.images[rows].to(spec.device),
                spec.data.labels[rows].to(spec.device),
                spec.training,
                torch_generator(spec.seed, "batches", number, client),
                num_classes=len(spec.data.classes),
                defense=hooks,
                rng=torch_generator(spec.seed, "local-defense", number, client),
                proximal_mu=float(mu),
            )
        metrics = MetricRecord({"num-examples": trained.images})
        if trained.loss is not None:
            metrics["train_loss"] = trained.loss
        return Message(
            RecordDict({"arrays": ArrayRecord(model.cpu().state_dict()), "metrics": metrics}),
            reply_to=message,
        )

    @app.evaluate()
    def evaluate_round(message: Message, context: Context) -> Message:
        spec, client = shared.value, int(context.node_config["partition-id"])
        rows = spec.splits.test[client]
        if not len(rows):
            raise ValueError("this client has no test images")
        with seeded_globals(spec.seed, "evaluate", client):
            model = _model(spec, message)
        accuracy, loss = evaluate(
            model, spec.data.images[rows].to(spec.device), spec.data.labels[rows].to(spec.device)
        )
        metrics = MetricRecord({"num-examples": len(rows), "accuracy": accuracy, "loss": loss})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def config_of(message: Message) -> ConfigRecord:
    """The config that came with a message; empty if there is none."""
    return next(iter(message.content.config_records.values()), ConfigRecord())


def _model(spec: FederationSpec, message: Message) -> nn.Module:
    """The architecture with the weights of ``message``."""
    model = spec.model.build(spec.data.image_shape, len(spec.data.classes))
    arrays = next(iter(message.content.array_records.values()))
    model.load_state_dict(arrays.to_torch_state_dict(), strict=True)
    return model.to(torch.device(spec.device))
