# mypy: disable-error-code="import-not-found"
"""secaggexample: A Flower with SecAgg+ app."""

from flwr.common import Context, Metrics, ndarrays_to_parameters
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from secaggexample.task import get_weights, make_net


# Define metric aggregation function
def weighted_average(metrics: list[tuple[int, Metrics]]) -> Metrics:
    """Weight the accuracy of each client by its number of examples."""
    accuracies = [num_examples * float(m["accuracy"]) for num_examples, m in metrics]
    examples = [num_examples for num_examples, _ in metrics]
    return {"accuracy": sum(accuracies) / sum(examples)}


# Flower ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging with secure aggregation."""
    # Get initial parameters
    parameters = ndarrays_to_parameters(get_weights(make_net()))

    # Define strategy
    strategy = FedAvg(
        fraction_fit=1.0,  # Select all available clients
        min_fit_clients=3,
        min_available_clients=3,
        fraction_evaluate=float(context.run_config["fraction-evaluate"]),
        evaluate_metrics_aggregation_fn=weighted_average,
        initial_parameters=parameters,
    )

    # Construct the LegacyContext
    num_rounds = int(context.run_config["num-server-rounds"])
    legacy_context = LegacyContext(
        context=context, config=ServerConfig(num_rounds=num_rounds), strategy=strategy
    )

    # Create fit workflow
    fit_workflow = SecAggPlusWorkflow(
        num_shares=int(context.run_config["num-shares"]),
        reconstruction_threshold=int(context.run_config["reconstruction-threshold"]),
        max_weight=float(context.run_config["max-weight"]),
    )

    # Create the workflow and execute it
    workflow = DefaultWorkflow(fit_workflow=fit_workflow)
    workflow(grid, legacy_context)
