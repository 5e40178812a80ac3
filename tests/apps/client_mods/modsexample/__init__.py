"""modsexample: A Flower / PyTorch app with mods."""
