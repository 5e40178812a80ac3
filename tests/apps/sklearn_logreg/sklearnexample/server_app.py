# mypy: disable-error-code="import-not-found"
"""sklearnexample: A Flower / scikit-learn app."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from sklearnexample.task import create_log_reg_and_instantiate_parameters, get_model_parameters

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging (the entry point for the ServerApp)."""
    # Create LogisticRegression Model
    model = create_log_reg_and_instantiate_parameters(
        float(context.run_config["inverse-regularisation"]), int(context.run_config["local-epochs"])
    )
    arrays = ArrayRecord(get_model_parameters(model))

    # Initialize FedAvg strategy and start it
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(context.run_config["num-server-rounds"]))
