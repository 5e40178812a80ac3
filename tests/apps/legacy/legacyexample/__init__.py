"""legacyexample: A Flower / PyTorch app."""
