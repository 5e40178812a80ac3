# mypy: disable-error-code="import-not-found"
"""oneimage: A Flower / PyTorch app that takes one small step a round."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from oneimage.task import make_net

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging (the entry point for the ServerApp)."""
    net = make_net(str(context.run_config["model"]))
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
