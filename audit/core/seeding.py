"""Seeds: every random choice of the audit comes from a generator derived from (run seed, who, when)."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from ``parts``, e.g. ``derive_seed(run_seed, "attack", 3, 2)``; stable everywhere."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive_seed`. Draw on the CPU and move: the same on every device."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))


@contextlib.contextmanager
def seeded_globals(*parts: int | str) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch inside the block, and restore them after.

    Flower samples nodes with ``random`` and draws noise with ``numpy.random``; PyTorch layers start
    from torch's global generator. Nothing of ours draws from them.
    """
    seed = derive_seed(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # the same, without the traces that torch collects for devices that are not there
            torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
