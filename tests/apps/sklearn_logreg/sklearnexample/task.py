"""sklearnexample: A Flower / scikit-learn app."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

NDArrays = list[npt.NDArray[np.float64]]
NDArray = npt.NDArray[Any]

# This information is needed to create a correct scikit-learn model
NUM_UNIQUE_LABELS = 10  # Ten digits
NUM_FEATURES = 64  # Pixels of an 8x8 digit


def get_model_parameters(model: LogisticRegression) -> NDArrays:
    """Return the parameters of a scikit-learn LogisticRegression model."""
    if model.fit_intercept:
        return [model.coef_, model.intercept_]
    return [model.coef_]


def set_model_params(model: LogisticRegression, params: NDArrays) -> LogisticRegression:
    """Set the parameters of a scikit-learn LogisticRegression model."""
    model.coef_ = params[0]
    if model.fit_intercept:
        model.intercept_ = params[1]
    return model


def set_initial_params(model: LogisticRegression) -> None:
    """Set initial parameters as zeros.

    Required since model params are uninitialized until model.fit is called,
    but the server asks for initial parameters at launch.
    """
    model.classes_ = np.arange(NUM_UNIQUE_LABELS)
    model.coef_ = np.zeros((NUM_UNIQUE_LABELS, NUM_FEATURES))
    if model.fit_intercept:
        model.intercept_ = np.zeros((NUM_UNIQUE_LABELS,))


def create_log_reg_and_instantiate_parameters(c: float, local_epochs: int) -> LogisticRegression:
    """Create a LogisticRegression model with parameters of zero."""
    model = LogisticRegression(
        C=c,
        max_iter=local_epochs,
        warm_start=True,  # prevent refreshing weights when fitting,
        solver="saga",
    )
    # Setting initial parameters, akin to model.compile for keras models
    set_initial_params(model)
    return model


def load_data(partition_id: int, num_partitions: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Load one partition of the digits: 80% train, 20% test."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(42).permutation(len(x))[partition_id::num_partitions]
    x, y = x[order] / 16.0, y[order]
    split = int(0.8 * len(x))
    return x[:split], x[split:], y[:split], y[split:]
