# mypy: disable-error-code="import-not-found"
"""modsexample: A Flower / PyTorch app with mods."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from modsexample.task import Net

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging with central differential privacy."""
    strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(fraction_train=float(context.run_config["fraction-train"])),
        noise_multiplier=float(context.run_config["noise-multiplier"]),
        clipping_norm=float(context.run_config["clipping-norm"]),
        num_sampled_clients=int(context.run_config["num-sampled-clients"]),
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
