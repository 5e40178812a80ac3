"""brokenexit: A Flower app whose clients exit."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging (the entry point for the ServerApp)."""
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(8, dtype=np.float32)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
