"""nocomponents: A Flower app whose pyproject.toml names no components."""
