"""oneimage: A Flower / PyTorch app that takes one small step a round."""
