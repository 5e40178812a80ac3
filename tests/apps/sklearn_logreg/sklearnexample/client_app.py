# mypy: disable-error-code="import-not-found"
"""sklearnexample: A Flower / scikit-learn app."""

import warnings

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from sklearnexample.task import (
    create_log_reg_and_instantiate_parameters,
    get_model_parameters,
    load_data,
    set_model_params,
)

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on local data."""
    # Create LogisticRegression Model
    model = create_log_reg_and_instantiate_parameters(
        float(context.run_config["inverse-regularisation"]), int(context.run_config["local-epochs"])
    )
    # Apply received parameters
    set_model_params(model, msg.content.array_records["arrays"].to_numpy_ndarrays())

    # Load the data
    x_train, _, y_train, _ = load_data(
        int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    )

    # Ignore convergence failure due to low local epochs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x_train, y_train)
    train_loss = float(log_loss(y_train, model.predict_proba(x_train), labels=model.classes_))

    # Construct and return reply Message
    metrics = MetricRecord({"num-examples": len(x_train), "train_logloss": train_loss})
    content = RecordDict({"arrays": ArrayRecord(get_model_parameters(model)), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on test data."""
    model = create_log_reg_and_instantiate_parameters(
        float(context.run_config["inverse-regularisation"]), int(context.run_config["local-epochs"])
    )
    set_model_params(model, msg.content.array_records["arrays"].to_numpy_ndarrays())

    _, x_test, _, y_test = load_data(
        int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    )
    metrics = MetricRecord(
        {
            "num-examples": len(x_test),
            "test_logloss": float(log_loss(y_test, model.predict_proba(x_test), labels=model.classes_)),
            "accuracy": float(model.score(x_test, y_test)),
        }
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
