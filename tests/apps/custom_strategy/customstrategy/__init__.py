"""customstrategy: A Flower / PyTorch app with its own strategy."""
