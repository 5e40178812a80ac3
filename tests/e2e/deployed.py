"""What tests of engines share: one app, and the same captures by another engine."""

from pathlib import Path
from typing import Any

import torch

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.federation.apps import AppJob, AppOutcome, read_app, run_app
from tests.e2e.apps import SERVER, write_app

TRAINING_ONLY = SERVER.replace("fraction_evaluate=1.0", "fraction_evaluate=0.0")
"""A process of a SuperNode for each message takes seconds: none is spent on evaluation."""


def federate(app: Path, out: Path, **changes: Any) -> AppOutcome:
    """Run the app once, without attack and grading."""
    told = read_app(app, [], clients=2)
    values: dict[str, Any] = {
        "folder": "",
        "code": str(app),
        "server": told.server,
        "client": told.client,
        "config": told.config,
        "clients": told.clients,
        "seed": 1,
        "defense": "none",
        "slug": "none",
        "out": str(out),
        "rounds": None,
        "attacked": None,
        "timeout": 120.0,
        "disk": 10**9,
    }
    return run_app(AppJob.model_validate(values | changes), out / "process", lambda number: None)


def app_of_two_clients(root: Path, package: str, **changes: Any) -> Path:
    return write_app(root, package=package, **({"server": TRAINING_ONLY} | changes))


def agree(ours: Path, theirs: Path, *, truth: bool) -> None:
    """The same updates of the same clients in the same rounds, to the rounding of sums; the same truth."""
    keys = list_captures(theirs / "captures", "none")
    assert keys
    assert list_captures(ours / "captures", "none") == keys
    for key in keys:
        mine, other = read_update(ours / "captures", key), read_update(theirs / "captures", key)
        assert mine.error is None
        for here, there in ((mine.sent, other.sent), (mine.received, other.received)):
            assert list(here) == list(there)
            for name, tensor in here.items():
                torch.testing.assert_close(tensor, there[name], rtol=1e-5, atol=1e-6)
        if truth:
            seen, known = read_truth(ours / "truth", key), read_truth(theirs / "truth", key)
            torch.testing.assert_close(seen.images, known.images, rtol=0, atol=1e-6)
            assert torch.equal(seen.labels, known.labels)
            assert seen.training == known.training
