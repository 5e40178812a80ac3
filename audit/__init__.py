"""fl-audit: measure what an honest-but-curious server can reconstruct from federated-learning updates."""

__version__ = "0.1.0"
