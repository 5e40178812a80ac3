"""pytorchexample: A Flower app that leaves traces (and keeps the name of the template's package)."""
