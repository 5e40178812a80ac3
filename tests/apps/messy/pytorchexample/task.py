# mypy: disable-error-code="import-not-found"
"""pytorchexample: A Flower app that leaves traces (and keeps the name of the template's package)."""

from task import Net, load_data, train

__all__ = ["Net", "load_data", "train"]
