"""brokenexit: A Flower app whose clients exit."""
