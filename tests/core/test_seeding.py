import random

import numpy as np
import torch

from fl_audit.core.seeding import derive_seed, numpy_generator, seeded_globals, torch_generator


def test_seeds_differ_by_every_part_and_by_type() -> None:
    seeds = {
        derive_seed(0, "a"),
        derive_seed(1, "a"),
        derive_seed(0, "b"),
        derive_seed("0", "a"),
        derive_seed(0),
    }
    assert len(seeds) == 5
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat() -> None:
    assert torch.equal(
        torch.rand(4, generator=torch_generator(7)), torch.rand(4, generator=torch_generator(7))
    )
    assert numpy_generator(7).integers(0, 1000) == numpy_generator(7).integers(0, 1000)


def test_seeded_globals_restore_what_was() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(())))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with seeded_globals(5):
        first = (random.random(), float(np.random.rand()), float(torch.rand(())))
    with seeded_globals(5):
        assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == first
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected
