"""An existing Flower app, audited with one line: the one that says ``audited``.

The app below is what a team has already: a model, a client app that trains it, a server app with a strategy
of their own. `main` runs it in this process and then attacks what the server saw in round 1.

    python examples/your_own_strategy.py

It prints (and writes the digit of each client beside its reconstruction to ``your-own-strategy/``):

    client 0: the server saw 4 arrays; the attack inferred label 4
    client 1: the server saw 4 arrays; the attack inferred label 0
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from fl_audit.strategies import audited

OUT = Path("your-own-strategy")


# ---- the team's own app -----------------------------------------------------------------------------------


def make_model() -> nn.Module:
    """The team's model: 8x8 grey digits in [0, 1] to 10 classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def digit_of(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The private image of a client, ``(1, 1, 8, 8)`` in [0, 1], and its label, ``(1,)``."""
    digits = load_digits()
    row = 100 + client
    image = torch.tensor(digits.images[row], dtype=torch.float32)[None, None] / 16
    return image, torch.tensor([int(digits.target[row])])


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One SGD step on the client's image."""
    model = make_model()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    image, label = digit_of(int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = cross_entropy(model(image), label)
    torch.autograd.backward(loss)
    optimizer.step()
    metrics = MetricRecord({"num-examples": len(image), "loss": loss.item()})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )


class OurStrategy(FedAvg):
    """The team's strategy: FedAvg whose learning rate the server announces."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg, with the rate announced."""
        config["announced-lr"] = 0.1
        return super().configure_train(server_round, arrays, config, grid)


server_app = ServerApp()


@server_app.main()
def main_of_the_server(grid: Grid, context: Context) -> None:
    """Two rounds with the team's strategy."""
    del context
    strategy = OurStrategy(fraction_evaluate=0.0)
    strategy = audited(strategy, out=OUT)  # <- the one line
    strategy.start(grid=grid, initial_arrays=ArrayRecord(make_model().state_dict()), num_rounds=2)


# ---- what the server could make of it ---------------------------------------------------------------------


def main() -> None:
    """Run the federation, then attack both clients' updates of round 1."""
    from fl_audit.attacks import attacks
    from fl_audit.core.captures import list_captures, read_update
    from fl_audit.core.images import write_png
    from fl_audit.core.knowledge import Knowledge
    from fl_audit.federation import run_local

    run_local(server_app, client_app, clients=2, seed=0)
    attack = attacks.create("inverting-gradients:iterations=300")
    knows = Knowledge("B", model=make_model(), loss="cross-entropy", num_classes=10, image_shape=(1, 8, 8))
    for key in list_captures(OUT / "captures", "none"):
        if key.round == 1:
            update = read_update(OUT / "captures", key)
            result = attack.run(update, knows, seed=0, device=torch.device("cpu"))
            if result.images is None or result.labels is None:
                print(f"client {key.client}: the attack failed: {result.reason}")
                continue
            write_png(OUT / f"client-{key.client}_ori.png", digit_of(key.client)[0][0])
            write_png(OUT / f"client-{key.client}_rec.png", result.images[0])
            print(
                f"client {key.client}: the server saw {len(update.received)} arrays; "
                f"the attack inferred label {int(result.labels[0])}"
            )


if __name__ == "__main__":
    main()
